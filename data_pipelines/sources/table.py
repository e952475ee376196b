"""A manifest's rows or a folder's files as sources, and their splits."""

import logging
import os
import pathlib
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.defaults import DataConfig
from data_pipelines.protocols import cleaning, exclusion, persons
from data_pipelines.schema import DataError, Record, empty_labels
from data_pipelines.sources import folder_tree, manifest, manifest_file

log = logging.getLogger(__name__)


class TableSource:
    """Images on disk whose labels are in a `manifest.Table`; follows `schema.Source`.

    Attributes:
      paths: n paths as the manifest writes them.
      bad_rows: rows of the whole table that were left out, with reasons.
    """

    def __init__(self, table: manifest.Table, rows: np.ndarray | None = None):
        rows = np.arange(len(table.paths)) if rows is None else np.asarray(rows)
        self._root = str(table.root)
        self.paths = [table.paths[i] for i in rows]
        self._rows, self._origins = table.rows[rows], table.origins
        self._valence_arousal = table.valence_arousal[rows]
        # The fields of a record that not every table has.
        optional = {name: getattr(table, name) for name in ("landmarks", "box", "attributes")}
        self._optional = {k: column[rows] for k, column in optional.items() if column is not None}
        self.class_names, self.num_classes = table.class_names, len(table.class_names)
        self.hierarchy = ""
        self.labels = table.expression[rows]
        self.groups, self.group_names = table.groups[rows], table.group_names
        self.tracks = table.tracks[rows]
        self.persons = [table.persons[i] for i in rows]
        self.has_persons = table.has_persons
        self.attribute_names = table.attribute_names
        self.attribute_values = table.attribute_values
        self.bad_rows = table.bad
        landmarks = self._optional.get("landmarks", np.nan)
        there = {
            "expression": (self.labels >= 0).any(),
            "valence_arousal": np.isfinite(self._valence_arousal).any(),
            "landmarks": np.isfinite(landmarks).any(),
            "attributes": "attributes" in self._optional,
        }
        self.has = frozenset(name for name, is_there in there.items() if is_there)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Record:
        """Return raw record i; raises `OSError` if its file has vanished."""
        with open(os.path.join(self._root, self.paths[i]), "rb", buffering=0) as file:
            image = file.read()
        return empty_labels() | {
            "image": image,
            "expression": int(self.labels[i]),
            "valence_arousal": self._valence_arousal[i],
            "group": int(self.groups[i]),
            **{name: column[i] for name, column in self._optional.items()},
        }

    def describe(self, i: int) -> str:
        """Return file and row: `manifest.csv:17 (images/a.jpg)`."""
        return f"{self._origins.place(int(self._rows[i]))} ({self.paths[i]})"

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        """Return what `fingerprint` compares.

        Paths below the root are relative to it, so that the files may be moved.
        """
        root = os.path.join(os.path.abspath(self._root), "")
        # A copy on another system may spell accents in another way.
        paths = [unicodedata.normalize("NFC", path) for path in self.paths]
        root = unicodedata.normalize("NFC", root)
        persons = ["" if n == p else n for n, p in zip(self.persons, paths, strict=True)]
        return {
            "path": [p.removeprefix(root) for p in paths],
            "person": persons,
            "valence_arousal": self._valence_arousal,
            **self._optional,
        }

    def record_facts(self) -> dict[str, Any]:
        return {}


def read_manifest(
    path: str | os.PathLike, classes: str | tuple[str, ...] = "", max_bad_fraction: float = 0.1
) -> manifest.Table:
    """Read a CSV or JSONL manifest, or several with commas between them.

    Args:
      path: of the manifest; see `manifest_file.split_paths`.
      classes: class names or a known label order; empty = inferred (see `manifest.build_table`).
      max_bad_fraction: maximum fraction of unusable rows tolerated.

    Raises:
      DataError: the manifest is missing, empty or lacks a column.
      TooManyBadRecords: too many rows are unusable.
    """
    if not str(path):
        raise DataError("data.manifest is empty: give the path of a CSV or JSONL file")
    files = manifest_file.split_paths(path)
    return manifest.build_table(
        [manifest.Manifest(str(p), p.parent, manifest_file.read_rows(p)) for p in files],
        classes=classes,
        max_bad_fraction=max_bad_fraction,
    )


