"""Calibration figures against numbers worked out by hand, and what must hold for any logits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from affect_jax.metrics import calibration
from affect_jax.metrics.classification import log_softmax


def test_scores_by_hand():
    logits = np.log([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    figures = calibration.scores(logits, np.array([0, 0, 0]))
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["nll"] == pytest.approx(-math.log(0.8 * 0.3 * 0.6) / 3)
    assert figures["confidence"] == pytest.approx(0.7)
    # 0.8 and 0.6 lie in bins of their own, 0.7 too
    assert figures["ece"] == pytest.approx((0.2 + 0.7 + 0.4) / 3)


def test_average_of_probabilities_by_hand():
    first, second = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]]) + 3.0
    np.testing.assert_allclose(np.exp(calibration.average(first, second)), [[0.7, 0.3]])


def test_two_classes_have_a_temperature_in_closed_form():
    # Three of four are right with the same margin 2: the best probability is 3/4.
    logits = np.array([[2.0, 0.0]] * 4)
    fitted = calibration.fit_temperature(logits, np.array([0, 0, 0, 1]))
    assert not fitted.at_bound
    assert fitted.value == pytest.approx(2.0 / math.log(3.0), rel=1e-10)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperature_of_samples_is_recovered(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40_000, 6)) * 3
    probabilities = np.exp(log_softmax(logits / true))
    labels = (probabilities.cumsum(axis=1) < rng.uniform(size=(40_000, 1))).sum(axis=1)
    fitted = calibration.fit_temperature(logits, labels.clip(0, 5))
    assert fitted.value == pytest.approx(true, rel=0.03)
    before = calibration.scores(logits, labels.clip(0, 5))
    after = calibration.scores(logits / fitted.value, labels.clip(0, 5))
    assert after["nll"] <= before["nll"] and after["ece"] < 0.01


def test_bounds_are_told():
    logits = np.array([[3.0, 0.0], [0.0, 1.0]])
    assert calibration.fit_temperature(logits, np.array([0, 1])) == (0.05, True)
    assert calibration.fit_temperature(logits, np.array([1, 0])) == (20.0, True)


@given(
    hnp.arrays(np.float32, (12, 4), elements=st.floats(-50, 50, width=32)),
    hnp.arrays(np.int32, 12, elements=st.integers(0, 3)),
)
def test_temperature_is_a_minimum_and_leaves_the_prediction(logits, labels):
    fitted = calibration.fit_temperature(logits, labels)
    logits = np.float64(logits)
    scaled = logits / fitted.value
    best = logits.max(axis=1)
    chosen = scaled.argmax(axis=1)
    np.testing.assert_array_equal(np.take_along_axis(logits, chosen[:, None], 1)[:, 0], best)

    def nll(temperature):
        log_probabilities = log_softmax(logits / temperature)
        return -log_probabilities[np.arange(12), labels].mean()

    tolerance = 1e-9 * (1 + abs(nll(fitted.value)))
    for other in (0.05, fitted.value * 0.99, fitted.value * 1.01, 1.0, 20.0):
        if 0.05 <= other <= 20.0:
            assert nll(fitted.value) <= nll(other) + tolerance


def test_rows_that_are_not_finite_do_not_spoil_the_fit():
    logits = np.array([[2.0, 0.0]] * 4 + [[np.nan, 0.0], [-np.inf, 0.0]])
    fitted = calibration.fit_temperature(logits, np.array([0, 0, 0, 1, 0, 0]))
    assert fitted.value == pytest.approx(2.0 / math.log(3.0))


def test_without_labels_there_is_nothing_to_measure():
    for function in (calibration.fit_temperature, calibration.scores):
        with pytest.raises(ValueError, match="no row"):
            function(np.ones((2, 3)), np.array([-1, -1]))


def test_baselines_are_those_of_the_tested_split():
    rng = np.random.default_rng(5)
    splits = []
    for n in (400, 300):
        labels = rng.integers(0, 3, n)
        # Sure of itself beyond reason: right in the mean, twice as steep as it should be.
        logits = 2.0 * (np.eye(3)[labels] + rng.normal(size=(n, 3)))
        splits.append({"logits": logits, "expression": labels})
    fitted, tested = splits
    tested["mirrored_logits"] = tested["logits"][:, ::-1]
    found = calibration.baselines(fitted, tested)
    temperature = calibration.fit_temperature(fitted["logits"], fitted["expression"]).value
    assert found["test_temperature"]["temperature"] == temperature > 1.5
    plain = calibration.scores(tested["logits"], tested["expression"])
    assert found["test_temperature"]["accuracy"] == plain["accuracy"]
    assert found["test_temperature"]["nll"] < plain["nll"]
    averaged = calibration.average(tested["logits"], tested["mirrored_logits"])
    assert found["test_mirror"] == calibration.scores(averaged, tested["expression"])
    del tested["mirrored_logits"]
    assert set(calibration.baselines(fitted, tested)) == {"test_temperature"}
