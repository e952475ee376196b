"""A model trained on one data set and tested on another, whose classes come in another order."""

import csv
import json
import pathlib

import ml_collections
import numpy as np
import pytest
from PIL import Image

from affect_jax import batches, runtime
from affect_jax.config import ConfigError
from affect_jax.evaluation import predictions
from affect_jax.experiments import evaluate_run
from affect_jax.training import loop
from data_pipelines.schema import TooManyBadRecords
from tests.affect_jax import tiny

HOME = ("anger", "disgust", "happy")
# Another set: other names, another order, and a class that the model does not know.
AWAY = {"Happiness": 2, "contempt": -1, "anger": 0, "disgust": 1}


def write_manifest(folder, classes, each, colours):
    """Write plain images whose colour is their class, each of another person."""
    folder.mkdir()
    with open(folder / "faces.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "expression", "person", "split"])
        for name in classes:
            for i in range(each):
                split = ("train", "train", "validation", "test")[i % 4]
                path = f"{name}{i}.png"
                Image.new("RGB", (32, 32), colours[name]).save(folder / path)
                writer.writerow([path, name, f"{name}{i}", split])
    return str(folder / "faces.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other_data")
    colours = {"anger": (250, 0, 0), "disgust": (0, 250, 0), "happy": (0, 0, 250)}
    colours |= {"Happiness": colours["happy"], "contempt": (90, 90, 90)}
    config = tiny.config(
        system="classifier",
        model=ml_collections.ConfigDict(
            dict(
                name="vit_ti16",
                depth=1,
                dtype="float32",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            )
        ),
        data__source="manifest",
        data__manifest=write_manifest(folder / "home", HOME, 8, colours),
        data__augment="none",
        data__image_size=32,
        landmark_stage__steps=0,
        loss__heatmap_weight=0.0,
        data__classes=",".join(HOME),
        num_steps=1,
        eval_every=1,
        batch_size=8,
        report__faces=0,
    )
    loop.train_and_evaluate(config, folder / "run")
    config.data.manifest = write_manifest(folder / "away", AWAY, 8, colours)
    config.data.classes = ""
    return config, folder / "run"


def test_other_classes_are_refused_with_the_map_to_ask_for(trained):
    config, workdir = trained
    with pytest.raises(ConfigError, match=r"config\.data\.classes=anger,disgust,happy"):
        evaluate_run.evaluate_workdir(config, workdir)


def test_labels_are_mapped_by_name_and_unknown_classes_left_out(trained):
    config, workdir = trained
    mapped = config.copy_and_resolve_references()
    mapped.data.classes = ",".join(HOME)
    with pytest.raises(TooManyBadRecords, match="unknown class name 'contempt'"):
        evaluate_run.evaluate_workdir(mapped, workdir)
    mapped.data.max_bad_fraction = 0.25
    result = evaluate_run.evaluate_workdir(mapped, workdir)
    source = batches.make_sources(mapped)["test"]
    for index, label in zip(*(result.predictions[k] for k in ("index", "expression")), strict=True):
        name = next(n for n in AWAY if n in source.describe(index))
        assert label == AWAY[name]
    assert sorted(result.predictions["expression"].tolist()) == [0, 0, 1, 1, 2, 2]
    guesses = result.predictions["logits"].argmax(1)
    accuracy = np.mean(guesses == result.predictions["expression"])
    assert result.metrics["accuracy"] == pytest.approx(accuracy)


def test_what_was_measured_is_recorded_with_its_predictions(trained, monkeypatch, capsys):
    config, workdir = trained
    mapped = config.copy_and_resolve_references()
    # The model's classes in the spelling of others.
    mapped.data.classes = "Anger,disgusted,Happiness"
    mapped.data.max_bad_fraction = 0.25
    away = pathlib.Path(config.data.manifest)
    (workdir / runtime.EVALUATIONS_FILE).unlink(missing_ok=True)
    evaluate_run.evaluate_workdir(mapped, workdir)
    assert f"test split of manifest {away}, checkpoint 1 of" in capsys.readouterr().out
    monkeypatch.chdir(away.parent)
    mapped.data.manifest = "./faces.csv"  # the same, written otherwise
    evaluate_run.evaluate_workdir(mapped, workdir)
    mapped.data.manifest = str(away.parents[1] / "home/faces.csv")
    evaluate_run.evaluate_workdir(mapped, workdir)

    rows = runtime.read_metrics(workdir / runtime.EVALUATIONS_FILE)
    assert [row["source"] for row in rows] == ["manifest"] * 3
    assert [row["manifest"] for row in rows] == [str(away), str(away), mapped.data.manifest]
    assert [row["checkpoint"] for row in rows] == [1, 1, 1]
    assert rows[0]["report"] == rows[1]["report"] != rows[2]["report"]
    folder = workdir / rows[0]["report"]
    names = {"predictions.npz", "predictions.csv", "confusion_matrix.png", "evaluation.json"}
    assert {p.name for p in folder.iterdir()} == names
    assert len([p for p in folder.parent.iterdir() if p.name.startswith(".")]) == 0
    stored = predictions.load(folder)
    assert tuple(stored["class_names"]) == HOME and sorted(stored["expression"]) == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    right = stored["probabilities"].argmax(1) == stored["expression"]
    assert rows[0]["accuracy"] == pytest.approx(right.mean())
    with open(folder / "predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["expression"] for row in table} == set(HOME)
    assert json.loads((folder / "evaluation.json").read_text())["manifest"] == str(away)


def test_the_same_data_under_another_path_are_cut_as_they_were(trained):
    config, _ = trained
    then = config.copy_and_resolve_references()
    then.data.update({"protocol": "folds", "manifest": "faces.csv"})
    now = config.copy_and_resolve_references()
    for manifest in ("./faces.csv", str(pathlib.Path("faces.csv").absolute())):
        now.data.manifest = manifest
        with pytest.raises(ConfigError, match=r"data\.protocol = split.*would be tested"):
            evaluate_run._check_same_split(now, then)
    now.data.manifest = "other/faces.csv"
    evaluate_run._check_same_split(now, then)


def test_a_model_that_computes_something_else_is_refused(trained):
    """The arrays fit, so that nothing else would tell."""
    config, workdir = trained
    other = config.copy_and_resolve_references()
    other.data.classes = ",".join(HOME)
    other.model.std = (0.2, 0.2, 0.2)
    with pytest.raises(ConfigError, match=r"config\.model\.std = .*repeat its value"):
        evaluate_run.evaluate_workdir(other, workdir)
