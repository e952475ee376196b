"""Train, validation and test sources of prepared sets (`data.source = "tfds"`)."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.defaults import DataConfig
from data_pipelines.protocols import cleaning, exclusion, persons
from data_pipelines.protocols import folds as folds_lib
from data_pipelines.schema import DataError
from data_pipelines.sources.prepared import (
    REJECTED_FILE,
    Prepared,
    TfdsSource,
    find_prepared,
    official,
)

log = logging.getLogger(__name__)


def prepared_sources(data: DataConfig) -> dict[str, TfdsSource]:
    """Return the sources of `data.dataset`, no person in two of them.

    Official splits are used unchanged. Missing splits are made by person: validation from the
    training persons, and for sets without splits a test split from one fold (`folds`, `test_fold`).
    Own images (`manifest`) are divided like an unprepared manifest.

    Raises:
      DataError: the configuration or the data cannot be used.
    """
    name = data.dataset
    prepared = find_prepared(name, data.data_dir)
    sources = official(prepared)
    if "full" in sources:
        sources["train"] = sources.pop("full")
    if "train" not in sources:
        raise DataError(f"{name} was prepared without a train split; prepare it again")
    own = prepared.meta["dataset"] == "manifest"
    # Persons of whom no image could be read: the manifest itself counts them, so they count here.
    lost = prepared.meta["lost_persons"][sources["train"].split] if own else []
    if "test" not in sources and (own or "full" in prepared.splits):
        everything = sources["train"]
        given = set(sources["validation"].persons) if "validation" in sources else set()
        test = _test_rows(everything, own, data) & [p not in given for p in everything.persons]
        sources["train"] = everything.subset(np.flatnonzero(~test))
        sources["test"] = everything.subset(np.flatnonzero(test))
        lost = [p for p, t in zip(lost, _in_test(lost, data).tolist(), strict=True) if not t]
    if "validation" not in sources:
        train = sources["train"]
        if not train.has_persons:
            log.warning(
                "%s names no persons: the validation split is cut by image, and images of one "
                "person may be in training and validation",
                name,
            )
        chosen = persons.choose_validation(
            [*train.persons, *lost], data.validation_fraction, data.split_seed
        )
        held_out = np.fromiter((p in chosen for p in train.persons), bool, len(train))
        sources["validation"] = train.subset(np.flatnonzero(held_out))
        sources["train"] = train.subset(np.flatnonzero(~held_out))
    everyone = [p for s in sources.values() for p in s.persons]
    places = np.repeat(np.arange(len(sources)), [len(s) for s in sources.values()])
    persons.warn_of_shared(name, everyone, places)
    if data.exclude:
        sources = _without_excluded(prepared, sources, data)
    for split in persons.SPLIT_NAMES:
        if split not in sources:
            raise DataError(f"{name} was prepared without a {split} split; prepare it again")
    return {split: _finished(split, sources[split], data) for split in persons.SPLIT_NAMES}


def _finished(split: str, source: TfdsSource, data: DataConfig) -> TfdsSource:
    """Return the source of a split, cleaned and with the classes asked for.

    The log has its counts.
    """
    if data.clean if split == "train" else data.clean_eval:
        keep = cleaning.agrees(source.class_names, source.labels, source.valence_arousal)
        source = source.subset(np.flatnonzero(keep))
    if data.classes:
        source = source.with_classes(data.classes)
    counts = np.bincount(source.labels[source.labels >= 0], minlength=source.num_classes)
    listed = ", ".join(f"{c} {n}" for c, n in zip(source.class_names, counts, strict=True))
    log.info("%s %s: %d images; %s", data.dataset, split, len(source), listed or "no classes")
    return source


def _without_excluded(
    prepared: Prepared, sources: Mapping[str, TfdsSource], data: DataConfig
) -> dict[str, TfdsSource]:
    """Return the sources without the images that `data.exclude` lists."""
    names = {split: [s.name(i) for i in range(len(s))] for split, s in sources.items()}
    # An image that was rejected anyway may be listed too.
    with open(prepared.folder / REJECTED_FILE, newline="", encoding="utf-8") as file:
        rejected = [row["file"] for row in csv.DictReader(file) if row["split"]]
    rejected = [re.sub(r" \(row \d+\)$", "", name) for name in rejected]
    keep = exclusion.keep(names, {REJECTED_FILE: rejected}, data)
    return {split: s.subset(np.flatnonzero(keep[split])) for split, s in sources.items()}


def _test_rows(everything: TfdsSource, own: bool, data: DataConfig) -> np.ndarray:
    """Mark the records of the persons in the fold that is tested on (bool [n])."""
    if own:
        return _in_test(everything.persons, data)
    fold = folds_lib.kfold(
        everything.persons, data.folds, labels=everything.labels, seed=data.split_seed
    )
    return fold == data.test_fold


def _in_test(names: Sequence[str], data: DataConfig) -> np.ndarray:
    """Mark the persons of own images that are tested on (bool [n])."""
    split = persons.assign(
        names, folds=data.folds, test_fold=data.test_fold, validation_fraction=0.0
    )
    return split == persons.TEST
