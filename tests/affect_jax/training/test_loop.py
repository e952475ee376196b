"""The loop as a user meets it: one call trains, tests and reports; mistakes end before training."""

import json
import shutil

import jax
import numpy as np
import pytest

import affect_jax
from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import export, runtime
from affect_jax.errors import UserError
from affect_jax.evaluation import evaluator
from affect_jax.experiments import evaluate_run, train_run
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.training import final_test, loop
from affect_jax.weights import load_run
from affect_jax.weights.checkpoints import CheckpointMismatch
from data_pipelines import landmarker
from data_pipelines.loading import pipeline
from data_pipelines.schema import DataError
from tests.affect_jax import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on eight devices: (workdir, result)."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train_run.train_run(tiny.config(), workdir)


def test_workdir_holds_all_that_was_promised(finished):
    workdir, result = finished
    names = {p.name for p in workdir.iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "report"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    pictures = {p.name for p in (workdir / "report").glob("*.png")}
    assert {
        "training_curves.png",
        "confusion_matrix.png",
        "valence_arousal.png",
        "faces.png",
    } <= pictures
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 8
    rows = runtime.read_metrics(workdir)
    assert rows[-1]["split"] == "test"
    assert rows[-1]["final"] is True
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "ece", "nme", "valence_ccc"):
        assert rows[-1][name] == pytest.approx(result.metrics[name])
    training = [r for r in rows if r["split"] == "train"]
    assert [r["step"] for r in training] == list(range(1, 9))
    assert {"loss", "learning_rate", "input_wait_share", "images_per_second"} <= training[-1].keys()
    # A row for every epoch, with what the sampler drew of each class.
    epochs = [r for r in rows if r["split"] == "epoch"]
    assert [r["epoch"] for r in epochs] == list(range(len(epochs)))
    assert epochs[0]["step"] == 1
    drawn = {sum(n for k, n in r.items() if k.startswith("examples_")) for r in epochs}
    assert drawn == {tiny.config().data.synthetic.num_train}


def test_landmarks_are_trained_first_then_the_emotions(finished):
    rows = [r for r in runtime.read_metrics(finished[0]) if r["split"] == "train"]
    assert [("cross_entropy" in r) for r in rows] == [False] * 3 + [True] * 5
    assert [r["stage"] for r in rows] == ["landmarks"] * 3 + ["emotion"] * 5
    assert all("heatmap" in r for r in rows)


def test_flip_averaged_figures_are_those_of_what_is_averaged(finished):
    rows = {r["split"]: r for r in runtime.read_metrics(finished[0])}
    names = rows["test_flip"].keys() - runtime.NOT_METRICS
    figures = ("rmse", "sagr", "pcc", "ccc")
    assert names == {f"{d}_{f}" for d in ("valence", "arousal") for f in figures}
    assert rows["test_flip"]["valence_rmse"] != rows["test"]["valence_rmse"]
    assert rows["test"]["images"] == rows["test"]["images_total"] == 40


def test_a_run_records_its_data_for_the_report(finished):
    about = json.loads((finished[0] / "report/about.json").read_text())
    assert about["affect_jax"] == affect_jax.__version__ and about["tested"]
    counts = {split: part["images"] for split, part in about["splits"].items()}
    assert counts == {"train": 64, "validation": 40, "test": 40}
    assert sum(about["splits"]["test"]["classes"].values()) == 40
    assert about["command"] == ""  # it was not the command that ran it


