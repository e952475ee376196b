"""Normalised mean error (NME) of 68 landmarks and its distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from affect_jax.metrics.masks import unmasked

# Where cumulative error curves are cut: by inter-ocular distance as on 300-W (Sagonas et al. 2016),
# by the box as Bulat and Tzimiropoulos (2017) do. Errors beyond are failures.
NME_LIMITS = {"nme": 0.08, "nme_box": 0.07}
# Outer corners of the right and the left eye in iBUG order.
_OUTER_EYE_CORNERS = (36, 45)


def landmark_errors(predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return `nme` and `nme_box` of each example, float64 [B].

    NaN: the targets do not define this error. Infinite: a predicted point is not a number.

    Args:
        predictions, targets: [B, 68, 2] in the same pixels; NaN in the targets: missing.
    """
    targets = np.asarray(targets, np.float64)
    seen = np.isfinite(targets).all(2)
    known = np.where(seen[..., None], targets, 0.0)
    distances = np.linalg.norm(np.asarray(predictions, np.float64) - known, axis=2)
    error = np.where(seen, distances, 0.0).sum(1) / np.maximum(seen.sum(1), 1)
    error = np.where(np.isnan(error), np.inf, error)
    right, left = _OUTER_EYE_CORNERS
    eyes = np.where(
        seen[:, right] & seen[:, left],
        np.linalg.norm(known[:, right] - known[:, left], axis=1),
        0.0,
    )
    # Without a landmark the box has an area of 0.
    low = np.where(seen[..., None], targets, np.inf).min(1)
    high = np.where(seen[..., None], targets, -np.inf).max(1)
    box = np.sqrt(np.prod(np.where(np.isfinite(low), high - low, 0.0), axis=1))
    return {
        name: np.where(size > 0, error / np.where(size > 0, size, 1.0), np.nan)
        for name, size in (("nme", eyes), ("nme_box", box))
    }


class LandmarkStatistics:
    """Normalised mean error of 68 landmarks, area under its curve, and failures.

    `nme` is the mean distance between true and predicted points, divided by the distance between
    the true outer eye corners. `nme_box` is the same, divided by the square root of the area of the
    box around the true points. Both are means over the examples. Of each, `_auc` is the area under
    the cumulative error curve up to `NME_LIMITS`, divided by that limit (1 is perfect), and
    `_failures` the fraction of examples beyond it. An example without eye corners, or with a
    distance or area of 0, has no such error. A missing landmark (NaN) is left out of its example.
    One prediction that is not a number makes the means and areas NaN.
    """

    FIGURES = ("nme", "nme_box")

    def __init__(self):
        # Of each figure: examples, sum of errors, sum of areas, failures.
        self._sums = np.zeros((2, 4))

    def update(
        self, predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Add predictions and targets [B, 68, 2] in the same pixels; mask bool [B]."""
        keep = unmasked(mask, len(targets))
        return self.add(landmark_errors(np.asarray(predictions)[keep], np.asarray(targets)[keep]))

    def add(self, errors: Mapping[str, np.ndarray]) -> Self:
        """Add errors [B] by name, as `landmark_errors` returns them."""
        for i, name in enumerate(self.FIGURES):
            own = np.asarray(errors[name], np.float64)
            own = own[~np.isnan(own)]
            # The area under the curve of one example, a step at its error.
            areas = np.clip(1 - own / NME_LIMITS[name], 0, None)
            failures = np.count_nonzero(own > NME_LIMITS[name])
            self._sums[i] += len(own), own.sum(), areas.sum(), failures
        return self

    def merge(self, other: LandmarkStatistics) -> Self:
        """Add what `other` has seen."""
        self._sums = self._sums + other._sums
        return self

    def compute(self) -> dict[str, float]:
        """Return nme, nme_auc, nme_failures and the same of nme_box, as fractions."""
        figures = {}
        for name, (count, error, area, failures) in zip(self.FIGURES, self._sums, strict=True):
            if count:
                lost = np.isinf(error)
                figures[name] = np.nan if lost else float(error / count)
                figures[f"{name}_auc"] = np.nan if lost else float(area / count)
                figures[f"{name}_failures"] = float(failures / count)
        return figures

    def state(self) -> np.ndarray:
        """Return everything as a float64 vector."""
        return self._sums.ravel()

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""
        self._sums = np.array(state).reshape(2, 4)
        return self


def error_curve(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cumulative error curve: sorted errors, and the fraction up to each.

    Args:
        errors: [n], one of `landmark_errors`.
    """
    errors = np.sort(np.asarray(errors, np.float64))
    errors = errors[np.isfinite(errors)]
    return errors, np.arange(1, errors.size + 1) / max(errors.size, 1)
