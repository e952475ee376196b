"""Sources of raw records: a CSV or JSONL manifest, a folder per class, and their person splits.

A manifest has one row a picture. Columns (`path` is needed, and at least one of the labels):

  path                                 relative to the manifest's folder, or absolute
  expression                           class name, or id (see `labels`); empty or -1 = unknown
  valence, arousal                     in [-1, 1]; empty or -2 = unknown
  landmarks                            68 (x, y) pairs: 136 numbers, or a JSON list
  box (or x0, y0, x1, y1)              the face: four numbers, or a JSON list
  person, video, group                 who and which clip (also: subject, identity, clip)
  frame                                place in the video; without it, frames stand in order
  split                                train, validation or test, in any spelling of `split_names`
  gender, race, age, culture           attributes for audit

Landmarks and boxes are pixels of the upright picture, after its orientation tag is followed. A
picture that several rows name is kept once where they agree (see `repeats`).

A folder holds one folder a class, under `train`, `validation` and `test` folders if it has them;
a folder inside a class folder is taken for a person (see `folder_tree`).
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.defaults import check, setting
from data_pipelines.protocols import persons
from data_pipelines.schema import DataError, Source
from data_pipelines.sources import cache, manifest
from data_pipelines.sources.table import (
    _cut,
    _rows_of_splits,
    folder_table,
    manifest_table,
    split_table,
)

log = logging.getLogger(__name__)

ALL = "all"  # every record, whatever its split


def make_sources(config: Mapping[str, Any]) -> dict[str, Source]:
    """Training, validation and test sources of `config.data`, disjoint by person.

    Args:
      config: the fields in `defaults.DEFAULTS`; absent ones take their defaults.

    Raises:
      DataError: the configuration or the data cannot be used.
    """
    check(config)
    return cache.sources_for(cache.source_key(config), lambda: _with_labels(_make_sources(config)))


def _with_labels(sources: dict[str, Source]) -> dict[str, Source]:
    """The sources; warns of splits without a label that training has, whose metrics are void.

    Raises:
      DataError: no training picture has a label.
    """
    train = sources["train"]
    wanted = train.has - {"attributes"}
    if len(train) and not wanted:
        raise DataError(
            f"none of the {len(train)} training pictures has a label (expression, valence and "
            "arousal, or landmarks); fill the columns, or correct the split"
        )
    for name, source in sources.items():
        absent = wanted - source.has
        if len(source) and absent:
            log.warning(
                "none of the %d pictures of the %s split has %s, which training pictures have",
                len(source),
                name,
                ", ".join(sorted(absent)),
            )
    return sources


def _make_sources(config: Mapping[str, Any]) -> dict[str, Source]:
    if setting(config, "protocol") != "split":
        from data_pipelines.sources import folds  # builds on this module

        return folds.make_sources(config)
    kind = setting(config, "source")
    if kind == "synthetic":
        if setting(config, "exclude"):
            raise DataError("data.exclude lists pictures by name; synthetic faces have none")
        from data_pipelines.sources import synthetic  # drawing code that other sources do without

        return synthetic.make_sources(config)
    if kind == "tfds":
        from data_pipelines.sources import prepared

        return prepared.make_sources(config)
    return split_table(_read_table(kind, config), config)


def _read_table(kind: str, config: Mapping[str, Any]) -> manifest.Table:
    classes = setting(config, "classes")
    max_bad_fraction = setting(config, "max_bad_fraction")
    if kind == "manifest":
        return manifest_table(setting(config, "manifest"), classes, max_bad_fraction)
    if kind == "folder":
        return folder_table(setting(config, "folder"), classes, max_bad_fraction)
    raise DataError(f"data.source is {kind!r}; known: synthetic, manifest, folder, tfds")


def evaluation_source(config: Mapping[str, Any], split: str) -> Source:
    """The examples of one split, for evaluation; of a manifest or folder no other need be there.

    Args:
      config: as in `make_sources`.
      split: `train`, `validation`, `test`; or `ALL`, every record of a manifest or folder.

    Raises:
      DataError: the configuration or the data cannot be used, or the split is empty.
    """
    kind = setting(config, "source")
    table = None
    if kind in ("manifest", "folder") and setting(config, "protocol") == "split":
        table = _read_table(kind, config)
    if split == ALL and table is None:
        raise DataError(
            f"the split {ALL!r} is for manifests and folders with data.protocol = 'split'; "
            f"data.source is {kind!r}; use train, validation or test"
        )
    if table is None:
        source = make_sources(config)[split]
    else:
        # All as test pictures: what is excluded from a test is excluded then.
        part = "test" if split == ALL else split
        if split == ALL:
            rows_of = {name: np.arange(0) for name in persons.SPLIT_NAMES}
            rows_of[part] = np.arange(len(table.paths))
        else:
            rows_of = _rows_of_splits(table, config)
        if not len(rows_of[part]):
            raise DataError(
                f"{table.name}: the {split} split is empty: nothing can be evaluated; the split "
                f"{ALL!r} takes every picture"
            )
        source = _cut(table, rows_of, config, only=(part,))[part]
        if split == "test" and table.split is None and len(source):
            log.info(
                "%s names no splits: %d of its %d pictures, one fold of persons, are the test "
                "split; the split %r takes every picture",
                table.name,
                len(source),
                len(table.paths),
                ALL,
            )
    return source
