"""Sources and pipelines of a config, for this process of the job."""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.runtime import parallel
from data_pipelines.loading import pipeline
from data_pipelines.protocols.persons import SPLIT_NAMES
from data_pipelines.schema import LABELS, DataError, Source
from data_pipelines.sources import make
from data_pipelines.sources.make import ALL

_PLACES = {"manifest": ("manifest",), "folder": ("folder",), "tfds": ("dataset", "data_dir")}


def make_sources(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The `train`, `validation` and `test` sources, no person in two of them."""
    return make.make_sources(config.data)


def evaluation_source(config: ml_collections.ConfigDict) -> Source:
    """The examples of `config.eval.split`; no other split need be there.

    Raises:
      ConfigError: there is no such split.
      DataError: the data cannot be used, or the split is empty.
    """
    split = config.eval.split
    if split not in (*SPLIT_NAMES, ALL):
        raise ConfigError(f"config.eval.split = {split!r}; " + nearest(split, (*SPLIT_NAMES, ALL)))
    return make.evaluation_source(config.data, split)


def synthetic_training_source(config: ml_collections.ConfigDict) -> Any:
    """The embedded faces of `config.data.synthetic`, for phases that do without own data."""
    section = config.data.copy_and_resolve_references()
    section.source = "synthetic"
    return make.make_sources(section)["train"]


def labels_of(source: Any) -> frozenset[str]:
    """The label fields (of `example.LABELS`) that at least one record of `source` holds.

    `source.has` may be about a larger whole, of which `source` is a part. Records are read until
    each field has been seen, which the first one does as a rule.
    """
    missing = set(LABELS & source.has)
    if not (np.asarray(source.labels) >= 0).any():
        missing.discard("expression")
    wanted = missing - {"expression"}
    for i in range(len(source)):
        if not wanted:
            break
        try:
            record = source[i]
        except (OSError, DataError):
            continue  # the pipeline reports it
        wanted -= {name for name in wanted if np.isfinite(record.get(name, np.nan)).any()}
    return frozenset(missing - wanted)


def train_batches(config: ml_collections.ConfigDict, source: Any, start_step: int) -> Any:
    """The endless training pipeline of this process, going on at `start_step`."""
    return pipeline.make_pipeline(
        config.data,
        source,
        train=True,
        batch_size=config.batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        start_step=start_step,
    )


def eval_batches(config: ml_collections.ConfigDict, source: Any) -> Any:
    """Passes over `source`, this process's part, the last batch padded and masked.

    Every iteration is one pass. Threads and worker processes stay for the next one until the
    pipeline is closed, and an unreadable record is named in the log the first time only.
    """
    batch_size = config.eval.batch_size or config.batch_size
    parallel.check_batch_size(batch_size, "eval.batch_size")
    return pipeline.make_pipeline(
        config.data,
        source,
        train=False,
        batch_size=batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )


def place_of(data: ml_collections.ConfigDict) -> dict[str, str]:
    """Which data a `config.data` names: its source and the fields that matter to it.

    Paths are absolute, so that two ways of writing one make no difference.
    """
    place = {"source": data.source}
    for key in _PLACES.get(data.source, ()):
        path = key != "dataset" and data[key]
        place[key] = str(pathlib.Path(data[key]).expanduser().resolve()) if path else data[key]
    return place
