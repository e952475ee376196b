"""Stored predictions: traced to their files, equal to the metrics, with some faces."""

import csv
import dataclasses

import numpy as np
import pytest

from affect_jax.evaluation import predictions
from affect_jax.metrics.landmarks import LandmarkStatistics
from tests.affect_jax import label_trees
from tests.affect_jax.report.made_up_run import NAMES, SOURCE, make_batches, make_outputs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder, outputs = tmp_path_factory.mktemp("run"), make_outputs()
    predictions.write(folder, outputs, SOURCE, batches=make_batches(outputs))
    return folder


def test_every_prediction_leads_to_its_file(workdir):
    outputs = make_outputs()
    with open(workdir / "report/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for i in (0, 7, 59):
        row, index = rows[i], int(outputs["index"][i])
        assert int(row["index"]) == index and row["source"] == SOURCE.describe(index)
        label = int(outputs["expression"][i])
        assert row["expression"] == (NAMES[label] if label >= 0 else "")
        assert row["expression_predicted"] == NAMES[outputs["logits"][i].argmax()]
        assert sum(float(row[f"p_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-4)
        assert float(row["valence_predicted"]) == pytest.approx(outputs["valence"][i], abs=1e-4)
    assert rows[3]["valence"] == "" and rows[5]["nme"] == ""


def test_stored_errors_are_those_of_the_metrics(workdir):
    outputs = make_outputs()
    stored = predictions.load(workdir / "report")
    metrics = LandmarkStatistics().update(outputs["landmarks"], outputs["true_landmarks"])
    assert np.nanmean(stored["nme"]) == pytest.approx(metrics.compute()["nme"], rel=1e-6)
    np.testing.assert_array_equal(stored["logits"], outputs["logits"])


def test_faces_are_those_of_their_rows(workdir):
    outputs = make_outputs()
    stored = predictions.load(workdir / "report")
    images = {int(i): im for b in make_batches(outputs) for i, im in zip(b["index"], b["image"])}  # noqa: B905
    assert len(stored["face_row"]) == 12
    for k, row in enumerate(stored["face_row"]):
        np.testing.assert_array_equal(stored["face_image"][k], images[int(outputs["index"][row])])
        np.testing.assert_allclose(
            stored["face_landmarks_predicted"][k], outputs["landmarks"][row], rtol=1e-6
        )


def test_mixtures_are_kept_with_the_probabilities():
    mixtures = np.array([[0.75, 0.25], [0.5, 0.5]])
    outputs = {"index": np.arange(2), "logits": np.zeros((2, 2)), "expression_probs": mixtures}
    stored = predictions.gather(outputs, ["a", "b"], ["x", "y"])
    assert stored["expression_probs"].dtype == np.float32
    np.testing.assert_array_equal(stored["expression_probs"], mixtures)


def test_chosen_faces_are_spread_over_classes_whatever_was_predicted():
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    outputs = {"index": np.arange(111) + 5, "expression": labels}
    chosen = predictions.choose_faces(outputs, 7)
    assert len(set(chosen)) == 7
    assert np.bincount(labels[np.array(chosen) - 5]).tolist() == [3, 3, 1]
    assert sorted(predictions.choose_faces({"index": np.arange(3)}, 7)) == [0, 1, 2]


def test_fetching_faces_skips_padding_and_stops_when_done():
    def batches():
        yield {"image": np.zeros((2, 4, 4, 3), np.uint8), "index": [1, 2], "mask": [False, True]}
        yield {"image": np.ones((2, 4, 4, 3), np.uint8), "index": [1, 3], "mask": [True, True]}
        pytest.fail("read on although all faces were there")

    found = predictions.fetch_faces(batches(), [1, 2])
    assert list(found) == [1, 2] and found[1].max() == 1 and found[2].max() == 0


def test_a_tree_adds_arrays_and_columns(tmp_path):
    # Panic is predicted, of fear; wrath, of anger, though joy has the larger sum; nothing.
    probabilities = np.array(
        [[0.1, 0, 0.6, 0.3, 0, 0], [0, 0.3, 0, 0.4, 0.2, 0.1], [np.nan] * 6], np.float32
    )
    with np.errstate(divide="ignore"):
        outputs = {"logits": np.log(probabilities)}
    outputs |= {"index": np.arange(3), "expression": np.array([0, -1, 5])}
    tree = label_trees.SIX
    stored = predictions.gather(outputs, tree.fine, list("abc"), hierarchy=tree)
    assert stored["coarse_names"].tolist() == ["fear", "anger", "joy"]
    assert stored["coarse_of"].tolist() == [0, 2, 0, 1, 2, 2]
    predictions.save(tmp_path, stored)
    found = predictions.stored_hierarchy(predictions.load(tmp_path))
    assert dataclasses.replace(found, name="six") == tree
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ["coarse", "coarse_predicted", "coarse_probability"]
    assert [[row[c] for c in columns] for row in rows] == [
        ["fear", "fear", "0.7"],
        ["", "anger", "0.4"],
        ["joy", "", ""],
    ]


def test_a_tree_of_two_levels_and_none():
    outputs = {"index": np.arange(1), "logits": np.zeros((1, 6))}
    tree = dataclasses.replace(label_trees.SIX, poles=(), pole_of=())
    stored = predictions.gather(outputs, tree.fine, ["a"], hierarchy=tree)
    assert predictions.stored_hierarchy(stored).poles == () and "pole_of" not in stored
    without = predictions.gather(outputs, tree.fine, ["a"])
    assert predictions.stored_hierarchy(without) is None
    assert predictions.coarse_columns(without) == {}


def test_attributes_are_kept_with_their_names(tmp_path):
    outputs = {"index": np.arange(2), "attributes": np.array([[0, 1], [-1, 0]])}
    attributes = [("gender", ("woman", "man")), ("age", ("old",))]
    predictions.save(tmp_path, predictions.gather(outputs, [], list("ab"), attributes=attributes))
    stored = predictions.load(tmp_path)
    np.testing.assert_array_equal(stored["attributes"], outputs["attributes"])
    assert stored["attribute_names"].tolist() == ["gender", "age"]
    assert stored["attribute_values"].tolist() == [["woman", "man"], ["old", ""]]
    assert "attributes" not in predictions.gather({"index": np.arange(2)}, [], list("ab"))


def test_the_values_of_an_attribute_need_no_names():
    source = dataclasses.make_dataclass("Source", ["attribute_names", "attribute_values"])
    found = predictions.attributes_of(source(("gender", "age"), (("m", "f"),)))
    assert found == [("gender", ("m", "f")), ("age", ())]
    outputs = {"index": np.arange(1), "attributes": np.array([[1]])}
    stored = predictions.gather(outputs, [], ["a"], attributes=[("age", ())])
    assert stored["attribute_values"].shape == (1, 0)
