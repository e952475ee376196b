"""Model directories evaluated on labelled images, without any training."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import affect_jax
from affect_jax import batches, models, runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.evaluation import predictions
from affect_jax.evaluation.evaluator import Evaluation
from affect_jax.experiments import evaluate, evaluate_model, evaluate_run
from affect_jax.systems.base import Labels
from affect_jax.weights import model_dir
from data_pipelines.schema import DataError
from tests.affect_jax import tiny

NAMES = ("happy", "sad", "anger")  # as they are inferred


def save(folder, **changes):
    """A model directory with random weights, for images 32 pixels wide."""
    model = models.create("vit_ti16", depth=1, image_size=32, n_expression=3, regression=True)
    options = dict(class_names=NAMES, provenance={"source_sha256": "0"}) | changes
    seen = model_dir.Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), fit="stretch")
    arguments = {"depth": 1, "image_size": 32, "n_expression": 3, "regression": True}
    model_dir.save_model(folder, "vit_ti16", arguments, model, preprocessing=seen, **options)
    return folder


def write(folder, *, split="test", names=NAMES, broken=(), size=(32, 32)):
    """Write a manifest of nine noisy images; return its path."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for i in range(9):
        path = folder / f"{i}.png"
        pixels = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if i in broken:  # found when it is decoded, as its head is whole
            content = bytearray(path.read_bytes())
            content[60:] = bytes(len(content) - 60)
            path.write_bytes(content)
        row = {"path": path.name, "expression": names[i % 3], "person": f"p{i}"}
        row |= {"valence": round(random.uniform(-1, 1), 3), "arousal": 0.1 * i - 0.4}
        rows.append(row | ({"split": split} if split else {}))
    with open(folder / "faces.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / "faces.csv")


def config(manifest, model="", **changes):
    """A config that names another model, size and normalisation."""
    made = tiny.config(data__source="manifest", data__manifest=manifest, batch_size=8, **changes)
    made.init_from = str(model)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "mine")


def test_a_test_split_alone_is_evaluated_as_predict_sees_it(tmp_path, model, capsys):
    manifest = write(tmp_path / "data", size=(40, 56), broken=(4,))
    made = config(manifest, model, data__max_bad_fraction=0.2, data__classes="sad,anger,happy")
    with pytest.raises(ConfigError, match=r"config\.data\.classes=happy,sad,anger"):
        evaluate.evaluate(made, tmp_path / "out")
    made.data.classes = "happy,sad,anger"
    result = evaluate.evaluate(made, tmp_path / "out")
    out = capsys.readouterr().out
    assert f"model {model}: 8 of 9 images (1 could not be read)" in out
    assert result.images == 8 and result.flip.keys() == {
        f"{d}_{m}" for d in ("valence", "arousal") for m in ("rmse", "sagr", "pcc", "ccc")
    }
    rows = runtime.read_metrics(tmp_path / "out" / runtime.EVALUATIONS_FILE)
    assert [row["split"] for row in rows] == ["test", "test_flip"]
    assert rows[0]["images"] == 8 and rows[0]["images_total"] == 9
    assert rows[0]["model"] == str(model) and "accuracy" not in rows[1]
    stored = predictions.load(tmp_path / "out" / rows[0]["report"])
    assert tuple(stored["class_names"]) == NAMES
    record = json.loads((tmp_path / "out" / rows[0]["report"] / "evaluation.json").read_text())
    assert (record["images"], record["images_total"]) == (8, 9)
    assert record["model_sha256"] == model_dir.load_model(model).digest()
    files = [str(tmp_path / "data" / f"{i}.png") for i in stored["index"]]
    table = affect_jax.load(model).predict(files)
    np.testing.assert_allclose(stored["probabilities"], table[[f"p_{n}" for n in NAMES]], atol=2e-3)
    np.testing.assert_allclose(
        stored["valence_arousal_predicted"], table[["valence", "arousal"]], atol=2e-3
    )


def test_two_models_share_a_folder_of_results(tmp_path, model, monkeypatch):
    class Measured:
        """An evaluator that has measured: only where the results go matters here."""

        def __init__(self, *_, **__): ...

        def run(self, *_, **__):
            outputs = {
                "index": np.arange(9),
                "expression": np.arange(9) % 3,
                "logits": np.eye(9, 3),
            }
            return Evaluation({"accuracy": 0.5}, predictions=outputs, images=9)

        def in_contexts(self, *_):
            return {}

    monkeypatch.setattr(evaluate_run, "Evaluator", Measured)
    made = config(write(tmp_path / "data"), model)
    evaluate.evaluate(made, tmp_path / "out")
    made.init_from = str(shutil.copytree(model, tmp_path / "other" / "mine"))
    evaluate.evaluate(made, tmp_path / "out")
    rows = runtime.read_metrics(tmp_path / "out" / runtime.EVALUATIONS_FILE)
    assert len({row["report"] for row in rows}) == 2


