"""Metrics of a whole data set from sufficient statistics, in float64 on the host.

Every accumulator takes batches of any size in any order (`update`), joins with the accumulator of
another part of the data (`merge`: another process, another split) and gives its figures at the end
(`compute`): the result does not depend on how the data were cut, up to float64 rounding. `state`
and `load_state` turn an accumulator into one float64 vector and back, for exchange between
processes. Masked examples and missing labels (NaN, -1) count nowhere; a figure without a single
labelled example is left out of `compute`; a NaN prediction makes the figures NaN, never better.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, Self

import numpy as np

from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.metrics.regression import RegressionStatistics


class MetricSet:
    """The metrics that a data set has labels for.

    Args:
        has: label fields of the data set, of "expression", "valence_arousal", "landmarks".
        num_classes, class_names, min_count: as in `ClassificationStatistics`.
        extra: further accumulators, whose `update` takes the arguments of this one's.

    The accumulators are attributes, None where the data set has no such labels:
    `classification`, `regression`, `landmarks`.
    """

    def __init__(
        self,
        has: Collection[str],
        num_classes: int,
        class_names: Sequence[str] | None = None,
        min_count: int = 1,
        extra: Sequence[Any] = (),
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
    def parts(self) -> list[Any]:
        """The accumulators in use, in a fixed order."""
        return [
            part
            for part in (self.classification, self.regression, self.landmarks, *self.extra)
            if part is not None
        ]

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Adds a batch, in host arrays.

        Args:
            outputs: `logits` [B, N], `valence` and `arousal` [B], `landmarks` [B, 68, 2] in pixels
                of the batch's images; what a model does not give is not measured.
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
        """Adds what `other`, made for the same labels, has seen."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)
        return self

    def compute(self) -> dict[str, float]:
        """All figures, by name."""
        return {name: value for part in self.parts for name, value in part.compute().items()}

    def to_array(self) -> np.ndarray:
        """Everything, as one float64 vector. Processes exchange these and `merge` what they make
        of them; neither a sum of the vectors nor their passage through float32 would be right.
        """
        return np.concatenate([np.zeros(0), *(part.state() for part in self.parts)])

    def from_array(self, array: np.ndarray) -> Self:
        """A new set, made like this one, of what the `to_array` of another set returned.

        Raises:
            ValueError: the other set was made for other labels.
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