def test_starting_a_finished_run_again_changes_nothing(finished):
    workdir, result = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    again = loop.train_and_evaluate(tiny.config(), workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert again.metrics == result.metrics


def test_eval_mode_repeats_the_test_figures(finished, capsys):
    workdir, result = finished
    evaluation = evaluate_run.evaluate_workdir(tiny.config(), workdir)
    for name, value in result.metrics.items():
        np.testing.assert_allclose(evaluation.metrics[name], value, rtol=1e-5, atol=1e-6)
    assert evaluation.flip is not None
    assert "flip-averaged" in capsys.readouterr().out
    other = tiny.config(eval__split="validation", eval__checkpoint="latest", eval__batch_size=8)
    assert evaluate_run.evaluate_workdir(other, workdir).metrics["loss"] > 0


def test_eval_mode_mistakes(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(UserError, match="did you mean 'validation'"):
        evaluate_run.evaluate_workdir(tiny.config(eval__split="validatoin"), workdir)
    with pytest.raises(UserError, match="no checkpoint '77'"):
        evaluate_run.evaluate_workdir(tiny.config(eval__checkpoint="77"), workdir)
    with pytest.raises(UserError, match=r"model\.width = 32, .*--config\.model\.width=16"):
        evaluate_run.evaluate_workdir(tiny.config(model__width=32), workdir)
    with pytest.raises(UserError, match="not the workdir of a run"):
        evaluate_run.evaluate_workdir(tiny.config(), tmp_path)


def test_a_fold_is_evaluated_only_as_the_fold_it_was(finished, tmp_path):
    fold = {"data__folds": 4, "data__test_fold": 1}
    config_lib.claim_workdir(tmp_path, tiny.config(data__protocol="folds", **fold))
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"data\.protocol = split.*with folds.*would be tested"):
        evaluate_run.evaluate_workdir(tiny.config(**fold), tmp_path)


def test_a_finished_run_that_lost_its_report_has_it_again(finished, tmp_path, monkeypatch, capsys):
    workdir, result = finished
    for path in ("checkpoints", "report"):
        shutil.copytree(workdir / path, tmp_path / path)
    for path in ("config.json", "metrics.jsonl"):
        shutil.copy(workdir / path, tmp_path / path)
    config = config_lib.read_workdir_config(workdir)
    (tmp_path / "report/results.md").unlink()
    train_run.train_run(config, tmp_path, show_test=False)
    assert (tmp_path / "report/results.md").exists()
    assert "test split" not in capsys.readouterr().out
    # Killed between its test and its predictions, as earlier versions could be: tested again.
    before = (tmp_path / "report/predictions.csv").read_bytes()
    shutil.rmtree(tmp_path / "report")
    monkeypatch.setattr(loop, "_train", None)
    again = loop.train_and_evaluate(config, tmp_path)
    assert again.metrics == result.metrics
    assert (tmp_path / "report/predictions.csv").read_bytes() == before
    # The last row comes after the predictions.
    shutil.rmtree(tmp_path / "report")
    monkeypatch.setattr(final_test.predictions, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.train_and_evaluate(config, tmp_path)
    assert not [r for r in runtime.read_metrics(tmp_path) if r.get("final")]


def test_metrics_do_not_depend_on_batch_size_devices_or_mapping(finished):
    workdir, result = finished
    run = load_run.load_run(workdir, "best", Mapper())
    sources = data_lib.make_sources(run.config)
    blueprint = take_apart(run.model)[0]
    for mapping, devices, batch_size in (("pmap", 1, 7), ("shard_map", 4, 16)):
        mapper = Mapper(mapping, jax.devices()[:devices])
        config = tiny.config(eval__batch_size=batch_size, batch_size=8)
        with pipeline.make_pipeline(
            config.data, sources["test"], train=False, batch_size=batch_size
        ) as batches:
            state = mapper.replicate(run.state)
            metrics = evaluator.Evaluator(run.system, mapper, blueprint).run(state, batches).metrics
        for name, value in metrics.items():
            np.testing.assert_allclose(value, result.metrics[name], rtol=1e-5, atol=1e-6)


def test_exported_model_gives_the_same_outputs(finished, tmp_path):
    workdir, result = finished
    assert export.main(["--workdir", str(workdir), "--output", str(tmp_path / "model")]) == 0
    predictor = affect_jax.load(tmp_path / "model")
    seen = predictor.loaded.preprocessing
    assert (seen.fit, seen.margin, seen.crop_scale) == ("cover", 0.28, 0.0)
    assert 1 < seen.face_scale < 3  # of whole images, measured by the detector
    with pytest.raises(DataError, match="trained on whole images"):
        landmarker.load_landmarker(str(tmp_path / "model"))
    source = data_lib.make_sources(tiny.config())["test"]
    with data_lib.eval_batches(tiny.config(), source) as batches:
        batch = next(iter(batches))
    outputs = predictor.outputs(batch["image"])
    np.testing.assert_allclose(
        outputs["logits"], result.evaluation.predictions["logits"][:16], rtol=1e-4, atol=1e-5
    )
    assert export.main(["--workdir", str(tmp_path), "--output", str(tmp_path / "m2")]) == 2


def test_workdir_serves_as_teacher_and_as_start(finished, tmp_path):
    workdir, _ = finished
    config = tiny.config(
        num_steps=2,
        eval_every=2,
        landmark_stage__steps=0,
        loss__teacher=str(workdir),
        loss__distillation_weight=0.5,
        init_from=str(workdir),
        model__train_trunk=False,
        ema_decay=0.9,
        parallel__mapping="shard_map",
    )
    result = loop.train_and_evaluate(config, tmp_path / "student")
    rows = runtime.read_metrics(tmp_path / "student")
    assert "distillation" in next(row for row in rows if row["split"] == "train")
    # A start from a run takes the weights that the run is evaluated with, the averaged ones.
    teacher = load_run.load_run(workdir, "best", Mapper()).state["ema"]
    for part in ("params", "stats"):
        for name, value in result.state[part].items():
            if name.startswith("fan/"):
                np.testing.assert_array_equal(value, teacher[part][name])
    with pytest.raises(UserError, match=r"no model directory|not a model"):
        loop.train_and_evaluate(tiny.config(init_from=str(tmp_path)), tmp_path / "x")


def test_what_a_correction_has_to_beat_is_measured_on_request(tmp_path):
    config = tiny.one_block(num_steps=2, eval__calibrate=True, report__pictures=False)
    result = loop.train_and_evaluate(config, tmp_path)
    rows = {r["split"]: r for r in runtime.read_metrics(tmp_path)}
    assert 0.05 <= rows["test_temperature"]["temperature"] <= 20
    assert rows["test_temperature"]["accuracy"] == pytest.approx(result.metrics["accuracy"])
    assert {"accuracy", "nll", "ece"} <= rows["test_mirror"].keys()
    assert rows["test_mirror"]["nll"] != result.metrics["nll"]


def test_resnet_is_a_baseline_in_the_same_loop(tmp_path):
    config = tiny.config(
        num_steps=1, landmark_stage__steps=0, loss__heatmap_weight=0.0, eval__flip=False
    )
    config.model = {
        "name": "resnet18",
        "width": 8,
        "regression": True,
        "dtype": "bfloat16",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
    }
    result = loop.train_and_evaluate(config, tmp_path)
    assert np.isfinite(result.metrics["valence_ccc"])
    assert all(p.dtype == np.float32 for p in result.state["params"].values())


def test_diverging_run_stops_and_names_the_step(tmp_path):
    config = tiny.one_block(optimizer__learning_rate=1e30, optimizer__name="sgd", num_steps=8)
    with pytest.raises(loop.Diverged, match=r"step \d+.*learning_rate"):
        loop.train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "config.batch_size = 12"),
        ({"batch_size": 128}, "batch_size 128|128 .*64"),
        ({"num_steps": 0}, "num_steps"),
        ({"system": "emofna"}, "emofan"),
        ({"model__name": "emofna"}, "emofan"),
        ({"model__width": 10}, "width"),
        ({"model__dtype": "float23"}, "float23"),
        ({"optimizer__name": "adma"}, "adam"),
        ({"optimizer__freeze": ("nothing/here",)}, "nothing/here"),
        ({"loss__regression": "ccd"}, "loss.regression"),
        ({"loss__class_weights": "heavy"}, "class_weights"),
        ({"loss__distillation_weight": 0.5}, "teacher"),
        ({"loss__label_smoothing": 1.0}, "label_smoothing = 1.0"),
        ({"parallel__mapping": "vmap"}, "pmap"),
        ({"checkpoint__best_mode": "up"}, "best_mode"),
        ({"checkpoint__best_metric": "acuracy"}, "accuracy"),
        ({"data__augment": "emofun"}, "emofan"),
        ({"data__sampling": "refined"}, "refine"),
        ({"data__source": "web"}, "manifest"),
        ({"data__synthetic__domain": "c"}, "domain"),
        ({"data__image_size": 30}, "multiple"),
    ],
)
def test_impossible_configs_end_with_a_message(changes, message, tmp_path):
    with pytest.raises((UserError, DataError), match=message):
        loop.train_and_evaluate(tiny.config(**changes), tmp_path)


def test_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(CheckpointMismatch, match=r"(?s)of another shape.*the model has"):
        loop.train_and_evaluate(tiny.config(model__width=32), tmp_path)


def test_workdir_of_another_config_is_refused(finished):
    with pytest.raises(UserError, match=r"model.width: there 16, now 32"):
        loop.train_and_evaluate(tiny.config(model__width=32), finished[0])
