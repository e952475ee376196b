"""The choice of the best checkpoint, by `config.checkpoint.best_metric`."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from affect_jax.config import selection_mode

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """How checkpoints are compared.

    Attributes:
      metric: name of a validation metric.
      sign: 1 if more is better, else -1.
    """

    metric: str
    sign: float

    @classmethod
    def of(cls, metric: str, mode: str) -> Self:
        """Return the criterion of `config.checkpoint.best_metric` and `best_mode`."""
        return cls(metric, 1.0 if selection_mode(metric, mode) == "max" else -1.0)

    def score(self, metrics: Metrics) -> float:
        """Return a number that is larger for better metrics; -inf without a finite value."""
        value = metrics.get(self.metric)
        return -np.inf if value is None or not np.isfinite(value) else self.sign * value

    def rank(self, measured: Mapping[int, Metrics]) -> list[int]:
        """Return the steps with a finite value, the best first; of equals the newer one.

        Args:
          measured: step -> validation metrics.
        """
        scores = [(self.score(metrics), step) for step, metrics in measured.items()]
        return [step for score, step in sorted(scores, reverse=True) if np.isfinite(score)]
