"""The images that an image attends to most."""

from __future__ import annotations

import numpy as np


def nearest(weights: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest weights of each row, the largest first.

    Args:
        weights: float [B, M].
        allowed: bool [B, M], False for images that do not count.
        count: how many of a row; fewer where a row allows fewer.

    Returns:
        int [B, K]. K is the same for all rows.
    """
    count = min(count, int(allowed.sum(axis=1).min()))
    order = np.argsort(-np.where(allowed, weights, -np.inf), axis=1, kind="stable")
    return order[:, :count]
