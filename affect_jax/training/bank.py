"""The bank of a run: training images that every image is compared with in prediction.

A model that relates images keeps a bank in its statistics (`models.relations`). The images are
chosen once, class-balanced and by `config.seed`. Their features are computed anew before every
validation and every checkpoint, so a checkpoint has the bank of its own weights. The bank is a
function of these weights alone, which keeps a resumed run equal to an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np

from affect_jax import batches as data_lib
from affect_jax.config import ConfigError
from affect_jax.evaluation import contexts
from affect_jax.evaluation.evaluator import Evaluator
from affect_jax.models.relations import BANK_FEATURES, BANK_INDEX, BANK_LABELS, Bank
from affect_jax.runtime.parallel import Mapper, all_gather_hosts
from data_pipelines.loading.sampling import balanced_order
from data_pipelines.schema import Batch, Source
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.features import FeatureSource
from data_pipelines.sources.subset import Subset

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BankImages:
    """The images of a bank, as evaluation sees them.

    Attributes:
      index: int64 [M], their positions in the training source.
      labels: int32 [M], their classes.
      batches: this process's part of one pass over them.
    """

    index: np.ndarray
    labels: np.ndarray
    batches: list[Batch]

    @classmethod
    def read(
        cls,
        config: ml_collections.ConfigDict,
        source: Source,
        size: int,
        cache: DataCache | None = None,
    ) -> BankImages:
        """Choose and read `size` images of the training split, fewer if it has not as many.

        An unreadable image is replaced by another of its class.

        Raises:
          ConfigError: no labelled image can be read.
        """
        # A single bad image may be more than the tolerated fraction of so few. The training
        # pipeline counts them.
        config = config.copy_and_resolve_references()
        config.data.max_bad_fraction = 1.0
        unreadable: list[int] = []
        while len(rows := balanced_order(source.labels, config.seed, unreadable)[:size]):
            with data_lib.eval_batches(config, _records(source, rows), cache) as pipeline:
                batches = list(pipeline)
            found = np.zeros(len(rows))
            for batch in batches:
                found[batch["index"][batch["mask"]]] = 1
            # Every process has read a part.
            missing = rows[all_gather_hosts(found).sum(axis=0) == 0]
            if not len(missing):
                return cls(rows, np.asarray(source.labels)[rows].astype(np.int32), batches)
            unreadable += missing.tolist()
        raise ConfigError(
            "the bank of config.model.relations holds labelled training images, but none of the "
            "training split can be read; label some, or set config.model.relations.itrr = False"
        )


def _records(source: Source, rows: np.ndarray) -> Source:
    """Return some records of a source; of a `Subset` they share its cache."""
    if isinstance(source, FeatureSource):
        return source.take(rows)
    if isinstance(source, Subset):
        return Subset(source.base, source.rows[rows])
    return Subset(source, rows)


def for_run(
    config: ml_collections.ConfigDict,
    source: Source,
    evaluator: Evaluator,
    cache: DataCache | None = None,
) -> BankImages | None:
    """Read the bank's images of a run's training split; None: its model has no bank.

    Raises:
      ConfigError: as `BankImages.read`, or `config.eval.bank_sizes` asks for more images than the
        training split has.
    """
    size, sizes = evaluator.bank_size, config.eval.bank_sizes
    if not size:
        if sizes:
            log.info("config.eval.bank_sizes has no effect: the model has no bank")
        return None
    labelled = int((np.asarray(source.labels) >= 0).sum())
    if sizes and max(sizes) > labelled:
        raise ConfigError(
            f"config.eval.bank_sizes asks for a bank of {max(sizes)} images, but the training "
            f"split has {labelled} labelled ones; ask for fewer"
        )
    images = BankImages.read(config, source, size, cache)
    if len(images.index) < size:
        log.warning(
            "config.model.relations.bank_size = %d, but the training split has %d readable "
            "labelled images; the bank holds these",
            size,
            len(images.index),
        )
    return images


def refreshed(
    state: dict[str, Any], images: BankImages | None, evaluator: Evaluator, mapper: Mapper
) -> dict[str, Any]:
    """Return the state with the bank that belongs to its weights.

    They are the weights that evaluation uses, the moving average if there is one.

    Args:
      state: of a run, on the devices; it is not changed.
      images: of the bank; None: the state is returned.
      evaluator: of the model.
      mapper: of the state.
    """
    if images is None:
        return state
    found = evaluator.features(state, images.batches)
    stats = state["stats"]
    bank = {
        BANK_FEATURES: np.zeros(stats[BANK_FEATURES].shape, found.dtype),
        BANK_LABELS: np.full(stats[BANK_LABELS].shape, -1, np.int32),
        BANK_INDEX: np.full(stats[BANK_INDEX].shape, -1, np.int32),
    }
    for array, values in zip(bank.values(), (found, images.labels, images.index), strict=True):
        array[: len(values)] = values
    new = {**state, "stats": {**stats, **mapper.replicate(bank)}}
    if "ema" in state:
        # A step consumes its state: the two parts must share no buffer, and a device may use the
        # host's.
        copies = mapper.replicate({name: array.copy() for name, array in bank.items()})
        new["ema"] = {**state["ema"], "stats": {**state["ema"]["stats"], **copies}}
    return new


def of_sizes(
    sizes: Sequence[int],
    state: dict[str, Any],
    evaluator: Evaluator,
    config: ml_collections.ConfigDict,
    source: Callable[[], Source] | None,
    cache: DataCache | None = None,
) -> dict[int, Bank]:
    """Return banks of other sizes for the weights of `state`, by the number of their images.

    A bank is the beginning of any larger one, so one that is not larger than the model's is a part
    of that.

    Args:
      sizes: numbers of images.
      state: on the devices.
      evaluator: of the model.
      config: of the run that trained the model.
      source: gives its training split; None: it is not known.
      cache: shares decoded images.

    Raises:
      ConfigError: a size is larger than the model's bank and than the training split, or than the
        model's bank and the training split is not known.
    """
    if not sizes or not evaluator.bank_size:
        return {}
    stored = contexts.stored_bank(state)
    features = np.zeros((0, 0)) if stored is None else np.asarray(stored.features)
    largest, held = max(sizes), len(features)
    if largest > held:
        key = f"config.eval.bank_sizes asks for a bank of {largest} images"
        if source is None:
            raise ConfigError(
                f"{key}, but the model's has {held}. A larger one is made of training images; "
                "evaluate the run that the model comes from, by --workdir"
            )
        images = BankImages.read(config, source(), largest, cache)
        if len(images.index) < largest:
            raise ConfigError(
                f"{key}, but {len(images.index)} labelled ones of the training split can be read"
            )
        features = evaluator.features(state, images.batches)
    return {size: contexts.bank_of(features[:size]) for size in sizes}
