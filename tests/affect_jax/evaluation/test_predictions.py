"""Stored predictions: traced to their files, equal to the metrics, with some faces."""

import csv

import numpy as np
import pytest

from affect_jax.evaluation import predictions
from affect_jax.metrics.landmarks import LandmarkStatistics
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
