"""A user's tree over the classes of a folder: trained, tested, exported, used without its file."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

import affect_jax
from affect_jax import export, models, runtime
from affect_jax.config import ConfigError
from affect_jax.evaluation import predictions
from affect_jax.experiments import evaluate_model, evaluate_run
from affect_jax.report import model_runner
from affect_jax.training import loop
from affect_jax.weights import model_dir
from data_pipelines.hierarchies.tree import Hierarchy
from tests.affect_jax import label_trees, tiny

CLASSES = ("happy", "sad", "disgust", "anger")  # another order and spelling than the tree's
OTHER = '[coarse]\none = ["happy", "sad"]\ntwo = ["anger", "disgust"]\n'
FIGURES = {
    *("coarse_accuracy", "coarse_accuracy_summed", "coarse_balanced_accuracy"),
    *("errors_within_coarse", "hierarchical_distance", "hierarchical_distance_all"),
}


def write_faces(folder):
    random = np.random.default_rng(0)
    for split, each in (("train", 4), ("validation", 2), ("test", 4)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{name}{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step whose tree has vanished since."""
    folder = tmp_path_factory.mktemp("trees")
    config = tiny.one_block(
        system="classifier",
        data__source="folder",
        data__folder=write_faces(folder / "faces"),
        data__hierarchy=label_trees.write(folder),
        data__augment="none",
        checkpoint__best_metric="hierarchical_distance",
        num_steps=1,
        eval_every=1,
        batch_size=8,
        eval__flip=False,
        report__faces=0,
    )
    config.model.regression = False
    loop.train_and_evaluate(config, folder / "run")
    (folder / "mine.toml").rename(folder / "moved.toml")
    return config, folder


@pytest.fixture(scope="module")
def exported(trained):
    export.export(trained[1] / "run", trained[1] / "model")
    return trained[1] / "model"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_split_is_measured_with_it(trained):
    rows = runtime.read_metrics(trained[1] / "run")
    for split in ("validation", "test"):
        row = next(r for r in rows if r["split"] == split)
        assert row.keys() >= FIGURES and "pole_accuracy" not in row
    stored = predictions.load(trained[1] / "run/report")
    assert stored["class_names"].tolist() == list(CLASSES)
    assert stored["coarse_names"].tolist() == ["positive", "negative"]
    assert stored["coarse_of"].tolist() == [0, 1, 1, 1]
    guess = stored["coarse_of"][stored["probabilities"].argmax(1)]
    right = guess == stored["coarse_of"][stored["expression"]]
    assert rows[-1]["coarse_accuracy"] == pytest.approx(right.mean())


def test_a_run_is_tested_again_without_the_file_or_with_another(trained):
    config, folder = trained
    tested = runtime.read_metrics(folder / "run")[-1]
    again = evaluate_run.evaluate_workdir(config, folder / "run").metrics
    assert {k: again[k] for k in FIGURES} == pytest.approx({k: tested[k] for k in FIGURES})
    (folder / "other.toml").write_text(OTHER)
    changed = config.copy_and_resolve_references()
    changed.data.hierarchy = str(folder / "other.toml")
    evaluate_run.evaluate_workdir(changed, folder / "run")
    names = {
        tuple(predictions.load(path)["coarse_names"].tolist())
        for path in (folder / "run/report/evaluations").iterdir()
    }
    assert names == {("positive", "negative"), ("one", "two")}
    changed.data.hierarchy = "fg_emotions"
    with pytest.raises(ConfigError, match=r"data\.hierarchy = 'fg_emotions'.*no fine class 'hap"):
        evaluate_run.evaluate_workdir(changed, folder / "run")


def test_it_travels_with_an_exported_model(trained, exported):
    folder = trained[1]
    assert json.loads((exported / "model.json").read_text())["hierarchy"]["name"] == "mine"
    frame = affect_jax.load(exported).predict(str(folder / "faces/test/sad/sad0.png"))
    assert frame["coarse"][0] == ("positive" if frame["expression"][0] == "happy" else "negative")
    negative = frame.loc[0, ["p_sad", "p_anger", "p_disgust"]].sum()
    sums = {"positive": frame["p_happy"][0], "negative": negative}
    assert frame["coarse_probability"][0] == pytest.approx(sums[frame["coarse"][0]])
    assert model_runner.open_model(exported).hierarchy.coarse == ("positive", "negative")
    assert model_runner.open_model(folder / "run").hierarchy.name == "mine"


def test_an_exported_model_is_measured_with_its_tree_or_the_configs(trained, exported):
    config, folder = trained
    config = config.copy_and_resolve_references()
    config.data.hierarchy = ""
    tested = runtime.read_metrics(folder / "run")[-1]
    found = evaluate_model.evaluate_model(config, exported, folder / "eval")
    assert found.metrics["coarse_accuracy"] == pytest.approx(tested["coarse_accuracy"])
    (row,) = [
        row
        for path in (folder / "eval/report/evaluations").iterdir()
        for row in rows_of(path / "predictions.csv")[:1]
    ]
    assert row["coarse_predicted"] in ("positive", "negative")
    (folder / "other.toml").write_text(OTHER)
    config.data.hierarchy = str(folder / "other.toml")
    evaluate_model.evaluate_model(config, exported, folder / "eval_other")
    (path,) = (folder / "eval_other/report/evaluations").iterdir()
    assert predictions.load(path)["coarse_names"].tolist() == ["one", "two"]


def test_a_run_is_not_resumed_with_another_tree(trained, tmp_path):
    config, folder = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    place = folder / "mine.toml"
    place.write_text(OTHER)
    config = config.copy_and_resolve_references()
    config.num_steps = 2
    try:
        with pytest.raises(ConfigError, match="began with another tree over its classes"):
            loop.train_and_evaluate(config, tmp_path / "run")
    finally:
        place.unlink()


def test_a_model_that_uses_a_tree_is_measured_with_it_alone(trained, tmp_path):
    config, folder = trained
    tree = Hierarchy("used", CLASSES, ("x", "y"), (1, 0, 0, 1))
    relations = {"hierarchy_bias": True, "context": "self", "hierarchy": tree.to_plain()}
    arguments = {"width": 4, "n_expression": 4, "relations": relations}
    model = models.create("resnet18", **arguments)
    model_dir.save_model(
        tmp_path / "model",
        "resnet18",
        arguments,
        model,
        preprocessing=model_dir.Preprocessing(32),
        class_names=CLASSES,
        hierarchy=tree,
    )
    config = config.copy_and_resolve_references()
    (folder / "other.toml").write_text(OTHER)
    config.data.hierarchy = str(folder / "other.toml")
    found = evaluate_model.evaluate_model(config, tmp_path / "model", tmp_path / "eval")
    assert "coarse_accuracy" in found.metrics
    (path,) = (tmp_path / "eval/report/evaluations").iterdir()
    assert predictions.load(path)["coarse_of"].tolist() == [1, 0, 0, 1]
