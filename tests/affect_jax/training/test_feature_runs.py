"""Runs on stored features: they learn, resume, are compared, and draw what needs no image."""

import logging
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

import affect_jax
from affect_jax import batches, data_record, export, runtime, systems
from affect_jax.config import ConfigError
from affect_jax.data_record import DataChanged
from affect_jax.errors import UserError
from affect_jax.evaluation import baseline, predictions
from affect_jax.experiments import evaluate, sweep, train_run
from affect_jax.report.pictures import write_pictures
from affect_jax.runtime.parallel import MAPPINGS, Mapper
from affect_jax.training import loop, step
from affect_jax.weights.teacher import load_teacher
from tests.affect_jax import feature_runs, tiny
from tests.data_pipelines import made_features


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return made_features.save(tmp_path_factory.mktemp("features") / "f.npz")


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    """A finished run with its report."""
    workdir = tmp_path_factory.mktemp("run")
    config = feature_runs.config(path, report__pictures=True, report__faces=4, eval__calibrate=True)
    config.optimizer.schedule = "constant"
    said = logging.getLogger("affect_jax.training.final_test")
    lines, level = [], said.level
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    said.addHandler(handler)
    said.setLevel(logging.INFO)
    try:
        train_run.train_run(config, workdir)
    finally:
        said.removeHandler(handler)
        said.setLevel(level)
    assert lines == ["the data are features, so the report shows no faces"]
    return config, workdir


def rows(workdir):
    clock = {"time", "images_per_second", "input_wait_share"}
    return [{k: v for k, v in r.items() if k not in clock} for r in runtime.read_metrics(workdir)]


def test_a_linear_probe_learns(run):
    _, workdir = run
    found = {row["split"]: row for row in rows(workdir)}
    final = found["test"]
    assert final["final"] and final["accuracy"] == 1.0 and final["images"] == 24
    assert final["nll"] < 0.5 and found["test_temperature"]["accuracy"] == 1.0
    assert "test_mirror" not in found and "test_flip" not in found
    stored = predictions.load(workdir / "report")
    assert "face_image" not in stored and stored["source"][3].endswith("test 3 (test/3.png)")
    report = (workdir / "report" / "results.md").read_text()
    assert "stored features" in report and "image size" not in report
    assert (workdir / "report" / "confusion_matrix.png").exists()
    assert not (workdir / "report" / "faces.png").exists()


def test_a_resumed_run_repeats_an_uninterrupted_one(run, tmp_path):
    config, workdir = run
    half = config.copy_and_resolve_references()
    half.num_steps, half.report.pictures = 7, False
    loop.train_and_evaluate(half, tmp_path)
    half.num_steps = config.num_steps
    # The same data in another place.
    half.data.features = str(shutil.copy(config.data.features, tmp_path / "moved.npz"))
    loop.train_and_evaluate(half, tmp_path)
    whole = [row for row in rows(workdir) if row["split"] in ("train", "epoch")]
    resumed = [row for row in rows(tmp_path) if row["split"] in ("train", "epoch")]
    assert [r["step"] for r in whole if r["split"] == "train"] == list(range(1, 21))
    assert resumed == whole
    (last,) = [r for r in rows(workdir) if r["split"] == "validation" and r["step"] == 20]
    assert [r for r in rows(tmp_path) if r["split"] == "validation"][-1] == last


def test_changed_features_are_not_resumed_on(run, tmp_path):
    config, workdir = run
    content = made_features.arrays()
    content["train/features"] = content["train/features"] * np.float32(1.001)
    other = config.copy_and_resolve_references()
    other.data.features = made_features.save(tmp_path / "f.npz", content)
    with pytest.raises(DataChanged, match=r"'train/0.png': features: has changed \(47 more"):
        loop.train_and_evaluate(other, workdir)


def test_other_noise_is_another_config(run):
    config, workdir = run
    noisy = config.copy_and_resolve_references()
    noisy.data.features_noise = 0.3
    with pytest.raises(ConfigError, match=r"data\.features_noise: there 0\.0, now 0\.3"):
        loop.train_and_evaluate(noisy, workdir)


def test_a_run_is_evaluated_on_a_split(run):
    config, workdir = run
    asked = config.copy_and_resolve_references()
    asked.eval.split = "validation"
    found = evaluate.evaluate(asked, workdir)
    assert found.images == 16 and found.flip is None
    best = runtime.read_metrics(workdir)[-1]["checkpoint"]
    (row,) = [r for r in rows(workdir) if r["split"] == "validation" and r["step"] == best]
    assert found.metrics["nll"] == pytest.approx(row["nll"], rel=1e-6)


