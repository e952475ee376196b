"""Contexts of prediction: what a model that relates images compares an image with.

They are nothing ("self"), the bank that goes with the model ("bank"), and the other images of the
batch ("batch"), see `models.relations`. Only what follows the backbone depends on the context, so
the contexts of a split share the features of one pass.

In the context "batch" an image's prediction depends on its batch. A split in its own order would be
misleading: neighbours are often of one video or one class. It is therefore cut into batches in
`SHUFFLES` fixed orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from affect_jax.evaluation.context_rows import bank_row
from affect_jax.metrics.spread import Spread
from affect_jax.models.relations import BANK_FEATURES, BANK_LABELS, Bank, Comparison
from affect_jax.models.relations_settings import RelationsSettings, parse
from affect_jax.models.state import Blueprint
from affect_jax.runtime.tables import SD
from affect_jax.systems.base import System

SHUFFLES = 5

Figures = dict[str, float]
Predictions = dict[str, np.ndarray]


def image_relations(system: System) -> RelationsSettings | None:
    """Return the settings of relations between images; None: the model has none."""
    settings = None if system.relations is None else parse(system.relations)
    return settings if settings is not None and settings.itrr else None


def stored_bank(state: Mapping[str, Any]) -> Bank | None:
    """Return the bank in a state, on the host and without empty places; None: it is empty.

    Args:
      state: on the devices, with `stats` and perhaps `ema`.
    """
    stats = state.get("ema", state)["stats"]
    if BANK_LABELS not in stats:
        return None
    features, labels = (
        np.asarray(stats[name].addressable_data(0)) for name in (BANK_FEATURES, BANK_LABELS)
    )
    return bank_of(features[labels >= 0]) if (labels >= 0).any() else None


def bank_of(features: np.ndarray) -> Bank:
    """Return the bank of images with these features, float [M, D]."""
    return Bank(features, np.ones(len(features), bool))  # type: ignore[arg-type]  # on the host


def shuffled(count: int, number: int) -> np.ndarray:
    """Return fixed order `number`, from 0 to `SHUFFLES` - 1, of `count` images."""
    return np.random.Generator(np.random.Philox(number)).permutation(count)


def mean_and_sd(several: Sequence[Figures]) -> Figures:
    """Return the mean of each metric, and its standard deviation as `NAME_sd`.

    A metric that not all of `several` have is left out.
    """
    common = [name for name in several[0] if all(name in figures for figures in several)]
    spreads = {name: Spread.of(figures[name] for figures in several) for name in common}
    means = {name: spread.mean for name, spread in spreads.items()}
    return means | {f"{name}{SD}": spread.sd for name, spread in spreads.items()}


class FeatureClassifier:
    """Runs what follows the backbone on the features of a split, in any context.

    Every process computes all of it on one of its devices, so the result does not depend on the
    number of devices. Batches have the size of training batches; the last one is padded and masked.
    """

    def __init__(self, system: System, blueprint: Blueprint):
        self._batch_size = system.config.batch_size
        image_size = system.config.data.image_size

        def classify(
            arrays: dict[str, Any],
            features: jax.Array,
            mask: jax.Array,
            bank: Bank | None,
            context: str,
        ) -> dict[str, jax.Array]:
            model: Any = blueprint.build(arrays["params"], arrays["stats"])
            outputs = model.classify(features, comparison=Comparison(mask, context, bank))
            return system.predictions(outputs, image_size)

        self._classify = jax.jit(classify, static_argnames="context")

    def in_contexts(
        self,
        state: Mapping[str, Any],
        predictions: Predictions,
        banks: Mapping[int, Bank],
        measure: Callable[[Predictions], Figures],
    ) -> dict[str, Figures]:
        """Return the metrics by context, see `Evaluator.in_contexts`.

        Args:
          state: on the devices; `params` or `ema`, and `stats` are read.
          predictions: of a pass, with `image_features` [n, D].
          banks: size M -> a bank of M images.
          measure: predictions -> metrics.
        """
        if not len(predictions.get("image_features", ())):
            return {}

        def figures(context: str, bank: Bank | None = None, shuffle: int | None = None) -> Figures:
            return measure(self.classified(state, predictions, context, bank, shuffle))

        found = {"self": figures("self")}
        if stored_bank(state) is not None:
            found["bank"] = figures("bank")
        found["batch"] = mean_and_sd([figures("batch", shuffle=k) for k in range(SHUFFLES)])
        return found | {bank_row(size): figures("bank", bank) for size, bank in banks.items()}

    def classified(
        self,
        state: Mapping[str, Any],
        predictions: Predictions,
        context: str,
        bank: Bank | None = None,
        shuffle: int | None = None,
    ) -> Predictions:
        """Return the predictions of a pass as they are in another context.

        Args:
          state, predictions: as in `in_contexts`.
          context: "self", "bank" or "batch".
          bank: replaces the model's.
          shuffle: number of the order in which images are put into batches; default: by index.
        """
        features = predictions["image_features"]
        held = state.get("ema", state)
        arrays = jax.tree.map(
            lambda x: x.addressable_data(0), {part: held[part] for part in ("params", "stats")}
        )
        order = np.arange(len(features))
        if shuffle is not None:
            order = shuffled(len(features), shuffle)
        found: Predictions = {}
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            batch = np.zeros((self._batch_size, *features.shape[1:]), features.dtype)
            batch[: len(rows)] = features[rows]
            mask = np.arange(self._batch_size) < len(rows)
            outputs = jax.device_get(self._classify(arrays, batch, mask, bank, context=context))
            for name, values in outputs.items():
                if name not in found:
                    found[name] = np.zeros((len(order), *values.shape[1:]), values.dtype)
                found[name][rows] = values[: len(rows)]
        return {**predictions, **found}
