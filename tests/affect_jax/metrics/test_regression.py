"""RMSE, SAGR, PCC and CCC: textbook values, hostile numbers, any partition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from affect_jax.metrics.regression import RegressionStatistics

NAN = np.nan


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


@given(
    pairs=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 30), st.just(2)),
        elements=st.floats(-1, 1, width=32) | st.sampled_from([0.0, 0.1, 1.0, NAN]),
    ),
    cut=st.integers(0, 30),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
)
@settings(derandomize=True, deadline=None, max_examples=40)
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
    parts = {k.removeprefix("x_"): v for k, v in split.compute().items()}
    assert parts == pytest.approx(got, abs=1e-9, rel=0)


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
