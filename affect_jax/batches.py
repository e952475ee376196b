"""Sources and pipelines of a config, for this process of the job."""

import pathlib

import jax
import ml_collections
import numpy as np

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.runtime import parallel
from data_pipelines.defaults import PLACES, DataConfig
from data_pipelines.loading.pipeline import Pipeline, make_pipeline
from data_pipelines.protocols.persons import SPLIT_NAMES
from data_pipelines.schema import LABELS, DataError, Source
from data_pipelines.sources import make
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.features import FeatureSource
from data_pipelines.sources.manifest_file import split_paths


def make_sources(
    config: ml_collections.ConfigDict, cache: DataCache | None = None
) -> dict[str, Source]:
    """Return the sources `train`, `validation` and `test`, no person in two of them."""
    return make.make_sources(config.data, cache)


def evaluation_source(config: ml_collections.ConfigDict) -> Source:
    """Return the examples of `config.eval.split`; other splits may be empty.

    Raises:
      ConfigError: the split does not exist.
      DataError: the data cannot be used, or the split is empty.
    """
    split = config.eval.split
    if split not in (*SPLIT_NAMES, make.ALL):
        hint = nearest(split, (*SPLIT_NAMES, make.ALL))
        raise ConfigError(f"config.eval.split = {split!r}; {hint}")
    return make.evaluation_source(config.data, split)


def synthetic_training_source(
    config: ml_collections.ConfigDict, cache: DataCache | None = None
) -> Source:
    """Return the faces of `config.data.synthetic`, for a stage without own data."""
    section = config.data.copy_and_resolve_references()
    section.source = "synthetic"
    return make.make_sources(section, cache)["train"]


def n_features(source: Source) -> int:
    """Return the numbers of a feature vector of `source`; 0 if it has images."""
    return source.n_features if isinstance(source, FeatureSource) else 0


def learns_votes(config: ml_collections.ConfigDict, source: Source) -> bool:
    """Return whether training on `source` learns votes, where it has them."""
    data = DataConfig.of(config.data)
    return source.learns_votes(data) if isinstance(source, FeatureSource) else data.learns_votes


def labels_of(source: Source) -> frozenset[str]:
    """Return the fields of `schema.LABELS` that a record of `source` holds.

    `source` may be a part of the data that `source.has` describes. Therefore records are read until
    each field has been found, usually in the first one.
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


def train_batches(
    config: ml_collections.ConfigDict,
    source: Source,
    start_step: int,
    cache: DataCache | None = None,
) -> Pipeline:
    """Return the endless training pipeline of this process, from `start_step` on."""
    return make_pipeline(
        config.data,
        source,
        train=True,
        batch_size=config.batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        start_step=start_step,
        cache=cache,
    )


def eval_batches(
    config: ml_collections.ConfigDict, source: Source, cache: DataCache | None = None
) -> Pipeline:
    """Return passes over this process's part of `source`, padded and masked.

    Every iteration is one pass. Threads and worker processes stay for the next one until the
    pipeline is closed, and an unreadable record is logged only once.
    """
    batch_size = config.eval.batch_size or config.batch_size
    parallel.check_batch_size(batch_size, "eval.batch_size")
    return make_pipeline(
        config.data,
        source,
        train=False,
        batch_size=batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        cache=cache,
    )


def same_records(one: ml_collections.ConfigDict, other: ml_collections.ConfigDict) -> bool:
    """Return whether two `config.data` select the same records, labels and splits."""
    return DataConfig.of(one).source_key() == DataConfig.of(other).source_key()


def place_of(data: ml_collections.ConfigDict) -> dict[str, str]:
    """Return which data a `config.data` names: source and location.

    Paths are absolute, so that the same path spelt in two ways compares equal.
    """
    place = {"source": data.source}
    for key in PLACES.get(data.source, ()):
        paths = [] if key == "dataset" or not data[key] else [pathlib.Path(data[key]).expanduser()]
        if paths and key == "manifest":
            paths = split_paths(data[key])
        place[key] = ",".join(str(path.resolve()) for path in paths) or data[key]
    return place
