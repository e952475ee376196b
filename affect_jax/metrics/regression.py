"""Metrics of paired numbers: RMSE, SAGR, PCC and CCC of valence and arousal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from affect_jax.metrics.masks import unmasked


class ConcordanceStatistics(NamedTuple):
    """Sufficient statistics of paired numbers (truth y, prediction p).

    Means are kept relative to an origin (the first pair seen), where they do not lose digits to a
    large common offset, and centred sums are merged by the formula of Chan, Golub and LeVeque
    (1979). The extremes distinguish constant data from data of a tiny spread, independently of
    rounding.
    """

    pairs: float = 0.0
    equal_signs: float = 0.0
    squared_error: float = 0.0
    origin_y: float = 0.0
    origin_p: float = 0.0
    mean_y: float = 0.0
    mean_p: float = 0.0
    centred_yy: float = 0.0
    centred_pp: float = 0.0
    centred_yp: float = 0.0
    min_y: float = np.inf
    max_y: float = -np.inf
    min_p: float = np.inf
    max_p: float = -np.inf

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray) -> ConcordanceStatistics:
        """Return the statistics of float64 arrays [n]; `y` must not hold a NaN."""
        n = len(y)
        if n == 0:
            return cls()
        # A prediction that is not finite makes every metric NaN; no warning is needed.
        with np.errstate(invalid="ignore", over="ignore"):
            dy, dp = y - y[0], p - p[0]
            mean_y, mean_p = dy.mean(), dp.mean()
            dy, dp = dy - mean_y, dp - mean_p
            # Corrects for the rounding of the means.
            rest_y, rest_p = dy.sum(), dp.sum()
            return cls(
                pairs=float(n),
                equal_signs=float(np.sum(np.sign(y) == np.sign(p))),
                squared_error=float(np.sum((y - p) ** 2)),
                origin_y=float(y[0]),
                origin_p=float(p[0]),
                mean_y=float(mean_y),
                mean_p=float(mean_p),
                centred_yy=float(np.sum(dy * dy) - rest_y * rest_y / n),
                centred_pp=float(np.sum(dp * dp) - rest_p * rest_p / n),
                centred_yp=float(np.sum(dy * dp) - rest_y * rest_p / n),
                min_y=float(y.min()),
                max_y=float(y.max()),
                min_p=float(p.min()),
                max_p=float(p.max()),
            )

    def merge(self, other: ConcordanceStatistics) -> ConcordanceStatistics:
        """Return the statistics of both parts together."""
        if other.pairs == 0:
            return self
        if self.pairs == 0:
            return other
        n = self.pairs + other.pairs
        # Step of the mean from this part to the other.
        step_y = (other.origin_y - self.origin_y) + (other.mean_y - self.mean_y)
        step_p = (other.origin_p - self.origin_p) + (other.mean_p - self.mean_p)
        fraction = other.pairs / n
        weight = self.pairs * fraction
        return ConcordanceStatistics(
            pairs=n,
            equal_signs=self.equal_signs + other.equal_signs,
            squared_error=self.squared_error + other.squared_error,
            origin_y=self.origin_y,
            origin_p=self.origin_p,
            mean_y=self.mean_y + step_y * fraction,
            mean_p=self.mean_p + step_p * fraction,
            centred_yy=self.centred_yy + other.centred_yy + step_y * step_y * weight,
            centred_pp=self.centred_pp + other.centred_pp + step_p * step_p * weight,
            centred_yp=self.centred_yp + other.centred_yp + step_y * step_p * weight,
            min_y=float(np.minimum(self.min_y, other.min_y)),
            max_y=float(np.maximum(self.max_y, other.max_y)),
            min_p=float(np.minimum(self.min_p, other.min_p)),
            max_p=float(np.maximum(self.max_p, other.max_p)),
        )

    def compute(self) -> dict[str, float]:
        """Return rmse, sagr, pcc and ccc; empty without a pair.

        PCC and CCC are 0 when either side is constant (their definition gives 0 / 0).
        """
        if self.pairs == 0:
            return {}
        n = self.pairs
        rmse, sagr = np.sqrt(self.squared_error / n), self.equal_signs / n
        spread = np.sqrt(self.centred_yy) * np.sqrt(self.centred_pp)
        constant = self.min_y == self.max_y or self.min_p == self.max_p
        if constant or spread == 0:  # or so nearly constant that the squares underflow
            return {"rmse": float(rmse), "sagr": sagr, "pcc": 0.0, "ccc": 0.0}
        bias = (self.origin_y - self.origin_p) + (self.mean_y - self.mean_p)
        ccc = 2 * self.centred_yp / (self.centred_yy + self.centred_pp + n * bias * bias)
        pcc = np.clip(self.centred_yp / spread, -1.0, 1.0)
        return {"rmse": float(rmse), "sagr": sagr, "pcc": float(pcc), "ccc": float(ccc)}


class RegressionStatistics:
    """RMSE, SAGR, PCC and CCC of several dimensions, with a mask for each.

    Metrics are named `<dimension>_rmse`, `_sagr`, `_pcc`, `_ccc`.
    """

    def __init__(self, dimensions: Sequence[str] = ("valence", "arousal")):
        self.dimensions = tuple(dimensions)
        self.pairs = [ConcordanceStatistics() for _ in self.dimensions]

    def update(
        self, predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Add predictions [B, D] and targets [B, D] (NaN: no label); mask bool [B]."""
        predictions = np.asarray(predictions, np.float64)
        targets = np.asarray(targets, np.float64)
        mask = unmasked(mask, len(targets))
        for d in range(len(self.dimensions)):
            keep = mask & np.isfinite(targets[:, d])
            batch = ConcordanceStatistics.of(targets[keep, d], predictions[keep, d])
            self.pairs[d] = self.pairs[d].merge(batch)
        return self

    def merge(self, other: RegressionStatistics) -> Self:
        """Add what `other` has seen."""
        self.pairs = [a.merge(b) for a, b in zip(self.pairs, other.pairs, strict=True)]
        return self

    def compute(self) -> dict[str, float]:
        """Return the metrics of the dimensions that have labels."""
        return {
            f"{name}_{figure}": value
            for name, pair in zip(self.dimensions, self.pairs, strict=True)
            for figure, value in pair.compute().items()
        }

    def state(self) -> np.ndarray:
        """Return everything as float64 [D * 14]."""
        return np.asarray(self.pairs, np.float64).reshape(-1)

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""
        rows = np.reshape(state, (len(self.dimensions), -1))
        self.pairs = [ConcordanceStatistics(*map(float, row)) for row in rows]
        return self
