"""The sources of `config.data`: train, validation and test, disjoint by person."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.defaults import DataConfig
from data_pipelines.schema import DataError, Source
from data_pipelines.sources import features, folds, prepared_splits, table
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)

ALL = "all"  # every record of a manifest or folder, regardless of its split


def make_sources(
    data: DataConfig | Mapping[str, Any], cache: DataCache | None = None
) -> dict[str, Source]:
    """Return the sources `train`, `validation` and `test`.

    Args:
      data: `config.data`; absent fields take their defaults.
      cache: sources made before of the same fields are returned again.

    Raises:
      DataError: the configuration or the data cannot be used.
    """
    data = DataConfig.of(data)
    cache = cache or DataCache()
    return cache.once(data.source_key(), lambda: _checked(_make(data, cache)))


def _make(data: DataConfig, cache: DataCache) -> Mapping[str, Source]:
    if data.protocol != "split":
        return folds.fold_sources(data, cache)
    if data.source == "synthetic":
        if data.exclude:
            raise DataError("data.exclude lists images by name; synthetic faces have none")
        from data_pipelines.sources import synthetic  # drawing code that other sources do without

        return synthetic.synthetic_sources(data.synthetic)
    if data.source == "tfds":
        return prepared_splits.prepared_sources(data)
    if data.source == "features":
        return features.feature_sources(data, cache)
    return table.table_sources(table.read_table(data), data)


def _checked(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Return the sources; warn of splits that lack a label of the training split.

    Raises:
      DataError: no training image has a label.
    """
    train = sources["train"]
    wanted = train.has - {"attributes"}
    if len(train) and not wanted:
        raise DataError(
            f"none of the {len(train)} training images has a label (expression, valence and "
            "arousal, or landmarks); fill the columns, or correct the split"
        )
    for name, source in sources.items():
        if len(source) and (absent := wanted - source.has):
            log.warning(
                "none of the %d images of the %s split has %s, which training images have",
                len(source),
                name,
                ", ".join(sorted(absent)),
            )
    return dict(sources)


def evaluation_source(data: DataConfig | Mapping[str, Any], split: str) -> Source:
    """Return the examples of one split; others may be empty in a manifest or folder.

    Args:
      data: as in `make_sources`.
      split: `train`, `validation`, `test`; or `ALL`, every record of a manifest or folder, which is
        then treated as a test split.

    Raises:
      DataError: the configuration or the data cannot be used, or the split is empty.
    """
    data = DataConfig.of(data)
    if data.source not in ("manifest", "folder") or data.protocol != "split":
        if split == ALL:
            raise DataError(
                f"the split {ALL!r} is for manifests and folders with data.protocol = 'split'; "
                f"data.source is {data.source!r}; use train, validation or test"
            )
        return make_sources(data)[split]
    read = table.read_table(data)
    if split == ALL:
        none = np.arange(0)
        rows_of = {"train": none, "validation": none, "test": np.arange(len(read.paths))}
    else:
        rows_of = table.rows_of_splits(read, data)
    part = "test" if split == ALL else split
    if not len(rows_of[part]):
        raise DataError(
            f"{read.name}: the {split} split is empty; choose another "
            f"--config.eval.split, such as {ALL!r}, which takes every image"
        )
    rows = table.without_excluded(read, rows_of, data)[part]
    source = table.split_source(read, part, rows, data)
    if split == "test" and read.split is None and len(source):
        log.info(
            "%s names no splits: %d of its %d images, one fold of persons, are the test split; "
            "the split %r takes every image",
            read.name,
            len(source),
            len(read.paths),
            ALL,
        )
    return source
