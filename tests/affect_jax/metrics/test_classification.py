"""Confusion, recall, likelihood and calibration by hand."""

import numpy as np
import pytest

from affect_jax.metrics.classification import ClassificationStatistics, log_softmax, softmax

NAN = np.nan


def logits_for(guesses, classes, sharpness=5.0):
    return sharpness * np.eye(classes)[guesses]


def test_classification_figures_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 2, -1])
    guess = np.array([0, 0, 0, 1, 1, 0, 1, 2])
    statistics = ClassificationStatistics(4, ("neutral", "happy", "sad", "fear"))
    got = statistics.update(logits_for(guess, 4), truth).compute()
    np.testing.assert_array_equal(
        statistics.confusion, [[3, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    )
    assert got["accuracy"] == pytest.approx(4 / 7)
    assert got["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert got["f1_macro"] == pytest.approx((6 / 8 + 2 / 5 + 0) / 3)
    assert got["classes_counted"] == 3
    assert got["recall_neutral"] == 0.75
    assert got["recall_sad"] == 0
    assert "recall_fear" not in got


def test_rare_classes_are_left_out_but_still_mislead():
    truth, guess = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 1, 1])
    statistics = ClassificationStatistics(3, min_count=3)
    got = statistics.update(logits_for(guess, 3), truth).compute()
    assert got["classes_counted"] == 2
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["f1_macro"] == pytest.approx((4 / 5 + 6 / 8) / 2)
    assert got["accuracy"] == pytest.approx(5 / 7)
    nobody = ClassificationStatistics(3, min_count=9).update(logits_for(guess, 3), truth)
    assert nobody.compute()["classes_counted"] == 0
    assert "f1_macro" not in nobody.compute()


def test_likelihood_and_calibration_match_their_definitions():
    rng = np.random.default_rng(3)
    logits, labels = 2 * rng.standard_normal((500, 5)), rng.integers(0, 5, 500)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = ClassificationStatistics(5).update(logits, labels).compute()
    assert got["nll"] == pytest.approx(-np.log(probs[np.arange(500), labels]).mean(), rel=1e-12)
    confidence, right = probs.max(1), probs.argmax(1) == labels
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert got["ece"] == pytest.approx(ece, rel=1e-9)
    log_probs = ClassificationStatistics(5).update(np.log(probs), labels).compute()
    assert log_probs == pytest.approx(got)


def test_bins_of_certain_and_right_predictions():
    statistics = ClassificationStatistics(3).update(logits_for([0, 1, 2], 3, 1e4), [0, 1, 2])
    count, confidence, accuracy = statistics.calibration_bins
    np.testing.assert_array_equal(count, [0] * 14 + [3])
    np.testing.assert_array_equal(confidence, [0] * 14 + [1])
    np.testing.assert_array_equal(accuracy, confidence)
    assert statistics.compute()["ece"] == 0


def test_bins_by_hand():
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.38, 0.62], [0.5, 0.5], [1.0, 0.0]]
    labels = np.array([0, 1, 1, 0, -1])
    with np.errstate(divide="ignore"):
        statistics = ClassificationStatistics(2).update(np.log(probabilities), labels)
    count, confidence, accuracy = statistics.calibration_bins
    np.testing.assert_array_equal(np.flatnonzero(count), [7, 9, 13])  # without the unlabelled one
    np.testing.assert_allclose(confidence[[7, 9, 13]], [0.5, 0.62, 0.9])
    np.testing.assert_allclose(accuracy[[7, 9, 13]], [1.0, 1.0, 0.5])
    assert statistics.compute()["ece"] == pytest.approx((0.5 + 0.38 + 2 * 0.4) / 4)


def test_softmax_of_ruled_out_classes_and_of_what_is_not_finite():
    logits = np.float32([[-np.inf, 3, 3], [np.nan, 1, 0], [0, np.inf, 1]])
    for found in (softmax(logits), np.exp(log_softmax(logits))):
        np.testing.assert_allclose(found[0], [0, 0.5, 0.5])
        assert np.isnan(found[1:]).any(axis=1).all()


def test_nan_logits_are_never_right():
    logits = np.zeros((4, 3))
    logits[1:] = NAN
    got = ClassificationStatistics(3).update(logits, np.zeros(4, int)).compute()
    assert got["accuracy"] == got["balanced_accuracy"] == 0.25
    assert np.isnan(got["nll"])
    assert np.isnan(got["ece"])


def test_labels_and_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="label 3 but there are 3 classes"):
        ClassificationStatistics(3).update(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match="3 classes but 2 class names"):
        ClassificationStatistics(3, ("a", "b"))