def read_folder(
    folder: str | os.PathLike, classes: str | tuple[str, ...] = "", max_bad_fraction: float = 0.1
) -> manifest.Table:
    """Read a folder with one folder per class; see `read_manifest` for the rest."""
    if not str(folder):
        raise DataError("data.folder is empty: give a folder with one subfolder per class")
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.folder: there is no folder {folder}")
    return manifest.build_table(
        [manifest.Manifest(str(folder), folder, folder_tree.read(folder, classes))],
        classes=classes,
        max_bad_fraction=max_bad_fraction,
        few=0,  # a folder is named on purpose
    )


def read_table(data: DataConfig) -> manifest.Table:
    """Read the manifest or folder that `config.data` names."""
    read, path = (
        (read_manifest, data.manifest) if data.source == "manifest" else (read_folder, data.folder)
    )
    return read(path, data.classes, data.max_bad_fraction)


def table_sources(table: manifest.Table, data: DataConfig) -> dict[str, TableSource]:
    """Cut a table into train, validation and test by person, and log what each holds.

    A `split` column is followed; a missing split is taken from the training persons. A table
    without persons is split by image, with a warning.

    Raises:
      DataError: no image is left for training.
    """
    rows_of = without_excluded(table, rows_of_splits(table, data), data)
    sources = {split: split_source(table, split, rows, data) for split, rows in rows_of.items()}
    if not len(sources["train"]):
        raise DataError(
            f"{table.name}: no image is left for training; see the log for what was left out"
        )
    return sources


def rows_of_splits(table: manifest.Table, data: DataConfig) -> dict[str, np.ndarray]:
    """Return the rows of `train`, `validation` and `test`."""
    if not table.has_persons:
        log.warning(
            "%s names no person, video or group: each image counts as a person of its own, and "
            "images of one person may be in training and test",
            table.name,
        )
    if table.split is not None and not (table.split == persons.TEST).any():
        log.warning(
            "%s: the split column names no test rows; test persons are cut from training",
            table.name,
        )
    split = persons.assign(
        table.persons,
        folds=data.folds,
        test_fold=data.test_fold,
        validation_fraction=data.validation_fraction,
        seed=data.split_seed,
        given=table.split,
    )
    persons.warn_of_shared(table.name, table.persons, split)
    return {name: np.flatnonzero(split == k) for k, name in enumerate(persons.SPLIT_NAMES)}


def without_excluded(
    table: manifest.Table, rows_of: Mapping[str, np.ndarray], data: DataConfig
) -> Mapping[str, np.ndarray]:
    """Return the rows of each split without those that `data.exclude` lists."""
    if not data.exclude:
        return rows_of
    names = {split: [table.paths[i] for i in rows] for split, rows in rows_of.items()}
    keep = exclusion.keep(names, {"unusable rows": [path for _, path, _ in table.bad]}, data)
    return {split: rows[keep[split]] for split, rows in rows_of.items()}


def split_source(
    table: manifest.Table, split: str, rows: np.ndarray, data: DataConfig
) -> TableSource:
    """Return these rows as the source of a split, cleaned if the config asks.

    The log has its counts.
    """
    if data.clean if split == "train" else data.clean_eval:
        expression, affect = table.expression[rows], table.valence_arousal[rows]
        rows = rows[cleaning.agrees(table.class_names, expression, affect)]
    source = TableSource(table, rows)
    counts = np.bincount(source.labels[source.labels >= 0], minlength=source.num_classes)
    listed = ", ".join(f"{c} {n}" for c, n in zip(source.class_names, counts, strict=True))
    people = len(set(source.persons))
    log.info("%s %s: %d images of %d persons; %s", table.name, split, len(source), people, listed)
    if not len(source):
        log.warning("%s: the %s split is empty", table.name, split)
    elif split == "train" and (counts == 0).any():
        absent = [c for c, n in zip(source.class_names, counts, strict=True) if not n]
        log.warning("%s: no training image of class %s", table.name, ", ".join(absent))
    return source
