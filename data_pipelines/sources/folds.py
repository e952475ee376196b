"""Sources of one fold of a cross-validation: `data.protocol` other than "split".

All records of a source are divided into folds by person. The fold `data.test_fold` is the test
split. A fraction of the other persons (`data.validation_fraction`) is the validation split, and the
rest is for training.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.defaults import SPOILING, DataConfig
from data_pipelines.protocols import folds as folds_lib
from data_pipelines.schema import DataError, Source
from data_pipelines.sources import prepared, table
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.subset import Subset

log = logging.getLogger(__name__)


def fold_sources(data: DataConfig, cache: DataCache) -> dict[str, Source]:
    """Return training, validation and test sources of the fold `data.test_fold`.

    Of synthetic faces, only the training split is used; options that spoil labels affect the
    training side only.

    Raises:
      DataError: there are fewer persons than folds, the fold does not exist, or the data cannot be
        divided.
    """
    whole, spoilt = _whole(data, cache)
    fold = _fold_of_records(data, whole)
    number, count = data.test_fold, int(fold.max()) + 1
    if not 0 <= number < count:
        raise DataError(f"data.test_fold = {number}; the folds are 0 to {count - 1}")
    test = fold == number
    persons = np.asarray(whole.persons, str)
    held_out = np.zeros(len(fold), bool)
    held_out[~test] = folds_lib.validation(
        persons[~test].tolist(), data.validation_fraction, seed=data.split_seed
    )
    if not held_out.any():
        raise DataError(
            f"fold {number}: no person is left for validation "
            f"({len(set(persons[~test]))} to train on); use more folds, or set "
            "data.validation_fraction above 0"
        )
    sides = {"train": ~test & ~held_out, "validation": held_out, "test": test}
    sources: dict[str, Source] = {
        name: Subset(spoilt if name == "train" else whole, np.flatnonzero(rows))
        for name, rows in sides.items()
    }
    listed = ", ".join(
        f"{name} {len(s)} images of {len(set(s.persons))} persons" for name, s in sources.items()
    )
    log.info("fold %d of %d: %s", number, count, listed)
    return sources


def count_folds(data: DataConfig | Mapping[str, Any], cache: DataCache | None = None) -> int:
    """Return the number of folds that `data.protocol` makes of the data.

    Raises:
      DataError: as `fold_sources`.
    """
    data = DataConfig.of(data)
    return int(_fold_of_records(data, _whole(data, cache or DataCache())[0]).max()) + 1


def _fold_of_records(data: DataConfig, source: Source) -> np.ndarray:
    """Return the fold of each record of a whole source, int32 [n]."""
    persons = np.asarray(source.persons, str).tolist()
    count = len(set(persons))
    if data.protocol == "leave_one_out":
        if not source.has_persons:
            raise DataError(
                "leave_one_out needs persons, and the data name none; give a person column, or use "
                "folds"
            )
        if count < 3:
            raise DataError(f"leave_one_out needs at least 3 persons; the data hold {count}")
        return folds_lib.leave_one_out(persons)
    if not source.has_persons:
        log.warning("the data name no persons, so images of one person may be in several folds")
    if not 2 <= data.folds <= count:
        raise DataError(
            f"{data.folds} folds cannot be cut from {count} persons; use at least 2 and at most "
            f"{count}"
        )
    return folds_lib.kfold(persons, data.folds, labels=source.labels, seed=data.split_seed)


def _whole(data: DataConfig, cache: DataCache) -> tuple[Source, Source]:
    """Return all records, and the same with the label noise they are trained with.

    All folds have them in common, and with a cache their decoded images too.
    """
    key = data.source_key(without=("protocol", "folds", "test_fold", "split_seed"))
    return cache.once(("whole", key), lambda: _make_whole(data))


def _make_whole(data: DataConfig) -> tuple[Source, Source]:
    if data.source == "features":
        raise DataError(
            "stored features cannot be cut into folds: the network that made them has seen their "
            "training persons; use data.protocol = 'split'"
        )
    if data.clean or data.clean_eval or data.exclude:
        raise DataError(
            "data.clean, data.clean_eval and data.exclude do not work with folds; leave them out"
        )
    if data.source == "synthetic":
        from data_pipelines.sources.synthetic import synthetic_sources  # slow drawing code

        section = dataclasses.replace(data.synthetic, num_validation=0, num_test=0)
        spoiling: dict[str, Any] = dict.fromkeys(SPOILING, 0.0)
        sound = dataclasses.replace(section, **spoiling)
        made = [synthetic_sources(s)["train"] for s in (sound, section)]
        return made[0], made[int(sound != section)]
    if data.source == "tfds":
        stored = prepared.whole_source(data.dataset, data.data_dir)
        whole: Source = stored.with_classes(data.classes) if data.classes else stored
    else:
        whole = table.TableSource(table.read_table(data))
    return whole, whole
