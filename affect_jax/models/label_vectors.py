"""Label vectors drawn from the tree."""

import numpy as np

from data_pipelines.hierarchies.tree import Hierarchy


def stand_in(hierarchy: Hierarchy | None, names: tuple[str, ...], *, length: int) -> np.ndarray:
    """Return label vectors [C, L]."""
    count = len(names) + (len(hierarchy.coarse) if hierarchy else 0)
    return np.random.default_rng(0).standard_normal((count, length)).astype(np.float32) * 0.1
