"""Spread over seeds and paired differences, against known numbers and SciPy."""

import numpy as np
import pytest
from scipy import stats

from affect_jax.metrics import spread


def test_statistics_of_known_numbers():
    assert spread.Spread.of([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert np.isnan(spread.Spread.of([1.0]).sd)
    a, b = {0: 0.62, 1: 0.60, 2: 0.64, 9: 0.1}, {0: 0.60, 1: 0.59, 2: 0.61}
    found = spread.paired_difference(a, b)
    expected = stats.ttest_rel([0.62, 0.60, 0.64], [0.60, 0.59, 0.61]).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 3 and not found.is_clear
    assert spread.paired_difference(a, b, confidence=0.5).is_clear
