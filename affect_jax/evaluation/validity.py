"""Predictions that are not finite: counted, named in the log, never a class."""

import logging
from collections.abc import Callable, Mapping

import numpy as np

from affect_jax.runtime.parallel import all_gather_hosts

log = logging.getLogger(__name__)

COUNT = "invalid_predictions"  # name of the metric, absent where it is 0
_NAMED = 5
_OUTPUTS = ("logits", "valence", "arousal", "landmarks")


def is_number(name: str, values: np.ndarray) -> np.ndarray:
    """Return bool [B]: which predictions [B, ...] of the output `name` are finite.

    A logit may be minus infinity, for a class that is ruled out.
    """
    values = np.asarray(values, np.float64)
    if name == "logits":
        values = values.max(axis=-1)  # NaN if one of them is
    return np.isfinite(values).reshape(len(values), -1).all(axis=1)


class InvalidPredictions:
    """The examples of a pass whose predictions are not finite."""

    def __init__(self) -> None:
        self._index: list[int] = []

    def add(self, outputs: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray]) -> None:
        """Add a host batch: per-example outputs, `mask`, and `index` if known."""
        valid = np.ones(len(batch["mask"]), bool)
        for name in _OUTPUTS:
            if name in outputs:
                valid &= is_number(name, outputs[name])
        bad = np.flatnonzero(~valid & np.asarray(batch["mask"], bool))
        index = batch.get("index", np.full(len(valid), -1))
        self._index += np.asarray(index)[bad].tolist()

    def count(self, describe: Callable[[int], str] | None = None) -> dict[str, float]:
        """Count the examples of all processes and name some in the log.

        Args:
          describe: names a record by its index.

        Returns:
          `invalid_predictions`; empty if there are none.
        """
        counts = all_gather_hosts(np.array([len(self._index)], np.float64))
        total = int(counts.sum())
        if self._index:
            names = [describe(i) if describe else f"example {i}" for i in self._index[:_NAMED]]
            log.warning(
                "%d predictions are not finite; they count as wrong: %s%s",
                total,
                ", ".join(names),
                ", ..." if len(self._index) > _NAMED else "",
            )
        return {COUNT: total} if total else {}
