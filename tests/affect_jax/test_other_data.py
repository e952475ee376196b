"""A model trained on one data set and tested on another, whose classes come in another order."""

import csv

import ml_collections
import numpy as np
import pytest
from PIL import Image

from affect_jax import data, evaluate, train
from affect_jax.config import ConfigError
from data_pipelines.example import TooManyBadRecords
from tests.affect_jax import tiny

HOME = ("anger", "disgust", "happy")
# Another set: other names, another order, and a class that the model does not know.
AWAY = {"Happiness": 2, "contempt": -1, "anger": 0, "disgust": 1}


def write_manifest(folder, classes, each, colours):
    """Plain pictures whose colour is their class; every picture is another person's."""
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
    train.train_and_evaluate(config, folder / "run")
    config.data.manifest = write_manifest(folder / "away", AWAY, 8, colours)
    config.data.classes = ""
    return config, folder / "run"


def test_other_classes_are_refused_with_the_map_to_ask_for(trained):
    config, workdir = trained
    with pytest.raises(ConfigError, match=r"config\.data\.classes=anger,disgust,happy"):
        evaluate.evaluate_workdir(config, workdir)


def test_labels_are_mapped_by_name_and_unknown_classes_left_out(trained):
    config, workdir = trained
    mapped = config.copy_and_resolve_references()
    mapped.data.classes = ",".join(HOME)
    with pytest.raises(TooManyBadRecords, match="unknown class name 'contempt'"):
        evaluate.evaluate_workdir(mapped, workdir)
    mapped.data.max_bad_fraction = 0.25
    result = evaluate.evaluate_workdir(mapped, workdir)
    source = data.make_sources(mapped)["test"]
    for index, label in zip(*(result.predictions[k] for k in ("index", "expression")), strict=True):
        name = next(n for n in AWAY if n in source.describe(index))
        assert label == AWAY[name]
    assert sorted(result.predictions["expression"].tolist()) == [0, 0, 1, 1, 2, 2]
    guesses = result.predictions["logits"].argmax(1)
    accuracy = np.mean(guesses == result.predictions["expression"])
    assert result.metrics["accuracy"] == pytest.approx(accuracy)
