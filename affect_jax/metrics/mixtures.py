"""Metrics against distributions over the classes: votes, or true mixtures."""

from __future__ import annotations

from typing import Self

import numpy as np

from affect_jax.metrics.classification import log_softmax
from affect_jax.metrics.masks import unmasked


class MixtureStatistics:
    """How near predictions are to the class distributions of their examples.

    An example counts if its `expression_probs` are known: votes of annotators, or the true mixture
    that a synthetic face shows.
    """

    def __init__(self) -> None:
        # Examples, sum of the divergences, predictions of the largest class.
        self._sums = np.zeros(3)

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Add a batch.

        Args:
            outputs: `logits` [B, N]; without them nothing is added.
            batch: `expression_probs` float [B, N] (a row with a NaN, or without any vote: unknown),
                `mask` bool [B]; without `expression_probs` nothing is added.
        """
        if "logits" not in outputs or "expression_probs" not in batch:
            return self
        votes = np.asarray(batch["expression_probs"], np.float64)
        totals = votes.sum(axis=1, keepdims=True)
        keep = unmasked(batch.get("mask"), len(votes)) & (totals[:, 0] > 0)  # NaN > 0 is False
        true = votes[keep] / totals[keep]
        logs = log_softmax(np.asarray(outputs["logits"])[keep])
        some = true > 0  # 0 log 0 = 0
        ratios = np.log(np.where(some, true, 1.0)) - np.where(some, logs, 0.0)
        # Never negative except by rounding. A NaN stays one.
        divergence = np.maximum((true * ratios).sum(axis=1), 0.0)
        finite = ~np.isnan(logs).any(axis=1)
        right = finite & (logs.argmax(axis=1) == true.argmax(axis=1))
        self._sums += [len(true), divergence.sum(), right.sum()]
        return self

    def merge(self, other: MixtureStatistics) -> Self:
        """Add what `other` has seen."""
        self._sums = self._sums + other._sums
        return self

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; empty without an example.

        `mixture_kl`: mean of KL(distribution || prediction), in nats, at least 0;
        `mixture_accuracy`: fraction of the predictions whose most likely class is that of the
        distribution.
        """
        examples, divergence, right = map(float, self._sums)
        if not examples:
            return {}
        return {"mixture_kl": divergence / examples, "mixture_accuracy": right / examples}

    def state(self) -> np.ndarray:
        """Return everything as a float64 vector."""
        return self._sums.copy()

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""
        self._sums = np.array(state)
        return self
