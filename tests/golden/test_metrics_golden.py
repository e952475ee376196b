"""Regression metrics against those of the official EmoNet code on generated cases."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from affect_jax.metrics.regression import RegressionStatistics

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden"
RECORD = json.loads((GOLDEN / "metrics.json").read_text())["cases"]
CASES = [name for name, case in RECORD.items() if isinstance(case, dict) and "n" in case]


def metric_case(name):
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    return weights.metric_case(name)


@pytest.mark.parametrize("batch_size", [7, 256, 10**6])
@pytest.mark.parametrize("name", CASES)
def test_metrics_equal_the_extended_precision_ones_for_any_batch_size(name, batch_size):
    truth, prediction = metric_case(name)
    statistics = RegressionStatistics(("x",))
    for i in range(0, len(truth), batch_size):
        part = slice(i, i + batch_size)
        statistics.update(prediction[part, None], truth[part, None])
    got = statistics.compute()
    case = RECORD[name]
    reference = {**case, **case.get("extended", {})}
    assert got["x_rmse"] == pytest.approx(reference["RMSE"], rel=1e-12)
    assert got["x_sagr"] == case["SAGR"]
    # null: undefined for constant predictions in the official code, 0 here.
    assert got["x_pcc"] == pytest.approx(reference.get("PCC") or 0.0, rel=1e-11)
    assert got["x_ccc"] == pytest.approx(reference.get("CCC") or 0.0, rel=1e-11)


def test_zero_is_a_sign_of_its_own():
    rule = RECORD["sagr_zero_rule"]
    truth, prediction = (
        np.array([float(x) for x in rule[side].split(",")]) for side in ("truth", "prediction")
    )
    labelled = np.isfinite(truth)  # the official rule counts a missing label as a miss
    for y, p, equal in zip(
        truth[labelled], prediction[labelled], rule["equal_signs"], strict=False
    ):
        got = RegressionStatistics(("x",)).update(np.array([[p]]), np.array([[y]])).compute()
        assert got["x_sagr"] == equal
