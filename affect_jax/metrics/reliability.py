"""Metrics of what reliability balancing does to predictions; see `metrics.base`."""

from __future__ import annotations

from typing import Self

import numpy as np

from affect_jax.metrics.classification import ClassificationStatistics, softmax
from affect_jax.metrics.masks import unmasked

_PRIMARY = ("accuracy", "balanced_accuracy", "f1_macro", "nll", "ece")


class ReliabilityStatistics:
    """Metrics of the primary distribution, and of how the correction changes it.

    Args:
        num_classes: N.
        anchors: anchors per class, K.
        min_count: as in `ClassificationStatistics`.
    """

    def __init__(self, num_classes: int, anchors: int, min_count: int = 1):
        self._primary = ClassificationStatistics(num_classes, None, min_count)
        # Examples, changed ones; labelled ones, those made correct and made wrong; sums of squared
        # deviations of the primary and the final probabilities from 1 / N; sums of the confidences
        # of the primary and the corrected distribution; labelled ones that the latter has correct.
        self._sums = np.zeros(10)
        self._wins = np.zeros(num_classes * anchors)

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Add a batch.

        Args:
            outputs: `primary` and `corrected` [B, N], `logits` [B, N] (of the final distribution)
                and `nearest_anchor` int [B], counted over all classes; without `primary` nothing
                is added.
            batch: `expression` int [B] (-1: no label), `mask` bool [B].
        """
        if "primary" not in outputs:
            return self
        labels = np.asarray(batch["expression"])
        mask = unmasked(batch.get("mask"), len(labels))
        primary, corrected = (np.asarray(outputs[k], np.float64) for k in ("primary", "corrected"))
        with np.errstate(divide="ignore"):
            log_primary = np.maximum(np.log(primary), -1e4)
        self._primary.update(log_primary, labels, mask)
        final = softmax(outputs["logits"])
        before, after = _classes(primary), _classes(final)
        known = mask & (labels >= 0)
        right, now_right = before == labels, after == labels
        spread = [np.square(p - 1 / p.shape[1])[mask].sum() for p in (primary, final)]
        confidences = [_confidence(p)[mask].sum() for p in (primary, corrected)]
        self._sums += [
            mask.sum(),
            (mask & (before != after)).sum(),
            known.sum(),
            (known & ~right & now_right).sum(),
            (known & right & ~now_right).sum(),
            *spread,
            *confidences,
            (known & (_classes(corrected) == labels)).sum(),
        ]
        if self._wins.size and "nearest_anchor" in outputs:
            sure = mask & (after >= 0)
            np.add.at(self._wins, np.asarray(outputs["nearest_anchor"])[sure].astype(int), 1)
        return self

    def merge(self, other: ReliabilityStatistics) -> Self:
        """Add what `other` has seen."""
        self._primary.merge(other._primary)
        self._sums = self._sums + other._sums
        self._wins = self._wins + other._wins
        return self

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; empty without an example.

        `accuracy_primary`, `balanced_accuracy_primary`, `f1_macro_primary`, `nll_primary` and
        `ece_primary`: scores of the uncorrected distribution;
        `accuracy_corrected`: of the corrected distribution alone, before it is blended in;
        `confidence_primary`, `confidence_corrected`: means over the examples;
        `correction_changed`: fraction of the examples whose class the correction changes;
        `correction_better`, `correction_worse`: fractions of the labelled examples that it makes
        correct, and wrong;
        `spread_primary`, `spread_final`: standard deviation of the probabilities around 1 / N;
        with anchors `anchors_never_win`: fraction of anchors that are never the nearest.
        """
        examples, changed, labelled, better, worse, *others = map(float, self._sums)
        spread, (confidence_primary, confidence_corrected, correct) = others[:2], others[2:]
        if not examples:
            return {}
        scores = self._primary.compute()
        figures = {f"{name}_primary": scores[name] for name in _PRIMARY if name in scores}
        figures["confidence_primary"] = confidence_primary / examples
        figures["confidence_corrected"] = confidence_corrected / examples
        figures["correction_changed"] = changed / examples
        if labelled:
            figures["accuracy_corrected"] = correct / labelled
            figures["correction_better"] = better / labelled
            figures["correction_worse"] = worse / labelled
        numbers = examples * self._primary.num_classes
        for name, total in zip(("spread_primary", "spread_final"), spread, strict=True):
            figures[name] = float(np.sqrt(total / numbers))
        if self._wins.size:
            figures["anchors_never_win"] = float(np.mean(self._wins == 0))
        return figures

    def state(self) -> np.ndarray:
        """Return everything as a float64 vector."""
        return np.concatenate([self._sums, self._wins, self._primary.state()])

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""
        start = self._sums.size
        end = start + self._wins.size
        self._sums, self._wins = np.array(state[:start]), np.array(state[start:end])
        self._primary.load_state(state[end:])
        return self


def _classes(probabilities: np.ndarray) -> np.ndarray:
    """Return the most likely class of distributions [B, N]; -1 where not finite."""
    return np.where(np.isfinite(probabilities).all(1), probabilities.argmax(1), -1)


def _confidence(probabilities: np.ndarray) -> np.ndarray:
    """Return C(q) of distributions [B, N], as `models.reliability.confidence` does."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy = -np.sum(probabilities * logs, axis=1)
    return np.maximum(1 - entropy / np.log(probabilities.shape[1]), 0)
