"""The landmark network from its own run to a model, to other data sets and into an EmoFAN."""

import csv

import cv2
import ml_collections
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affect_jax
from affect_jax import batches, export, runtime, systems
from affect_jax import config as config_lib
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.experiments import evaluate_run, train_run
from affect_jax.runtime.parallel import Mapper
from affect_jax.training import loop
from affect_jax.weights import load_run
from data_pipelines import landmarker, prepare
from data_pipelines.images import presets
from data_pipelines.images.framing import Framing
from data_pipelines.sources.synthetic import SyntheticFaces
from tests.affect_jax import tiny
from tests.data_pipelines.datasets.prepared_sets import load_source

TRUNK = {"model.width": 16, "model.depth": 1, "model.stacks": 1}
DATA = {k: v for k, v in tiny.OVERRIDES.items() if k.startswith("data.")}


def fan_config(name="fan_synthetic", **changes) -> ml_collections.ConfigDict:
    config = config_lib.load_file(tiny.ROOT / "configs" / f"{name}.py")
    config.update_from_flattened_dict(
        {
            **TRUNK,
            **DATA,
            "batch_size": 16,
            "num_steps": 4,
            "log_every": 1,
            "eval_every": 2,
            "checkpoint.every": 2,
            "report.faces": 4,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: (workdir, result)."""
    workdir = tmp_path_factory.mktemp("fan")
    return workdir, train_run.train_run(fan_config(), workdir)


@pytest.fixture(scope="module")
def model(finished, tmp_path_factory):
    """Its exported model."""
    folder = tmp_path_factory.mktemp("model") / "fan"
    assert export.main(["--workdir", str(finished[0]), "--output", str(folder)]) == 0
    return folder


def test_only_landmarks_are_learnt_measured_and_drawn(finished):
    workdir, result = finished
    ends = ("", "_auc", "_failures")
    names = {f"{name}{end}" for name in ("nme", "nme_box") for end in ends}
    assert result.metrics.keys() == {"loss", *names}
    rows = runtime.read_metrics(workdir)
    assert all({"loss", "heatmap"} <= r.keys() for r in rows if r["split"] == "train")
    by_step = {r["step"]: r["nme"] for r in rows if r["split"] == "validation"}
    assert rows[-1]["checkpoint"] == min(by_step, key=by_step.get)
    pictures = {p.name for p in (workdir / "report").glob("*.png")}
    assert pictures == {"training_curves.png", "landmark_error.png", "faces.png"}
    with open(workdir / "report/predictions.csv", newline="") as file:
        assert set(next(csv.DictReader(file))) == {"index", "source", "nme", "nme_box"}


def test_an_exported_detector_predicts_landmarks_alone(model):
    predictor = affect_jax.load(model)
    frame = predictor.predict(np.zeros((2, 40, 40, 3), np.uint8))
    assert list(frame.columns) == ["index", *(f"{c}{k}" for k in range(68) for c in "xy"), "error"]
    assert predictor.loaded.class_names == ()
    assert predictor.loaded.arguments["decode"] == "centroid"
    assert predictor.loaded.preprocessing.crop_scale == 1.4


def test_prepare_finds_with_it_what_evaluation_finds(finished, model):
    """The windows of `prepare` are the crops that the network was trained on."""
    source = SyntheticFaces(4, split="test", image_size=48, frames_per_video=1)
    records = [source[i] for i in range(4)]
    boxes = np.stack(
        [landmarker.face_box(r["landmarks"], r["box"], r["image"].shape) for r in records]
    )
    found = landmarker.load_landmarker(str(model))([r["image"] for r in records], boxes)
    seen = finished[1].evaluation.predictions["landmarks"][:4]
    for record, points, pixels in zip(records, found, seen, strict=True):
        preset = presets.resolve("emofan")
        frame = Framing.of(preset, 32, "auto", 1.4).frame(48, 48, record["landmarks"])
        back = (pixels + 0.5) * frame.width / 32 + [frame.x, frame.y] - frame.width / 2 - 0.5
        # Warps of the two differ by interpolation; an untrained network's maxima may jump.
        assert np.median(np.abs(points - back)) < 0.05 * frame.width


@given(st.floats(10, 90), st.floats(10, 90), st.floats(10, 80), st.floats(10, 80))
def test_windows_of_prepare_are_the_frames_of_training(x, y, width, height):
    landmarks = np.full((68, 2), [x, y], np.float32)
    landmarks[1] += np.float32([width, height])
    frame = Framing(32, crop_scale=1.4).frame(200, 200, landmarks)
    box = landmarker.face_box(landmarks, np.full(4, np.nan), (200, 200, 3))
    centre, side = landmarker.face_window(box, 1.4)
    np.testing.assert_allclose([*centre, side], [frame.x, frame.y, frame.width], rtol=1e-4)


def test_landmarks_of_another_data_set_are_recomputed(model, tmp_path):
    source = SyntheticFaces(6, image_size=48)
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), source[i]["image"][..., ::-1])
    rows = "".join(f"{i}.png,happy,p{i}\n" for i in range(6))
    (tmp_path / "set.csv").write_text("path,expression,person\n" + rows)
    finder = landmarker.load_landmarker(str(model))
    prepare.prepare("manifest", tmp_path / "set.csv", tmp_path / "out", landmarks=finder)
    prepared = load_source("manifest/set", tmp_path / "out", "full")
    assert "landmarks" in prepared.has
    assert np.isfinite(prepared[3]["landmarks"]).all()


def test_an_emofan_starts_from_the_run_and_keeps_its_trunk(finished, tmp_path, caplog):
    workdir, _ = finished
    config = tiny.config(
        num_steps=1,
        landmark_stage__steps=0,
        loss__heatmap_weight=0.0,
        eval__flip=False,
        model__train_trunk=False,
        init_from=str(workdir),
        eval__video=True,
        data__synthetic__frames_per_video=5,
    )
    with caplog.at_level("INFO"):
        result = train_run.train_run(config, tmp_path / "emofan")
    assert "arrays loaded" in caplog.text
    fan = load_run.load_run(workdir, "best", Mapper()).state["ema"]
    for part in ("params", "stats"):
        for name, value in result.state[part].items():
            if name.startswith("fan/"):
                np.testing.assert_array_equal(value, fan[part][name.removeprefix("fan/")])
    # Smoothed figures stand beside the plain ones, in the log and in the report; landmarks are not
    # smoothed.
    rows = {r["split"]: r for r in runtime.read_metrics(tmp_path / "emofan")}
    assert "nme" in rows["test"] and "nme" not in rows["test_video"]
    assert rows["test_video"]["valence_rmse"] != rows["test"]["valence_rmse"]
    assert "video-smoothed" in (tmp_path / "emofan/report/results.md").read_text()
    again = evaluate_run.evaluate_workdir(config, tmp_path / "emofan")
    assert again.video["arousal_ccc"] == pytest.approx(rows["test_video"]["arousal_ccc"], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__stacks": 2}, "built with stacks=1, the model with stacks=2"),
        ({"model__pool": "avg"}, r"pool='max'.*config\.model\.pool"),
    ],
)
def test_a_trunk_that_does_not_fit_is_refused(finished, tmp_path, changes, message):
    config = tiny.config(init_from=str(finished[0]), landmark_stage__steps=0)
    config.model.pool = "max"
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    with pytest.raises(UserError, match=message):
        loop.train_and_evaluate(config, tmp_path)


def test_data_with_landmarks_and_nothing_else(tmp_path):
    source = SyntheticFaces(60, image_size=48, frames_per_video=1)
    with open(tmp_path / "set.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "landmarks", "person"])
        for i in range(60):
            record = source[i]
            cv2.imwrite(str(tmp_path / f"{i}.png"), record["image"][..., ::-1])
            numbers = " ".join(map(str, record["landmarks"].ravel().tolist()))
            writer.writerow([f"{i}.png", numbers, f"p{i}"])
    config = fan_config(
        num_steps=1, data__source="manifest", data__manifest=str(tmp_path / "set.csv")
    )
    result = loop.train_and_evaluate(config, tmp_path / "run")
    assert np.isfinite(result.metrics["nme_box"])


def test_data_without_landmarks_are_refused():
    with pytest.raises(ConfigError, match="learns landmarks"):
        systems.create(
            fan_config(), class_names=("a",), has=frozenset({"expression"}), class_counts=(1,)
        )


def test_the_configuration_for_300w_names_its_data(tmp_path):
    config = fan_config("fan_300w")
    config.data.data_dir = str(tmp_path)
    with pytest.raises(ValueError, match=r"prepare --dataset landmarks_300w/300w_lp"):
        batches.make_sources(config)
