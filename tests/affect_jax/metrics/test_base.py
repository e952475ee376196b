"""Metrics: textbook values, and independence of how the data are cut, ordered and masked."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics, landmark_errors
from affect_jax.metrics.regression import RegressionStatistics

NAN = np.nan
HAS = {"expression", "valence_arousal", "landmarks"}
deterministic = settings(derandomize=True, deadline=None, max_examples=40)


def textbook(y, p):
    """RMSE, SAGR, PCC and CCC in extended precision."""
    y, p = y.astype(np.longdouble), p.astype(np.longdouble)
    cov = np.mean((y - y.mean()) * (p - p.mean()))
    return {
        "rmse": np.sqrt(np.mean((y - p) ** 2)),
        "sagr": np.mean(np.sign(y) == np.sign(p)),
        "pcc": cov / np.sqrt(y.var() * p.var()),
        "ccc": 2 * cov / (y.var() + p.var() + (y.mean() - p.mean()) ** 2),
    }


def regression(y, p, mask=None):
    got = RegressionStatistics(("x",)).update(p[:, None], y[:, None], mask).compute()
    return {k.removeprefix("x_"): v for k, v in got.items()}


def example_batch(seed, n=40, classes=4):
    """Model outputs and labels with every kind of missing label."""
    rng = np.random.default_rng(seed)
    batch = {
        "expression": rng.integers(-1, classes, n),
        "valence_arousal": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "landmarks": rng.uniform(0, 64, (n, 68, 2)).astype(np.float32),
        "mask": rng.random(n) < 0.8,
    }
    batch["valence_arousal"][rng.random((n, 2)) < 0.2] = NAN
    batch["landmarks"][rng.random((n, 68)) < 0.01] = NAN
    batch["landmarks"][rng.random(n) < 0.2] = NAN
    outputs = {
        "logits": 3 * rng.standard_normal((n, classes)).astype(np.float32),
        "valence": rng.standard_normal(n).astype(np.float32),
        "arousal": rng.standard_normal(n).astype(np.float32),
        "landmarks": rng.uniform(0, 64, (n, 68, 2)).astype(np.float32),
    }
    return outputs, batch


def metric_set(outputs, batch, rows=None):
    def take(arrays):
        return arrays if rows is None else {k: v[rows] for k, v in arrays.items()}

    return MetricSet(HAS, 4).update(take(outputs), take(batch))


def assert_same(a, b, tolerance=1e-9):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == pytest.approx(b[name], abs=tolerance, rel=0), name


# ------------------------------------------------------------------ invariants


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=12))
@deterministic
def test_any_partition_gives_the_same_figures(seed, cuts):
    outputs, batch = example_batch(seed)
    bounds = [0, *sorted(cuts), 40]
    parts = [metric_set(outputs, batch, slice(a, b)) for a, b in itertools.pairwise(bounds)]
    whole = metric_set(outputs, batch).compute()
    merged = MetricSet(HAS, 4)
    for part in parts:
        merged.merge(part)
    assert_same(merged.compute(), whole)
    streamed = MetricSet(HAS, 4)
    for a, b in itertools.pairwise(bounds):
        streamed.update(
            {k: v[a:b] for k, v in outputs.items()}, {k: v[a:b] for k, v in batch.items()}
        )
    assert_same(streamed.compute(), whole)


@given(seed=st.integers(0, 1000))
@deterministic
def test_any_order_gives_the_same_figures(seed):
    outputs, batch = example_batch(seed)
    order = np.random.default_rng(seed).permutation(40)
    assert_same(metric_set(outputs, batch, order).compute(), metric_set(outputs, batch).compute())


@given(seed=st.integers(0, 1000), cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)))
@deterministic
def test_merging_is_associative(seed, cuts):
    outputs, batch = example_batch(seed)
    i, j = sorted(cuts)

    def part(a, b):
        return metric_set(outputs, batch, slice(a, b))

    left = part(0, i).merge(part(i, j)).merge(part(j, 40))
    right = part(0, i).merge(part(i, j).merge(part(j, 40)))
    assert_same(left.compute(), right.compute(), 1e-12)


@given(
    pairs=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 30), st.just(2)),
        elements=st.floats(-1, 1, width=32) | st.sampled_from([0.0, 0.1, 1.0, NAN]),
    ),
    cut=st.integers(0, 30),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
)
@deterministic
def test_bounds_and_partition_hold_for_hostile_numbers(pairs, cut, offset):
    y, p = pairs[:, 0] + offset, np.nan_to_num(pairs[:, 1]) + offset
    got = regression(y, p)
    labelled = np.isfinite(y)
    if not labelled.any():
        assert got == {}
        return
    assert got["rmse"] >= 0
    assert 0 <= got["sagr"] <= 1
    assert -1 <= got["pcc"] <= 1
    assert abs(got["ccc"]) <= abs(got["pcc"]) + 1e-12
    if len(set(p[labelled])) == 1 or len(set(y[labelled])) == 1:
        assert got["pcc"] == got["ccc"] == 0
    split = RegressionStatistics(("x",))
    split.update(p[cut:, None], y[cut:, None]).update(p[:cut, None], y[:cut, None])
    assert_same({k.removeprefix("x_"): v for k, v in split.compute().items()}, got)


@given(seed=st.integers(0, 1000))
@deterministic
def test_states_travel_as_float64_vectors(seed):
    outputs, batch = example_batch(seed)
    one, two = (metric_set(outputs, batch, rows) for rows in (slice(0, 15), slice(15, 40)))
    rows = np.stack([one.to_array(), two.to_array()])
    assert rows.dtype == np.float64
    gathered = MetricSet(HAS, 4)
    for row in rows:
        gathered.merge(gathered.from_array(row))
    assert gathered.compute() == one.merge(two).compute()


@given(seed=st.integers(0, 1000))
@deterministic
def test_masked_and_unlabelled_examples_count_nowhere(seed):
    outputs, batch = example_batch(seed)
    expected = metric_set(outputs, batch, batch["mask"]).compute()
    for values in outputs.values():
        values[~batch["mask"]] = NAN
    outputs["valence"][np.isnan(batch["valence_arousal"][:, 0])] = NAN
    outputs["logits"][batch["expression"] < 0] = NAN
    assert_same(metric_set(outputs, batch).compute(), expected, 1e-12)


# ------------------------------------------------------------------ regression


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_a_million_examples_with_a_large_mean(offset):
    rng = np.random.default_rng(0)
    y = offset + 0.3 * rng.standard_normal(10**6)
    p = y + 0.05 + 0.2 * rng.standard_normal(10**6)
    statistics = RegressionStatistics(("x",))
    for part in np.array_split(np.arange(10**6), 1003):
        statistics.update(p[part, None], y[part, None])
    for name, value in textbook(y, p).items():
        assert statistics.compute()[f"x_{name}"] == pytest.approx(float(value), abs=1e-12)


def test_a_spread_far_below_the_mean_keeps_its_digits_one_example_at_a_time():
    rng = np.random.default_rng(1)
    y = rng.uniform(-1, 1, 500)
    p = 0.3 + 1e-9 * (y + rng.standard_normal(500))
    statistics = RegressionStatistics(("x",))
    for i in range(500):
        statistics.update(p[i : i + 1, None], y[i : i + 1, None])
    expected = textbook(y, p)
    assert statistics.compute()["x_pcc"] == pytest.approx(float(expected["pcc"]), abs=1e-12)


@pytest.mark.parametrize("value", [0.25, 0.1, 1e6 + 0.1])
def test_constant_predictions_or_labels_give_zero(value):
    y = np.random.default_rng(0).uniform(-1, 1, 999)
    constant = np.full(999, value)
    for truth, prediction in [(y, constant), (constant, y), (constant, constant)]:
        statistics = RegressionStatistics(("x",))
        for part in np.array_split(np.arange(999), 7):
            statistics.update(prediction[part, None], truth[part, None])
        got = statistics.compute()
        assert got["x_pcc"] == got["x_ccc"] == 0


def test_perfect_and_shifted_predictions():
    y = np.linspace(-1, 1, 21)
    assert regression(y, y) == {"rmse": 0, "sagr": 1, "pcc": 1, "ccc": 1}
    assert regression(y, -y)["ccc"] == pytest.approx(-1)
    assert regression(y, y + 0.5)["rmse"] == pytest.approx(0.5)


def test_dimensions_are_masked_apart():
    y = np.array([[0.1, NAN], [0.5, 0.2], [-0.3, NAN], [NAN, -0.4]])
    p = np.array([[0.2, 9.0], [0.4, 0.1], [-0.1, 9.0], [9.0, -0.2]])
    got = RegressionStatistics().update(p, y).compute()
    for name, rows, d in (("valence", [0, 1, 2], 0), ("arousal", [1, 3], 1)):
        for figure, value in textbook(y[rows, d], p[rows, d]).items():
            assert got[f"{name}_{figure}"] == pytest.approx(float(value), rel=1e-12)
    unlabelled = RegressionStatistics().update(p, np.where([True, False], y, NAN)).compute()
    assert set(unlabelled) == {f"valence_{x}" for x in ("rmse", "sagr", "pcc", "ccc")}


@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_a_prediction_that_is_not_finite_shows(bad):
    y, p = np.linspace(-1, 1, 5), np.full(5, 0.1)
    p[3] = bad
    statistics = RegressionStatistics(("x",)).update(p[:3, None], y[:3, None])
    got = statistics.update(p[3:, None], y[3:, None]).compute()
    assert not np.isfinite(got["x_rmse"])
    assert np.isnan(got["x_pcc"])
    assert np.isnan(got["x_ccc"])


# -------------------------------------------------------------- classification


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


def test_reliability_of_certain_and_right_predictions():
    statistics = ClassificationStatistics(3).update(logits_for([0, 1, 2], 3, 1e4), [0, 1, 2])
    count, confidence, accuracy = statistics.reliability()
    np.testing.assert_array_equal(count, [0] * 14 + [3])
    assert confidence[-1] == accuracy[-1] == 1
    assert np.isnan(confidence[:-1]).all()
    assert statistics.compute()["ece"] == 0


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


# ------------------------------------------------------------------- landmarks


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
    truth = np.stack([face()] * 4)
    guess = truth.copy()
    guess[:, :, 0] += np.array([0.0, 0.5, 2.02, 400.0])[:, None]
    limits, fraction = LandmarkStatistics().update(guess, truth).curve()
    assert limits[0] == pytest.approx(0.001)
    np.testing.assert_array_equal(
        fraction[[0, 11, 12, 49, 50, -1]], [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    )


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
    assert np.isnan(got["nme"])
    assert got["nme_failures"] == 0.5


# ------------------------------------------------------------------------- set


def test_only_labels_and_outputs_that_exist_are_measured():
    outputs, batch = example_batch(0)
    assert set(MetricSet({"expression"}, 4).update(outputs, batch).compute()) >= {"accuracy", "ece"}
    assert MetricSet(HAS, 4).compute() == {}
    assert MetricSet((), 4).update(outputs, batch).compute() == {}
    assert MetricSet((), 4).to_array().shape == (0,)
    only = MetricSet(HAS, 4).update({"landmarks": outputs["landmarks"]}, batch).compute()
    ends = ("", "_auc", "_failures")
    assert set(only) == {f"{name}{end}" for name in ("nme", "nme_box") for end in ends}


def test_a_state_of_other_labels_is_refused():
    state = MetricSet({"expression"}, 4).to_array()
    with pytest.raises(ValueError, match="other labels or classes"):
        MetricSet({"expression"}, 5).from_array(state)
