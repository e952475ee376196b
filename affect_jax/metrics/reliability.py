"""What reliability balancing does to a data set's predictions; see `affect_jax.metrics.base`."""

from __future__ import annotations

import functools
from typing import Self

import numpy as np

from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.classification import ClassificationStatistics

_PRIMARY = ("accuracy", "balanced_accuracy", "f1_macro", "nll", "ece")


def names_of(metrics: MetricSet, num_classes: int, count: int) -> set[str]:
    """Names of all figures that empty `metrics` give, once they have seen `count` examples of each
    class, and of the loss."""
    rows = max(num_classes, 1) * count
    outputs = {
        "logits": np.zeros((rows, num_classes)),
        "primary": np.ones((rows, num_classes)),
        "corrected": np.ones((rows, num_classes)),
        "nearest_anchor": np.zeros(rows, int),
        "valence": np.zeros(rows),
        "arousal": np.zeros(rows),
        "landmarks": np.zeros((rows, 68, 2)),
    }
    labels = {
        "expression": (np.arange(rows) % max(num_classes, 1)).astype(np.int32),
        "valence_arousal": np.zeros((rows, 2)),
        "landmarks": np.arange(rows * 136.0).reshape(rows, 68, 2),
    }
    return {"loss", *metrics.update(outputs, labels).compute()}


@functools.cache
def known_names(fields: tuple[str, ...] | None = None) -> frozenset[str]:
    """Names of all figures that an evaluation can give, but for `recall_<class>`.

    Args:
        fields: label fields that are measured, without a loss; None: everything.
    """
    if fields is None:
        has = ("expression", "valence_arousal", "landmarks")
        names = names_of(MetricSet(has, 2, extra=[ReliabilityStatistics(2, 1)]), 2, 2)
    else:
        names = names_of(MetricSet(fields, 2), 2, 2) - {"loss"}
    return frozenset(n for n in names if not n.startswith("recall_"))


class ReliabilityStatistics:
    """Scores of the primary distribution, and how often the final one differs.

    Args:
        num_classes: N.
        anchors: anchors per class, K.
        min_count: as in `ClassificationStatistics`.
    """

    def __init__(self, num_classes: int, anchors: int, min_count: int = 1):
        self._primary = ClassificationStatistics(num_classes, None, min_count)
        # Examples, changed ones; labelled ones, made right, made wrong; sum of squared deviations
        # of the primary and of the final probabilities from 1 / N; confidences of the primary and
        # of the correction's distribution, labelled ones that the latter alone has right.
        self._sums = np.zeros(10)
        self._wins = np.zeros(num_classes * anchors)

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Adds a batch.

        Args:
            outputs: `primary` and `corrected` [B, N], `logits` [B, N] (of the final distribution)
                and `nearest_anchor` int [B], counted over all classes; without `primary` nothing
                is added.
            batch: `expression` int [B] (-1: no label), `mask` bool [B].
        """
        if "primary" not in outputs:
            return self
        labels = np.asarray(batch["expression"])
        mask = np.asarray(batch.get("mask", np.ones(len(labels), bool)), bool)
        primary, corrected = (np.asarray(outputs[k], np.float64) for k in ("primary", "corrected"))
        with np.errstate(divide="ignore"):
            log_primary = np.maximum(np.log(primary), -1e4)
        self._primary.update(log_primary, labels, mask)
        final = np.asarray(outputs["logits"], np.float64)
        final = np.exp(final - final.max(1, keepdims=True))
        final /= final.sum(1, keepdims=True)
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
        """Adds what `other` has seen."""
        self._primary.merge(other._primary)
        self._sums = self._sums + other._sums
        self._wins = self._wins + other._wins
        return self

    def compute(self) -> dict[str, float]:
        """Empty without an example; otherwise

        `accuracy_primary`, `balanced_accuracy_primary`, `f1_macro_primary`, `nll_primary` and
        `ece_primary`: scores of the uncorrected distribution;
        `accuracy_corrected`: of the correction's distribution by itself, before it is blended in;
        `confidence_primary`, `confidence_corrected`: means over the examples;
        `correction_changed`: share of the examples whose class the correction changes;
        `correction_better`, `correction_worse`: shares of the labelled examples that it makes
        right, and wrong;
        `spread_primary`, `spread_final`: standard deviation of the probabilities around 1 / N;
        with anchors `anchors_never_win`: share of the anchors that are the nearest one of nobody.
        """
        examples, changed, labelled, better, worse, *others = map(float, self._sums)
        spread, (sure_before, sure_beside, right_beside) = others[:2], others[2:]
        if not examples:
            return {}
        scores = self._primary.compute()
        figures = {f"{name}_primary": scores[name] for name in _PRIMARY if name in scores}
        figures["confidence_primary"] = sure_before / examples
        figures["confidence_corrected"] = sure_beside / examples
        figures["correction_changed"] = changed / examples
        if labelled:
            figures["accuracy_corrected"] = right_beside / labelled
            figures["correction_better"] = better / labelled
            figures["correction_worse"] = worse / labelled
        numbers = examples * self._primary.num_classes
        for name, total in zip(("spread_primary", "spread_final"), spread, strict=True):
            figures[name] = float(np.sqrt(total / numbers))
        if self._wins.size:
            figures["anchors_never_win"] = float(np.mean(self._wins == 0))
        return figures

    def state(self) -> np.ndarray:
        """Everything, as a float64 vector."""
        return np.concatenate([self._sums, self._wins, self._primary.state()])

    def load_state(self, state: np.ndarray) -> Self:
        """Takes over what `state` returned."""
        start = self._sums.size
        end = start + self._wins.size
        self._sums, self._wins = np.array(state[:start]), np.array(state[start:end])
        self._primary.load_state(state[end:])
        return self


def _classes(probabilities: np.ndarray) -> np.ndarray:
    """The likeliest class of each distribution [B, N], -1 where it is not made of numbers."""
    return np.where(np.isfinite(probabilities).all(1), probabilities.argmax(1), -1)


def _confidence(probabilities: np.ndarray) -> np.ndarray:
    """C(q) of distributions [B, N], as `models.reliability.confidence` has it."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy = -np.sum(probabilities * logs, axis=1)
    return np.maximum(1 - entropy / np.log(probabilities.shape[1]), 0)
