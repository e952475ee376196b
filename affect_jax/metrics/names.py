"""Names of the metrics of an evaluation, known before anything is measured."""

from __future__ import annotations

import functools

import numpy as np

from affect_jax.metrics.base import BatchStatistics, MetricSet
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.metrics.mixtures import MixtureStatistics
from affect_jax.metrics.reliability import ReliabilityStatistics
from data_pipelines.hierarchies.tree import Hierarchy


def names_of(metrics: MetricSet, num_classes: int, count: int, *, votes: bool = False) -> set[str]:
    """Return the names that `metrics` gives, and `loss`.

    Args:
        metrics: empty; made-up examples are added to it.
        num_classes: N, may be 0.
        count: examples of each class.
        votes: whether examples have `expression_probs`.
    """
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
    labels: dict[str, np.ndarray] = {
        "expression": (np.arange(rows) % max(num_classes, 1)).astype(np.int32),
        "valence_arousal": np.zeros((rows, 2)),
        "landmarks": np.arange(rows * 136.0).reshape(rows, 68, 2),
    }
    if votes:
        labels["expression_probs"] = np.ones((rows, num_classes))
    return {"loss", *metrics.update(outputs, labels).compute()}


@functools.cache
def known_names(fields: tuple[str, ...] | None = None) -> frozenset[str]:
    """Return the names of all metrics of an evaluation, except `recall_<class>`.

    Args:
        fields: the label fields that are measured, without a loss; None: everything.
    """
    if fields is None:
        has = ("expression", "valence_arousal", "landmarks")
        tree = Hierarchy("example", ("a", "b"), ("c",), (0, 0), ("d",), (0,))
        extra: list[BatchStatistics] = [
            MixtureStatistics(),
            ReliabilityStatistics(2, 1),
            HierarchyStatistics(tree),
        ]
        names = names_of(MetricSet(has, 2, extra=extra), 2, 2, votes=True)
    else:
        names = names_of(MetricSet(fields, 2), 2, 2) - {"loss"}
    return frozenset(n for n in names if not n.startswith("recall_"))
