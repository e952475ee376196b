"""Classifier metrics: confusion matrix, recall, F1, log-likelihood, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from affect_jax.metrics.masks import unmasked

ECE_BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 probabilities [..., N]; NaN where logits hold a NaN or +inf."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return float64 log-probabilities [..., N]; NaN where logits hold a NaN or +inf."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class CalibrationBins(NamedTuple):
    """Predictions in `ECE_BINS` bins of equal width in confidence, each (low, high].

    Attributes:
        counts: [n] predictions in each bin.
        confidence: [n] their mean confidence, 0 in empty bins.
        accuracy: [n] the fraction that is correct, 0 in empty bins.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


class ClassificationStatistics:
    """Confusion matrix, negative log-likelihood and calibration of a classifier.

    Args:
        num_classes: N.
        class_names: names for `recall_<name>`; default: the class numbers.
        min_count: classes with fewer true examples are left out of `balanced_accuracy` and
            `f1_macro` (their examples still count as false positives of other classes). Classes
            without a true example are always left out. `classes_counted` says how many remain.

    Raises:
        ValueError: the number of names is not N.
    """

    def __init__(
        self, num_classes: int, class_names: Sequence[str] | None = None, min_count: int = 1
    ):
        self.num_classes = num_classes
        self.class_names = tuple(map(str, class_names or range(num_classes)))
        if len(self.class_names) != num_classes:
            raise ValueError(f"{num_classes} classes but {len(self.class_names)} class names")
        self.min_count = min_count
        # The last column counts examples whose logits are NaN: no class is correct for them.
        self._counts = np.zeros((num_classes, num_classes + 1))
        # Of each confidence bin: examples, sum of confidences, correct predictions.
        self._bins = np.zeros((ECE_BINS, 3))
        self._nll = 0.0

    @property
    def confusion(self) -> np.ndarray:
        """int64 [N, N], rows are true classes, columns predicted ones."""
        return self._counts[:, : self.num_classes].astype(np.int64)

    @property
    def calibration_bins(self) -> CalibrationBins:
        """The bins behind `ece`, as a calibration diagram shows them."""
        counts = self._bins[:, 0]
        means = self._bins[:, 1:] / np.maximum(counts, 1)[:, None]
        return CalibrationBins(counts, means[:, 0], means[:, 1])

    def update(
        self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Add logits (or log-probabilities) [B, N] and labels int [B] (-1: no label).

        Raises:
            ValueError: a label is N or more.
        """
        labels = np.asarray(labels)
        keep = unmasked(mask, len(labels)) & (labels >= 0)
        labels, logits = labels[keep], np.asarray(logits)[keep]
        if labels.size == 0:
            return self
        if labels.max() >= self.num_classes:
            raise ValueError(
                f"expression label {labels.max()} but there are {self.num_classes} classes "
                f"(0 to {self.num_classes - 1})"
            )
        log_probs = log_softmax(logits)
        guess = log_probs.argmax(1)
        guess[np.isnan(log_probs).any(1)] = self.num_classes
        np.add.at(self._counts, (labels, guess), 1)
        self._nll -= log_probs[np.arange(len(labels)), labels].sum()
        confidence = np.exp(log_probs.max(1))
        # Bins are open below and closed above, so that a confidence of 1 is in the last one.
        bins = np.ceil(np.nan_to_num(confidence) * ECE_BINS).astype(int) - 1
        rows = np.stack([np.ones(len(labels)), confidence, guess == labels], axis=1)
        np.add.at(self._bins, np.clip(bins, 0, ECE_BINS - 1), rows)
        return self

    def merge(self, other: ClassificationStatistics) -> Self:
        """Add what `other` has seen."""
        self._counts = self._counts + other._counts
        self._bins = self._bins + other._bins
        self._nll = self._nll + other._nll
        return self

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; empty without a labelled example.

        accuracy, balanced_accuracy (mean recall), precision_macro, f1_macro, nll, ece,
        classes_counted, and `recall_<name>` of every class that has examples.
        """
        total = self._counts.sum()
        if total == 0:
            return {}
        hits = np.diag(self._counts)
        true, predicted = self._counts.sum(1), self._counts[:, :-1].sum(0)
        counted = true >= max(self.min_count, 1)
        recall = hits / np.maximum(true, 1)
        f1 = 2 * hits / np.maximum(true + predicted, 1)
        figures = {
            "accuracy": hits.sum() / total,
            "nll": self._nll / total,
            "ece": np.abs(self._bins[:, 2] - self._bins[:, 1]).sum() / total,
            "classes_counted": counted.sum(),
        }
        if counted.any():
            figures["balanced_accuracy"] = recall[counted].mean()
            # A class that is never predicted has a precision of 0.
            figures["precision_macro"] = (hits / np.maximum(predicted, 1))[counted].mean()
            figures["f1_macro"] = f1[counted].mean()
        for c in np.flatnonzero(true):
            figures[f"recall_{self.class_names[c]}"] = recall[c]
        return {name: float(value) for name, value in figures.items()}

    def state(self) -> np.ndarray:
        """Return everything as a float64 vector."""
        return np.concatenate([self._counts.ravel(), self._bins.ravel(), [self._nll]])

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""
        size = self._counts.size
        self._counts = np.array(state[:size]).reshape(self._counts.shape)
        self._bins = np.array(state[size:-1]).reshape(self._bins.shape)
        self._nll = float(state[-1])
        return self
