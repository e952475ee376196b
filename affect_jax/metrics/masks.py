"""The mask of the examples that count."""

from __future__ import annotations

import numpy as np


def unmasked(mask: np.ndarray | None, count: int) -> np.ndarray:
    """Return `mask` as bool [count]; None: every example counts."""
    return np.ones(count, bool) if mask is None else np.asarray(mask, bool)
