"""Metrics of a classifier above its classes: of coarse classes, poles, and its errors.

Bertinetto et al., "Making better mistakes" (CVPR 2020), measure an error by the height of the
lowest common ancestor of label and prediction. `hierarchical_distance` counts edges instead: twice
that height, because all classes of a tree lie on one level. Mergeable; see `metrics.base`.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from affect_jax.metrics.classification import softmax
from affect_jax.metrics.masks import unmasked
from data_pipelines.hierarchies.tree import Hierarchy


def distances(hierarchy: Hierarchy) -> np.ndarray:
    """Return int64 [N, N + 1], the edges between a true and a predicted class.

    The way leads over the lowest common ancestor. Poles, or coarse classes in a tree of two levels,
    are children of a common root. The last column, of predictions that are not numbers, holds the
    longest way of the tree: 4 or 6 edges.
    """
    levels = [np.arange(len(hierarchy.fine)), np.array(hierarchy.coarse_of)]
    if hierarchy.poles:
        levels.append(np.array(hierarchy.pole_of)[levels[-1]])
    edges = sum(2 * (nodes[:, None] != nodes[None]).astype(np.int64) for nodes in levels)
    return np.pad(edges, ((0, 0), (0, 1)), constant_values=2 * len(levels))


def group_sums(hierarchy: Hierarchy, probabilities: np.ndarray) -> np.ndarray:
    """Return the sums [..., M] of probabilities [..., N] over the classes of coarse classes."""
    members = np.equal.outer(hierarchy.coarse_of, np.arange(len(hierarchy.coarse)))
    return np.asarray(probabilities, np.float64) @ members


class HierarchyStatistics:
    """Metrics of predictions of the N fine classes of a tree.

    Args:
        hierarchy: the tree over the classes, in the order of their ids.
        min_count: coarse classes with fewer true examples are left out of
            `coarse_balanced_accuracy`.
    """

    def __init__(self, hierarchy: Hierarchy, min_count: int = 1):
        self.hierarchy, self.min_count = hierarchy, min_count
        size = len(hierarchy.fine)
        # The last column counts examples whose logits are NaN: no class is correct for them.
        self._counts = np.zeros((size, size + 1))
        self._summed_right = 0.0

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Add a batch.

        Args:
            outputs: `logits` [B, N]; without them nothing is added.
            batch: `expression` int [B] (-1: no label), `mask` bool [B].

        Raises:
            ValueError: the logits are not of N classes.
        """
        if "logits" not in outputs:
            return self
        labels, logits = np.asarray(batch["expression"]), np.asarray(outputs["logits"])
        size = len(self._counts)
        if logits.shape[-1] != size:
            raise ValueError(
                f"logits of {logits.shape[-1]} classes, but the hierarchy "
                f"{self.hierarchy.name} has {size}"
            )
        keep = unmasked(batch.get("mask"), len(labels)) & (labels >= 0)
        labels, probabilities = labels[keep], softmax(logits[keep])
        finite = np.isfinite(probabilities).all(axis=1)
        guess = np.where(finite, probabilities.argmax(axis=1), size)
        np.add.at(self._counts, (labels, guess), 1)
        coarse = group_sums(self.hierarchy, probabilities[finite]).argmax(axis=1)
        true = np.array(self.hierarchy.coarse_of)[labels[finite]]
        self._summed_right += np.count_nonzero(coarse == true)
        return self

    def merge(self, other: HierarchyStatistics) -> Self:
        """Add what `other` has seen."""
        self._counts = self._counts + other._counts
        self._summed_right += other._summed_right
        return self

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; empty without a labelled example.

        `coarse_accuracy`: fraction whose predicted class lies in the right coarse class;
        `coarse_accuracy_summed`: the same for the coarse class whose classes have the largest sum
        of probabilities;
        `coarse_balanced_accuracy`: mean of the recalls of the coarse classes, predicted as in
        `coarse_accuracy`;
        `pole_accuracy`: fraction whose predicted class lies at the right pole, in trees with poles;
        `errors_within_coarse`: fraction of the errors that stay in the right coarse class, absent
        without an error;
        `hierarchical_distance`: mean over the errors of the edges between the true and the
        predicted class (see `distances`), 0 without an error;
        `hierarchical_distance_all`: the same over all examples.
        """
        total = self._counts.sum()
        if not total:
            return {}
        coarse_of = np.array(self.hierarchy.coarse_of)
        right, true = _hits(self._counts, coarse_of)
        counted = true >= max(self.min_count, 1)
        edges = (distances(self.hierarchy) * self._counts).sum()
        hits = np.trace(self._counts)
        errors = total - hits
        figures = {
            "coarse_accuracy": right.sum() / total,
            "coarse_accuracy_summed": self._summed_right / total,
        }
        if counted.any():
            figures["coarse_balanced_accuracy"] = (right[counted] / true[counted]).mean()
        if self.hierarchy.poles:
            poles = _hits(self._counts, np.array(self.hierarchy.pole_of)[coarse_of])[0]
            figures["pole_accuracy"] = poles.sum() / total
        if errors:
            figures["errors_within_coarse"] = (right.sum() - hits) / errors
        figures["hierarchical_distance"] = edges / max(errors, 1)
        figures["hierarchical_distance_all"] = edges / total
        return {name: float(value) for name, value in figures.items()}

    def state(self) -> np.ndarray:
        """Return everything as a float64 vector."""
        return np.append(self._counts.ravel(), self._summed_right)

    def load_state(self, state: np.ndarray) -> Self:
        """Take over what `state` returned."""
        self._counts = np.array(state[:-1]).reshape(self._counts.shape)
        self._summed_right = float(state[-1])
        return self


def _hits(counts: np.ndarray, group_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, of each group of classes, its correct and all of its examples.

    Args:
        counts: [N, N + 1] true and predicted classes, as in `HierarchyStatistics`.
        group_of: int [N], the group of each class.
    """
    groups = range(group_of.max() + 1)
    rows = [counts[group_of == group] for group in groups]
    right = [
        own[:, :-1][:, group_of == group].sum() for group, own in zip(groups, rows, strict=True)
    ]
    return np.array(right), np.array([own.sum() for own in rows])
