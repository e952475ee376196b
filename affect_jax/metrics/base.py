"""Metrics of a whole data set from sufficient statistics, in float64 on the host.

An accumulator (`Statistics`) takes batches of any size in any order. The result does not depend on
how the data were divided, up to float64 rounding. Masked examples and missing labels (NaN, -1) are
left out. A metric without a labelled example is absent. A NaN prediction makes a metric NaN; it
cannot improve it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Protocol, Self

import numpy as np

from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.metrics.regression import RegressionStatistics


class Statistics(Protocol):
    """An accumulator of metrics."""

    def merge(self, other: Self) -> Self:
        """Add what `other` has seen: another process, another split."""

    def compute(self) -> dict[str, float]:
        """Return the metrics by name."""

    def state(self) -> np.ndarray:
        """Return everything as a float64 vector, for exchange between processes."""

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""


class BatchStatistics(Statistics, Protocol):
    """An accumulator that takes whole outputs and batches, as `MetricSet` does."""

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Add a batch."""


class MetricSet:
    """The metrics that a data set has labels for.

    The accumulators are attributes, None where the data set has no such labels:
    `classification`, `regression`, `landmarks`.

    Args:
        has: label fields of the data set, of "expression", "valence_arousal", "landmarks".
        num_classes, class_names, min_count: as in `ClassificationStatistics`.
        extra: further accumulators.
    """

    def __init__(
        self,
        has: Collection[str],
        num_classes: int,
        class_names: Sequence[str] | None = None,
        min_count: int = 1,
        extra: Sequence[BatchStatistics] = (),
    ):
        self.extra = list(extra)
        self.classification = (
            ClassificationStatistics(num_classes, class_names, min_count)
            if "expression" in has
            else None
        )
        self.regression = RegressionStatistics() if "valence_arousal" in has else None
        self.landmarks = LandmarkStatistics() if "landmarks" in has else None

    @property
    def parts(self) -> list[Statistics]:
        """The accumulators in use, in a fixed order."""
        parts = (self.classification, self.regression, self.landmarks, *self.extra)
        return [part for part in parts if part is not None]

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Add a batch of host arrays.

        Args:
            outputs: `logits` [B, N], `valence` and `arousal` [B], `landmarks` [B, 68, 2] in pixels
                of the batch's images. Absent outputs are not measured.
            batch: `expression` [B], `valence_arousal` [B, 2], `landmarks` [B, 68, 2] and `mask`
                [B] (False: padding).
        """
        mask = batch.get("mask")
        if self.classification is not None and "logits" in outputs:
            self.classification.update(outputs["logits"], batch["expression"], mask)
        if self.regression is not None and "valence" in outputs:
            predictions = np.stack([outputs["valence"], outputs["arousal"]], axis=1)
            self.regression.update(predictions, batch["valence_arousal"], mask)
        if self.landmarks is not None and "landmarks" in outputs:
            self.landmarks.update(outputs["landmarks"], batch["landmarks"], mask)
        for part in self.extra:
            part.update(outputs, batch)
        return self

    def merge(self, other: MetricSet) -> Self:
        """Add what `other`, made for the same labels, has seen."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)
        return self

    def compute(self) -> dict[str, float]:
        """Return all metrics by name."""
        return {name: value for part in self.parts for name, value in part.compute().items()}

    def to_array(self) -> np.ndarray:
        """Return everything as one float64 vector, which `from_array` reads.

        Processes exchange these vectors. Their sum, or a cast to float32, would be wrong.
        """
        return np.concatenate([np.zeros(0), *(part.state() for part in self.parts)])

    def from_array(self, array: np.ndarray) -> Self:
        """Return a new set like this one from the `to_array` of another set.

        Raises:
            ValueError: the other set was made for other labels or classes.
        """
        made = copy.deepcopy(self)
        sizes = [part.state().size for part in made.parts]
        if np.shape(array) != (sum(sizes),):
            raise ValueError(
                f"the state of these metrics has {sum(sizes)} numbers, not {np.size(array)}: "
                "the other set was made for other labels or classes"
            )
        ends = np.cumsum(sizes)
        for part, start, end in zip(made.parts, ends - np.array(sizes), ends, strict=True):
            part.load_state(array[start:end])
        return made