def test_pictures_of_faces_are_left_out(run, tmp_path, caplog):
    _, workdir = run
    with caplog.at_level(logging.INFO):
        files = write_pictures(workdir, ["cam", "calibration", "confusion"], output=tmp_path)
    assert caplog.text.count("left out: cam (stored features are not images)") == 1
    assert {f.stem for f in files} == {"calibration", "confusion"}
    assert "flip-averaged" not in (tmp_path / "calibration.json").read_text()
    with pytest.raises(UserError, match=r"cam, attention \(stored features are not images\)"):
        write_pictures(workdir, ["cam", "attention"], output=tmp_path)


def test_the_pixel_baseline_says_what_to_do(run):
    config, _ = run
    with pytest.raises(UserError, match=r"linear models of images.*linear_probe\.py"):
        baseline.measure(config)


def test_an_exported_head_gives_outputs_for_features(run, path, tmp_path):
    config, workdir = run
    export.export(workdir, tmp_path / "model")
    model = affect_jax.load(tmp_path / "model")
    features = made_features.arrays()["test/features"]
    logits = model.outputs(features)["logits"]
    stored = predictions.load(workdir / "report")
    np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"use \.outputs\(batch\) of float32 \[B, 8\]"):
        model.predict(np.zeros((8, 8, 3), np.uint8))
    for wrong in (features[:, :7], features[0], np.zeros((1, 8, 8, 3), np.float32)):
        with pytest.raises(UserError, match=r"batch must be features \[B, 8\]"):
            model.outputs(wrong)
    with pytest.raises(UserError, match="batch is uint8; give float32"):
        model.outputs(features.astype(np.uint8))
    asked = config.copy_and_resolve_references()
    asked.init_from = str(tmp_path / "model")
    assert evaluate.evaluate(asked, tmp_path / "results").metrics["accuracy"] == 1.0
    teacher = load_teacher(
        str(tmp_path / "model"), Mapper(), made_features.CLASSES, frozenset({"expression"}), 8
    )
    assert teacher.teaches == {"expression"}
    with pytest.raises(UserError, match="takes vectors of 8 features, and the data are images"):
        load_teacher(
            str(tmp_path / "model"), Mapper(), made_features.CLASSES, frozenset({"expression"})
        )


def test_models_and_data_must_fit(path):
    config = feature_runs.config(path)
    images = tiny.one_block()
    with pytest.raises(ConfigError, match="'vit_ti16' takes images, and the data are vectors of 8"):
        config.model = images.model
        systems.for_source(config, batches.make_sources(config)["train"]).create_model(
            nnx.Rngs(0), None
        )
    images.model = feature_runs.config(path).model
    images.system = "classifier"
    with pytest.raises(ConfigError, match="'features' takes stored features, and the data are im"):
        systems.for_source(images, batches.make_sources(images)["train"]).create_model(
            nnx.Rngs(0), None
        )


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_eight_devices_equal_one(mapping, path):
    config = feature_runs.config(path, optimizer__name="sgd", optimizer__weight_decay=0.0)
    config.model.dtype = "float64"
    source = batches.make_sources(config)["train"]
    with jax.enable_x64(True), batches.train_batches(config, source, 0) as pipeline:
        batch = next(pipeline)
        found = []
        for mapper in (Mapper("pmap", jax.devices()[:1]), Mapper(mapping)):
            system = systems.for_source(config, source)
            model = system.create_model(nnx.Rngs(0), "data")
            begun = step.Phases(system, model, mapper, 10, 3).begin(system.phases(10)[0])
            state = mapper.replicate(step.Phases(system, model, mapper, 10, 3).fresh_state(begun))
            state, terms = begun.run(state, mapper.place(batch))
            found.append((jax.device_get(state["params"]), jax.device_get(terms)))
    (one, one_terms), (eight, eight_terms) = found
    np.testing.assert_allclose(eight_terms["loss"], one_terms["loss"], rtol=1e-6)
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_sweep_over_noise(path, tmp_path):
    file = tmp_path / "noise.py"
    file.write_text(f"""
from tests.affect_jax import feature_runs

def get_config():
    return feature_runs.config({path!r}, num_steps=4, eval_every=4)

def get_sweep(config):
    rows = {{"clean": {{}}, "noise": {{"data.features_noise": 0.4}}}}
    return {{"rows": rows, "reference": "clean", "seeds": (0, 1), "columns": ("accuracy", "nll")}}
""")
    config = feature_runs.config(path, num_steps=4, eval_every=4)
    assert sweep.run(config, tmp_path / "w", file) == 0
    table = (tmp_path / "w" / "report" / "table.md").read_text()
    assert "| clean | 2 |" in table and "| noise | 2 |" in table
    final = {
        folder.name: runtime.read_metrics(folder)[-1]
        for folder in sorted((tmp_path / "w").glob("*/seed*"))
    }
    assert all(row["final"] for row in final.values())
    records = [data_record.digest(p.parent) for p in (tmp_path / "w").rglob("data.json")]
    assert len(records) == 4 and len(set(records)) == 2
