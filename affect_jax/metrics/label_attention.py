"""Which labels a label attends to: its own, its parent, its siblings, or others."""

from __future__ import annotations

import numpy as np

from data_pipelines.hierarchies.tree import Hierarchy

KINDS = ("itself", "parent", "siblings", "others")


def attention_shares(weights: np.ndarray, hierarchy: Hierarchy) -> dict[str, dict[str, float]]:
    """Return the mean attention of fine classes to each of `KINDS` of labels.

    Args:
        weights: float [C, C], each row sums to 1; the N fine classes and, if C > N, the M coarse
            ones after them.
        hierarchy: the tree over the classes.

    Returns:
        By kind `share`, the mean over the fine classes of the sum of their weights, and `uniform`,
        the same of equal weights 1 / C. Both sum to 1 over the kinds.

    Raises:
        ValueError: C is neither N nor N + M.
    """
    size, fine, coarse = len(weights), len(hierarchy.fine), len(hierarchy.coarse)
    if size not in (fine, fine + coarse):
        raise ValueError(f"{size} labels, but the tree has {fine} fine and {coarse} coarse ones")
    group = np.array(hierarchy.coarse_of)
    labels = np.arange(size)
    itself = labels[:fine, None] == labels
    parent = (labels[None] - fine) == group[:, None]
    groups = np.concatenate([group, np.full(size - fine, -1)])
    siblings = (group[:, None] == groups) & ~itself
    masks = (itself, parent, siblings, ~(itself | parent | siblings))
    rows = np.asarray(weights, np.float64)[:fine]
    return {
        kind: {
            "share": float((rows * mask).sum(axis=1).mean()),
            "uniform": float(mask.sum(axis=1).mean() / size),
        }
        for kind, mask in zip(KINDS, masks, strict=True)
    }
