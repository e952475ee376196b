"""Mean and spread over seeds, and paired differences with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """Mean, standard deviation (n - 1; NaN for one run) and count of several runs."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of numbers: NaN where any is NaN, or without numbers."""
        array = np.asarray(list(values), np.float64)
        if array.size == 0:
            return cls(math.nan, math.nan, 0)
        sd = float(array.std(ddof=1)) if array.size > 1 else math.nan
        return cls(float(array.mean()), sd, array.size)


class Difference(NamedTuple):
    """Mean of paired differences and its confidence interval (NaN for one pair)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0; an interval without width (rounding) says nothing."""
        wide = self.high - self.low > 1e-9 * max(abs(self.low), abs(self.high))
        return wide and (self.low > 0 or self.high < 0)


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference:
    """Return a - b over common keys (seeds), with Student's t interval of the mean."""
    from scipy import stats  # slow to import

    spread = Spread.of(a[k] - b[k] for k in sorted(a.keys() & b.keys()))
    if spread.n < 2:
        return Difference(spread.mean, math.nan, math.nan, spread.n)
    half = stats.t.ppf((1 + confidence) / 2, spread.n - 1) * spread.sd / math.sqrt(spread.n)
    return Difference(spread.mean, spread.mean - half, spread.mean + half, spread.n)
