"""Normalised mean error of 68 landmarks and its distribution."""

from __future__ import annotations

from typing import Self

import numpy as np

from affect_jax.metrics.masks import unmasked

# Histogram of the normalised mean error: 300 bins of 0.001 and one for all that is larger.
NME_BIN_WIDTH = 0.001


NME_BINS = 300


# Where cumulative error curves are cut: by inter-ocular distance as on 300-W (Sagonas et al. 2016),
# by the box as Bulat and Tzimiropoulos (2017) do. Errors beyond are failures.
NME_LIMITS = {"nme": 0.08, "nme_box": 0.07}


# Outer corners of the right and the left eye in iBUG order.
OUTER_EYE_CORNERS = (36, 45)


def landmark_errors(predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """`nme` and `nme_box` of each example (see `LandmarkStatistics`), float64 [B].

    An example that has no such error is -inf; one with a prediction that is no number is NaN.

    Args:
        predictions, targets: [B, 68, 2] in the same pixels; NaN in the targets: missing.
    """
    targets = np.asarray(targets, np.float64)
    seen = np.isfinite(targets).all(2)
    known = np.where(seen[..., None], targets, 0.0)
    distances = np.linalg.norm(np.asarray(predictions, np.float64) - known, axis=2)
    error = np.where(seen, distances, 0.0).sum(1) / np.maximum(seen.sum(1), 1)
    right, left = OUTER_EYE_CORNERS
    eyes = np.where(
        seen[:, right] & seen[:, left],
        np.linalg.norm(known[:, right] - known[:, left], axis=1),
        0.0,
    )
    # Examples without any landmark: a box of one point, whose area is 0.
    low = np.where(seen[..., None], targets, np.inf).min(1)
    high = np.where(seen[..., None], targets, -np.inf).max(1)
    box = np.sqrt(np.prod(np.where(np.isfinite(low), high - low, 0.0), axis=1))
    return {
        figure: np.where(size > 0, error / np.where(size > 0, size, 1.0), -np.inf)
        for figure, size in (("nme", eyes), ("nme_box", box))
    }


class LandmarkStatistics:
    """Normalised mean error of 68 landmarks, and what follows from its distribution.

    `nme` is the mean distance between true and predicted points divided by the distance between
    the true outer eye corners, `nme_box` by the square root of the area of the box around the true
    points; both are means over the examples. Of each, `_auc` is the area under the cumulative error
    curve up to `NME_LIMITS`, divided by that limit (1 is perfect), and `_failures` the share of
    examples beyond it. An example without eye corners, or with a distance or area of 0, has no such
    error. A missing landmark (NaN) is left out of its example.
    """

    FIGURES = ("nme", "nme_box")

    def __init__(self):
        # Of each figure: examples, sum of errors, sum of areas, failures.
        self._sums = np.zeros((2, 4))
        self._histogram = np.zeros((2, NME_BINS + 1))

    def update(
        self, predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Adds predictions and targets [B, 68, 2] in the same pixels; mask bool [B]."""
        keep = unmasked(mask, len(targets))
        return self.add(landmark_errors(np.asarray(predictions)[keep], np.asarray(targets)[keep]))

    def add(self, normalised: dict[str, np.ndarray]) -> Self:
        """Adds errors [B] by figure, as `landmark_errors` gives them."""
        for i, figure in enumerate(self.FIGURES):
            errors = np.asarray(normalised[figure], np.float64)
            errors = errors[~np.isneginf(errors)]
            limit = NME_LIMITS[figure]
            # The area under one example's curve, a step at its error.
            areas = np.clip(1 - errors / limit, 0, None)
            failures = np.count_nonzero(~(errors <= limit))
            self._sums[i] += len(errors), errors.sum(), areas.sum(), failures
            # NaN errors go where the largest ones are.
            bins = np.minimum(np.nan_to_num(errors / NME_BIN_WIDTH, nan=NME_BINS), NME_BINS)
            np.add.at(self._histogram[i], bins.astype(int), 1)
        return self

    def merge(self, other: LandmarkStatistics) -> Self:
        """Adds what `other` has seen."""
        self._sums = self._sums + other._sums
        self._histogram = self._histogram + other._histogram
        return self

    def compute(self) -> dict[str, float]:
        """nme, nme_auc, nme_failures, and the same of nme_box, as fractions (0.05 is 5 %)."""
        return {
            name + suffix: float(total / count)
            for name, (count, *totals) in zip(self.FIGURES, self._sums, strict=True)
            for suffix, total in zip(("", "_auc", "_failures"), totals, strict=True)
            if count
        }

    def curve(self, figure: str = "nme") -> tuple[np.ndarray, np.ndarray]:
        """Cumulative error curve: error limits [300] and the fraction of examples below each."""
        histogram = self._histogram[self.FIGURES.index(figure)]
        limits = NME_BIN_WIDTH * np.arange(1, NME_BINS + 1)
        return limits, np.cumsum(histogram[:-1]) / max(histogram.sum(), 1)

    def state(self) -> np.ndarray:
        """Everything, as a float64 vector."""
        return np.concatenate([self._sums.ravel(), self._histogram.ravel()])

    def load_state(self, state: np.ndarray) -> Self:
        """Takes over what `state` returned."""
        self._sums = np.array(state[:8]).reshape(2, 4)
        self._histogram = np.array(state[8:]).reshape(2, -1)
        return self
