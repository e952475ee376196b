"""Temperature scaling and flip averaging of class probabilities, in float64.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017. The
calibration error itself (ECE) is in `metrics.classification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from affect_jax.metrics.classification import ClassificationStatistics, log_softmax

_LOWEST, _HIGHEST = 0.05, 20.0
_TINY = float(np.finfo(np.float32).tiny)


class Temperature(NamedTuple):
    """A fitted temperature.

    Attributes:
        value: the divisor of the logits.
        at_bound: the likelihood would still rise beyond the bounds of the search, [0.05, 20]: all
            predictions are correct, or the logits are worse than chance.
    """

    value: float
    at_bound: bool


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms [..., N]; a zero counts as the smallest normal float32."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))


def average(*logits: np.ndarray) -> np.ndarray:
    """Return the log of the mean probabilities [n, N] of several logits [n, N]."""
    return log_probabilities(np.mean([np.exp(log_softmax(z)) for z in logits], axis=0))


def fit_temperature(logits: np.ndarray, labels: np.ndarray, steps: int = 100) -> Temperature:
    """Return the temperature of greatest likelihood; it never changes the argmax.

    The mean negative log-likelihood is convex in the inverse temperature. Newton steps bring its
    slope to zero; a step that would leave the bracket halves it instead.

    Args:
        logits: [n, N] logits or log-probabilities of data that was used neither for training nor
            for the scores to report. Rows that are not finite are left out.
        labels: int [n], -1 where unlabelled: left out.
        steps: maximum number of steps.

    Raises:
        ValueError: no finite row is labelled.
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

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    if slope_and_curvature(low)[0] >= 0:
        return Temperature(_HIGHEST, True)
    if slope_and_curvature(high)[0] <= 0:
        return Temperature(_LOWEST, True)
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
    """Return the scores on `tested` that a correction of predictions must beat.

    Args:
        fitted: `logits` [n, N] and `expression` int [n] (-1: unlabelled) of the validation split.
        tested: the same of the test split, and optionally `mirrored_logits` of the mirror images.

    Returns:
        `scores` by name: `test_temperature`, with the `temperature` fitted on `fitted`, and, with
        mirrored logits, `test_mirror`, the average with the mirror image.

    Raises:
        ValueError: either has no label.
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
    """Return `accuracy`, `nll`, `ece` and the mean `confidence` of logits [n, N].

    Raises:
        ValueError: no row is labelled.
    """
    labels = np.asarray(labels)
    if not (labels >= 0).any():
        raise ValueError("scores: no row has a label")
    figures = ClassificationStatistics(np.shape(logits)[1]).update(logits, labels).compute()
    probabilities = np.exp(log_softmax(np.asarray(logits)[labels >= 0]))
    return {
        **{name: figures[name] for name in ("accuracy", "nll", "ece")},
        "confidence": float(probabilities.max(axis=1).mean()),
    }
