"""Normalised mean error by hand, its curve, and missing or lost points."""

import numpy as np
import pytest

from affect_jax.metrics.landmarks import LandmarkStatistics, error_curve, landmark_errors

NAN = np.nan


def face(scale=1.0):
    """68 points with the outer eye corners 40 apart, in a box of 50 x 72."""
    points = np.tile([10.0, 20.0], (68, 1))
    points[36], points[45] = (5, 10), (45, 10)
    points[0], points[8] = (0, 0), (50, 72)
    return scale * points


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_normalised_mean_error_by_hand(scale):
    truth = face(scale)[None]
    guess = truth + scale * np.array([3.0, 4.0])
    got = LandmarkStatistics().update(guess, truth).compute()
    assert got["nme"] == pytest.approx(5 / 40)
    assert got["nme_box"] == pytest.approx(5 / 60)


def test_missing_landmarks_and_eye_corners():
    truth = np.stack([face(), face(), face(), np.full((68, 2), NAN)])
    truth[0, 20] = NAN
    truth[1, 36] = NAN
    guess = np.nan_to_num(truth)
    guess[0, :, 0] += 4
    guess[0, 20] = 1e6
    guess[1, :, 0] += 6
    got = LandmarkStatistics().update(guess, truth).compute()
    assert got["nme"] == pytest.approx((4 / 40 + 0) / 2)
    # Without its eye corner the second face still spans the same box.
    assert got["nme_box"] == pytest.approx((4 / 60 + 6 / 60 + 0) / 3)
    assert LandmarkStatistics().update(guess[3:], truth[3:]).compute() == {}


def test_cumulative_error_curve():
    errors, fraction = error_curve(np.array([0.2, np.nan, 0.1, np.inf, 0.4]))
    np.testing.assert_array_equal(errors, [0.1, 0.2, 0.4])
    np.testing.assert_allclose(fraction, [1 / 3, 2 / 3, 1])


def test_area_and_failures_are_those_of_the_exact_curve():
    rng = np.random.default_rng(0)
    truth = np.stack([face()] * 200)
    guess = truth + np.abs(rng.normal(size=200))[:, None, None] * np.array([1.5, 2.0])
    got = LandmarkStatistics().update(guess[:70], truth[:70])
    got.merge(LandmarkStatistics().update(guess[70:], truth[70:]))
    for name, limit in (("nme", 0.08), ("nme_box", 0.07)):
        errors = landmark_errors(guess, truth)[name]
        grid = np.linspace(0, limit, 4001)
        curve = (errors[:, None] <= grid).mean(0)
        area = np.sum((curve[1:] + curve[:-1]) / 2 * np.diff(grid)) / limit
        assert got.compute()[f"{name}_auc"] == pytest.approx(area, abs=1e-4)
        assert got.compute()[f"{name}_failures"] == pytest.approx(np.mean(errors > limit))


def test_a_landmark_that_is_no_number_is_a_failure():
    truth = np.stack([face()] * 2)
    guess = truth.copy()
    guess[0, 3] = NAN
    got = LandmarkStatistics().update(guess, truth).compute()
    assert np.isnan(got["nme"]) and np.isnan(got["nme_auc"])
    assert got["nme_failures"] == 0.5
    truth[1, 36] = NAN
    errors = landmark_errors(guess, truth)
    assert np.isinf(errors["nme"][0]) and np.isnan(errors["nme"][1])
    np.testing.assert_array_equal(errors["nme_box"], [np.inf, 0])
