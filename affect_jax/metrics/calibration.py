"""Is a model as often right as it says? Reliability bins, temperature scaling, flip averaging.

Everything in float64 on the host. Guo, Pleiss, Sun and Weinberger, "On calibration of modern
neural networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from affect_jax.metrics.classification import ECE_BINS, ClassificationStatistics

_LEAST, _MOST = 0.05, 20.0
_TINY = float(np.finfo(np.float32).tiny)


class Bins(NamedTuple):
    """Predictions sorted by confidence into bins of equal width, open below and closed above.

    Attributes:
        counts: int [n] predictions in each bin.
        confidence: [n] their mean confidence, 0 in empty bins.
        accuracy: [n] the share of them that is right, 0 in empty bins.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (ECE)."""
        return float((self.counts * abs(self.confidence - self.accuracy)).sum() / self.counts.sum())


class Temperature(NamedTuple):
    """A fitted temperature.

    Attributes:
        value: by which logits are divided.
        at_bound: the likelihood would still rise beyond the bounds of the search, [0.05, 20]: all
            predictions are right, or the logits are worse than none.
    """

    value: float
    at_bound: bool


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities [..., N] of logits [..., N]."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms [..., N] of probabilities; a zero counts as float32's least normal number."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))


def average(*logits: np.ndarray) -> np.ndarray:
    """Log of the mean of the probabilities, as when an image and its mirror image are averaged.

    Args:
        *logits: [n, N] each.
    """
    return log_probabilities(np.mean([np.exp(log_softmax(z)) for z in logits], axis=0))


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> Bins:
    """Confidence and accuracy by bins of confidence.

    Args:
        probabilities: [n, N].
        labels: int [n], -1 where unlabelled: left out.
        bins: how many.

    Raises:
        ValueError: if no row is labelled.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, np.float64)[labels >= 0]
    labels = labels[labels >= 0]
    if not labels.size:
        raise ValueError("reliability_bins: no row has a label")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = np.maximum(counts, 1)
    return Bins(
        counts,
        np.bincount(place, confidence, bins) / filled,
        np.bincount(place, right, bins) / filled,
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray, steps: int = 100) -> Temperature:
    """The temperature that gives `labels` the greatest likelihood; argmax never changes.

    The mean negative log-likelihood is convex in the inverse temperature; its slope is brought to
    zero by Newton steps, halving the bracket where one would leave it.

    Args:
        logits: [n, N] logits or log-probabilities, of data that neither trained the model nor
            measures it. Rows that are not finite are left out.
        labels: int [n], -1 where unlabelled: left out.
        steps: most steps.

    Raises:
        ValueError: if no finite row is labelled.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    keep = (labels >= 0) & np.isfinite(logits).all(axis=-1)
    logits, labels = logits[keep], labels[keep]
    if not labels.size:
        raise ValueError("fit_temperature: no row has both finite logits and a label")
    logits = logits - logits.max(axis=1, keepdims=True)
    true = logits[np.arange(len(labels)), labels]

    def slope_and_curvature(inverse: float) -> tuple[float, float]:
        probabilities = np.exp(log_softmax(inverse * logits))
        mean = (probabilities * logits).sum(axis=1)
        spread = (probabilities * (logits - mean[:, None]) ** 2).sum(axis=1)
        return float((mean - true).mean()), float(spread.mean())

    low, high = 1 / _MOST, 1 / _LEAST
    if slope_and_curvature(low)[0] >= 0:
        return Temperature(_MOST, True)
    if slope_and_curvature(high)[0] <= 0:
        return Temperature(_LEAST, True)
    inverse = 1.0
    for _ in range(steps):
        slope, curvature = slope_and_curvature(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        following = inverse - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - inverse) <= 1e-13 * inverse:
            break
        inverse = following
    return Temperature(1 / inverse, False)


def baselines(
    fitted: Mapping[str, np.ndarray], tested: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """What any correction of predictions has to beat, measured on `tested`.

    Args:
        fitted: `logits` [n, N] and `expression` int [n] (-1: unlabelled) of the validation split.
        tested: the same of the test split; and perhaps `mirrored_logits`, of the mirror images.

    Returns:
        `scores` by name: `test_temperature`, with the `temperature` fitted on `fitted`, and
        `test_mirror`, averaged with the mirror image, if there are mirrored logits.

    Raises:
        ValueError: if either has no label.
    """
    labels = tested["expression"]
    found = fit_temperature(fitted["logits"], fitted["expression"]).value
    scaled = np.asarray(tested["logits"], np.float64) / found
    figures = {"test_temperature": {"temperature": found, **scores(scaled, labels)}}
    if "mirrored_logits" in tested:
        both = average(tested["logits"], tested["mirrored_logits"])
        figures["test_mirror"] = scores(both, labels)
    return figures


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`accuracy`, `nll`, `ece` and the mean `confidence` of logits or log-probabilities [n, N].

    Raises:
        ValueError: if no row is labelled.
    """
    labels = np.asarray(labels)
    if not (labels >= 0).any():
        raise ValueError("scores: no row has a label")
    figures = ClassificationStatistics(np.shape(logits)[1]).update(logits, labels).compute()
    probabilities = np.exp(log_softmax(np.asarray(logits)[labels >= 0]))
    return {
        **{name: float(figures[name]) for name in ("accuracy", "nll", "ece")},
        "confidence": float(probabilities.max(axis=1).mean()),
    }
