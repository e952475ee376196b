"""Sources of one fold of a cross-validation: `data.protocol` other than "split".

All records of a source are cut into folds by person; `data.test_fold` is tested on, a share of the
other persons (`data.validation_fraction`) chooses the checkpoint, and the rest trains.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.defaults import setting
from data_pipelines.protocols import folds as folds_lib
from data_pipelines.schema import DataError, Source
from data_pipelines.sources import cache, prepared
from data_pipelines.sources import table as table_lib
from data_pipelines.sources.subset import Subset

log = logging.getLogger(__name__)

PROTOCOLS = ("split", "folds", "leave_one_out")
# Knobs of the synthetic faces that change labels, but no picture.
_SPOILING = (
    "symmetric_noise",
    "confusable_noise",
    "missing_expression",
    "missing_valence_arousal",
    "missing_landmarks",
)


def make_sources(config: Mapping[str, Any]) -> dict[str, Source]:
    """Training, validation and test sources of the fold `data.test_fold`, disjoint by person.

    Synthetic faces are those of the training split; knobs that spoil labels touch the training
    side only.

    Raises:
      DataError: there are fewer persons than folds, no such fold, or the data cannot be cut.
    """
    whole, spoilt = _whole(config)
    fold = fold_of_records(config, whole)
    number, count = setting(config, "test_fold"), int(fold.max()) + 1
    if not 0 <= number < count:
        raise DataError(f"data.test_fold = {number}; the folds are 0 to {count - 1}")
    test = fold == number
    persons = np.asarray(whole.persons).astype(str)
    held_out = np.zeros(len(fold), bool)
    held_out[~test] = folds_lib.validation(
        persons[~test].tolist(),
        setting(config, "validation_fraction"),
        seed=setting(config, "split_seed"),
    )
    if not held_out.any():
        raise DataError(
            f"fold {number}: no person is left to choose the checkpoint by "
            f"({len(set(persons[~test]))} to train on); use more folds, or set "
            "data.validation_fraction above 0"
        )
    sides = {"train": ~test & ~held_out, "validation": held_out, "test": test}
    sources = {
        name: Subset(spoilt if name == "train" else whole, np.flatnonzero(rows))
        for name, rows in sides.items()
    }
    listed = ", ".join(
        f"{name} {len(s)} pictures of {len(set(s.persons))} persons" for name, s in sources.items()
    )
    log.info("fold %d of %d: %s", number, count, listed)
    return sources


def count_folds(config: Mapping[str, Any]) -> int:
    """Number of folds that `data.protocol` makes of the data.

    Raises:
      DataError: as `make_sources`.
    """
    return int(fold_of_records(config, _whole(config)[0]).max()) + 1


def fold_of_records(config: Mapping[str, Any], source: Source) -> np.ndarray:
    """The fold of each record of a whole source, int32 [n]."""
    protocol, folds = setting(config, "protocol"), setting(config, "folds")
    persons = np.asarray(source.persons).astype(str).tolist()
    count = len(set(persons))
    known = getattr(source, "has_persons", True)
    if protocol == "leave_one_out":
        if not known:
            raise DataError(
                "leave_one_out needs persons, and the data name none; give a person column, or use "
                "folds"
            )
        if count < 3:
            raise DataError(f"leave_one_out needs at least 3 persons; the data hold {count}")
        return folds_lib.leave_one_out(persons)
    if protocol != "folds":
        raise DataError(f"data.protocol is {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if not known:
        log.warning("the data name no persons: pictures of one person may stand in several folds")
    if not 2 <= folds <= count:
        raise DataError(
            f"{folds} folds cannot be cut from {count} persons; use at least 2 and at most {count}"
        )
    return folds_lib.kfold(persons, folds, labels=source.labels, seed=setting(config, "split_seed"))


def _whole(config: Mapping[str, Any]) -> tuple[Source, Source]:
    """All records; and the same as they are trained on, with whatever spoils their labels."""
    # Folds have the whole in common, and within `caching.shared` its decoded pictures too.
    key = cache.source_key(config, but=("protocol", "folds", "test_fold", "split_seed"))
    return cache.sources_for(("whole", key), lambda: _make_whole(config))


def _make_whole(config: Mapping[str, Any]) -> tuple[Source, Source]:

    if any(setting(config, field) for field in ("clean", "clean_eval", "exclude")):
        raise DataError("data.clean, data.clean_eval and data.exclude cannot be used with folds")
    kind = setting(config, "source")
    if kind == "synthetic":
        from data_pipelines.sources import synthetic

        section = dict(config.get("synthetic") or {})
        section |= {"num_validation": 0, "num_test": 0}
        sound = section | {k: 0.0 for k in _SPOILING if k in section}
        made = [synthetic.make_sources({"synthetic": s})["train"] for s in (sound, section)]
        return made[0], made[int(sound != section)]
    classes = setting(config, "classes")
    if kind in ("manifest", "folder"):
        read = table_lib.manifest_table if kind == "manifest" else table_lib.folder_table
        table = read(setting(config, kind), classes, setting(config, "max_bad_fraction"))
        whole = table_lib.TableSource(table)
    elif kind == "tfds":
        whole = _prepared(setting(config, "dataset"), setting(config, "data_dir"))
        whole = whole.with_classes(classes) if len(classes) else whole
    else:
        raise DataError(f"data.source is {kind!r}; known: synthetic, manifest, folder, tfds")
    return whole, whole


def _prepared(name: str, data_dir: str) -> Any:
    from data_pipelines.sources.prepared import find_prepared

    if not name or not data_dir:
        raise DataError("data.source is tfds: set data.dataset and data.data_dir")
    parts = prepared.official(find_prepared(name, data_dir))
    if len(parts) != 1:
        raise DataError(
            f"{name} has official splits ({', '.join(parts)}) and is trained and tested on those; "
            "cross-validation is for sets without"
        )
    return next(iter(parts.values()))