@pytest.mark.parametrize("kind", ["manifest", "folder"])
def test_every_image_without_a_split(tmp_path, kind):
    manifest = write(tmp_path / "data", split="")
    made = config(manifest)
    if kind == "folder":
        folder = tmp_path / "photos"
        for row in csv.DictReader(pathlib.Path(manifest).read_text().splitlines()):
            (folder / row["expression"]).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / row["path"]).rename(folder / row["expression"] / row["path"])
        made.data.source, made.data.folder = "folder", str(folder)
    made.eval.split = "all"
    assert len(batches.evaluation_source(made)) == 9
    made.eval.split = "test"
    assert 0 < len(batches.evaluation_source(made)) < 9


def test_a_test_split_needs_no_other_one(tmp_path):
    made = config(write(tmp_path / "data"))
    assert len(batches.evaluation_source(made)) == 9
    made.eval.split = "validation"
    with pytest.raises(
        DataError, match=r"validation split is empty.*'all', which takes every image"
    ):
        batches.evaluation_source(made)
    made.eval.split = "tests"
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        batches.evaluation_source(made)
    folder = tmp_path / "photos" / "test"
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / name / "a.png")
    made.data.source, made.data.folder, made.eval.split = "folder", str(folder.parent), "test"
    assert len(batches.evaluation_source(made)) == 3


def test_excluded_images_of_other_splits_may_be_listed(tmp_path):
    made = config(write(tmp_path / "data"))
    (tmp_path / "wrong.txt").write_text("0.png\n")
    made.data.exclude = str(tmp_path / "wrong.txt")
    assert len(batches.evaluation_source(made)) == 8
    made.eval.split = "all"
    assert len(batches.evaluation_source(made)) == 8


def test_all_is_for_files_alone():
    with pytest.raises(DataError, match="is for manifests and folders"):
        batches.evaluation_source(tiny.config(eval__split="all"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no model", "is not a model directory"),
        ("file", r"is a file; make a model directory of it with python -m affect_jax\.convert"),
        ("run", "is the workdir of a run; evaluate it as --workdir"),
        ("nothing", "give --workdir of a finished run, or a model directory"),
        ("no names", "convert it again with --classes"),
        ("no labels", "predicts valence_arousal; the data are labelled with expression"),
        ("checkpoint", "has no effect on the model directory"),
    ],
)
def test_what_cannot_be_evaluated_is_said(tmp_path, model, change, message):
    manifest = write(tmp_path / "data")
    made = config(manifest, model)
    if change == "no model":
        made.init_from = str(tmp_path)
    elif change == "file":
        made.init_from = manifest
    elif change == "run":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("{}")
        made.init_from = str(tmp_path / "run")
    elif change == "nothing":
        made.init_from = ""
    elif change == "no names":
        made.init_from = str(save(tmp_path / "model", class_names=()))
    elif change == "no labels":
        provenance = {"trained_for": ["valence_arousal"]}
        made.init_from = str(save(tmp_path / "model", provenance=provenance))
        text = pathlib.Path(manifest).read_text().splitlines()
        pathlib.Path(manifest).write_text(
            "\n".join(",".join(line.split(",")[:3] + line.split(",")[5:]) for line in text)
        )
    else:
        made.eval.checkpoint = "latest"
    with pytest.raises(UserError, match=message):
        evaluate.evaluate(made, tmp_path / "out")


def test_a_run_is_not_taken_for_the_place_of_another_models_results(tmp_path, model):
    (tmp_path / "config.json").write_text(json.dumps({"init_from": ""}))
    with pytest.raises(ConfigError, match="holds a run, whose own checkpoints are evaluated"):
        evaluate.evaluate(config("x.csv", model), tmp_path)


def test_figures_of_heads_without_labels_in_training_are_left_out(tmp_path):
    made = config(
        write(tmp_path / "data"),
        save(tmp_path / "model", provenance={"trained_for": ["expression"]}),
    )
    result = evaluate.evaluate(made, tmp_path / "out")
    assert "accuracy" in result.metrics and "valence_ccc" not in result.metrics
    assert result.flip is None


def test_landmarks_do_not_depend_on_what_images_are_compared_with():
    """Other contexts are evaluated from features alone, where there are no heatmaps."""
    labels = Labels(frozenset({"expression", "landmarks"}), NAMES)
    system = evaluate_model._GivenModel(tiny.config(), labels)
    logits = np.zeros((2, 3))
    assert system.predictions({"logits": logits}, 32).keys() == {"logits"}
    heatmaps = np.random.default_rng(0).random((2, 8, 8, 68), np.float32)
    kept = system.predictions({"logits": logits, "heatmaps": heatmaps}, 32)
    assert kept["landmarks"].shape == (2, 68, 2)
