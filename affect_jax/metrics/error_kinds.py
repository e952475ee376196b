"""Kinds of errors: within or across coarse classes, and of one or both of two models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def coarse_errors(confusion: np.ndarray, coarse_of: Sequence[int]) -> np.ndarray:
    """Return the errors by the coarse classes of label and prediction.

    Args:
        confusion: int [N, N], rows are true classes, columns predicted ones.
        coarse_of: N, the coarse class of each class.

    Returns:
        int64 [M, M], rows are true coarse classes. The diagonal counts errors that stay within the
        coarse class; correct predictions are not counted.
    """
    errors = np.array(confusion, np.int64)
    np.fill_diagonal(errors, 0)
    members = np.equal.outer(coarse_of, np.arange(max(coarse_of) + 1)).astype(np.int64)
    return members.T @ errors @ members


def share_within(errors: np.ndarray) -> float:
    """Return the fraction of `coarse_errors` that stay within; NaN without an error."""
    total = errors.sum()
    return float(np.trace(errors) / total) if total else float("nan")


def share_within_by_chance(confusion: np.ndarray, coarse_of: Sequence[int]) -> float:
    """Return `share_within` if errors hit all wrong classes equally; NaN without an error.

    Each true class keeps its number of errors. A model whose share is not above this one knows
    nothing of the coarse classes.

    Args:
        confusion, coarse_of: as in `coarse_errors`.
    """
    confusion, coarse = np.asarray(confusion), np.asarray(coarse_of)
    errors = confusion.sum(axis=1) - np.diag(confusion)
    if not errors.sum():
        return float("nan")
    siblings = np.equal.outer(coarse, coarse).sum(axis=1) - 1
    return float(errors @ siblings / (len(coarse) - 1) / errors.sum())


def share_of_errors_within(
    labels: np.ndarray, predictions: np.ndarray, coarse_of: Sequence[int]
) -> float:
    """Return the fraction of errors that stay in the coarse class; NaN without an error.

    Args:
        labels, predictions: int [n] classes.
        coarse_of: as in `coarse_errors`.
    """
    coarse, wrong = np.asarray(coarse_of), labels != predictions
    if not wrong.any():
        return float("nan")
    return float((coarse[labels[wrong]] == coarse[predictions[wrong]]).mean())


OUTCOMES = ("first", "second", "neither", "both")


def outcomes(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """Return which of two models are right, as bool [n] for each of `OUTCOMES`.

    Args:
        labels: int [n] true classes, -1 where unlabelled: in none of them.
        first, second: int [n], the classes that the models predict.
    """
    known, one, other = labels >= 0, first == labels, second == labels
    kinds = (one & ~other, other & ~one, ~one & ~other, one & other)
    return {name: known & kind for name, kind in zip(OUTCOMES, kinds, strict=True)}
