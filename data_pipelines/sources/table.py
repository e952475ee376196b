"""Tables of pictures as sources: a manifest's rows or a folder's files, and their splits."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.defaults import setting
from data_pipelines.protocols import cleaning, exclusion, persons
from data_pipelines.schema import DataError, empty_labels
from data_pipelines.sources import folder_tree, manifest, manifest_file

log = logging.getLogger(__name__)


class TableSource:
    """Pictures on disk whose labels stand in a `manifest.Table`; follows `example.Source`.

    Attributes beyond the protocol: `persons` (n names) and `has_persons`, `group_names`,
    `attribute_names`, `attribute_values`, `bad_rows` (rows of the whole table that were left out,
    with reasons).
    """

    def __init__(self, table: manifest.Table, rows: np.ndarray | None = None):
        rows = np.arange(len(table.paths)) if rows is None else np.asarray(rows)
        self._name, self._root = table.name, str(table.root)
        self._paths = [table.paths[i] for i in rows]
        self._rows = table.rows[rows]
        self._valence_arousal = table.valence_arousal[rows]
        self._landmarks = None if table.landmarks is None else table.landmarks[rows]
        self._box = None if table.box is None else table.box[rows]
        self._attributes = None if table.attributes is None else table.attributes[rows]
        self.class_names = table.class_names
        self.num_classes = len(table.class_names)
        self.labels = table.expression[rows]
        self.groups = table.groups[rows]
        self.group_names = table.group_names
        self.tracks = table.tracks[rows]
        self.persons = [table.persons[i] for i in rows]
        self.has_persons = table.has_persons
        self.attribute_names = table.attribute_names
        self.attribute_values = table.attribute_values
        self.bad_rows = table.bad
        self.has_persons = table.has_persons
        self.has = frozenset(
            name
            for name, there in (
                ("expression", (self.labels >= 0).any()),
                ("valence_arousal", np.isfinite(self._valence_arousal).any()),
                ("landmarks", self._landmarks is not None and np.isfinite(self._landmarks).any()),
                ("attributes", self._attributes is not None),
            )
            if there
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Raw record i; raises `OSError` where the file has vanished."""
        record = empty_labels()
        with open(os.path.join(self._root, self._paths[i]), "rb", buffering=0) as file:
            record["image"] = file.read()
        record["expression"] = int(self.labels[i])
        record["valence_arousal"] = self._valence_arousal[i]
        record["group"] = int(self.groups[i])
        if self._landmarks is not None:
            record["landmarks"] = self._landmarks[i]
        if self._box is not None:
            record["box"] = self._box[i]
        if self._attributes is not None:
            record["attributes"] = self._attributes[i]
        return record

    def path(self, i: int) -> str:
        """Path of picture i as the manifest writes it."""
        return self._paths[i]

    def record_columns(self) -> dict[str, Any]:
        """Returns what `fingerprint` compares of each record; paths are relative where they can be,
        so that the files may be moved."""
        root = os.path.join(os.path.abspath(self._root), "")
        columns: dict[str, Any] = {
            "path": [p.removeprefix(root) for p in self._paths],
            "person": ["" if n == p else n for n, p in zip(self.persons, self._paths, strict=True)],
            "valence_arousal": self._valence_arousal,
        }
        optional = {"landmarks": self._landmarks, "box": self._box, "attributes": self._attributes}
        return columns | {k: v for k, v in optional.items() if v is not None}

    def record_facts(self) -> dict[str, Any]:
        """Returns what `fingerprint` compares of all records together: nothing."""
        return {}

    def describe(self, i: int) -> str:
        """`manifest.csv:17 (images/a.jpg)`."""
        row = f":{self._rows[i]}" if self._rows[i] else ""
        return f"{self._name}{row} ({self._paths[i]})"


class ManifestSource(TableSource):
    """All rows of a CSV or JSONL manifest.

    Args:
      path: the manifest.
      classes: class names or a known label order; empty = inferred (see `manifest.build_table`).
      max_bad_fraction: maximum fraction of unusable rows tolerated.

    Raises:
      DataError: the manifest is missing, empty or lacks a column.
      TooManyBadRecords: too many rows are unusable.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        classes: str | Sequence[str] = "",
        max_bad_fraction: float = 0.1,
    ):
        super().__init__(manifest_table(path, classes, max_bad_fraction))


class FolderSource(TableSource):
    """All pictures of a folder that holds one folder a class; arguments as in `ManifestSource`."""

    def __init__(
        self,
        folder: str | os.PathLike,
        classes: str | Sequence[str] = "",
        max_bad_fraction: float = 0.1,
    ):
        super().__init__(folder_table(folder, classes, max_bad_fraction))


def manifest_table(
    path: str | os.PathLike, classes: str | Sequence[str] = "", max_bad_fraction: float = 0.1
) -> manifest.Table:
    """Columns of a manifest; arguments and errors as in `ManifestSource`."""
    if not str(path):
        raise DataError("data.manifest is empty: give the path of a CSV or JSONL file")
    path = pathlib.Path(path).expanduser()
    return manifest.build_table(
        manifest_file.read_rows(path),
        name=str(path),
        root=path.parent,
        classes=_as_classes(classes),
        max_bad_fraction=max_bad_fraction,
    )


def folder_table(
    folder: str | os.PathLike, classes: str | Sequence[str] = "", max_bad_fraction: float = 0.1
) -> manifest.Table:
    """Columns of a folder with one folder a class; arguments and errors as in `FolderSource`."""
    if not str(folder):
        raise DataError("data.folder is empty: give a folder that holds one folder a class")
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.folder: there is no folder {folder}")
    return manifest.build_table(
        folder_tree.read(folder, _as_classes(classes)),
        name=str(folder),
        root=folder,
        classes=_as_classes(classes),
        max_bad_fraction=max_bad_fraction,
        few=0,  # a folder is named on purpose
    )


def _as_classes(classes: str | Sequence[str]) -> str | tuple[str, ...]:
    return classes if isinstance(classes, str) else tuple(classes)


def split_table(table: manifest.Table, config: Mapping[str, Any]) -> dict[str, TableSource]:
    """Cuts a table into train, validation and test by person, and logs what each holds.

    A `split` column is followed; a side it does not name is cut from the training persons. A
    table without persons is split by picture, with a warning.

    Raises:
      DataError: no picture is left for training.
    """
    made = _cut(table, _rows_of_splits(table, config), config)
    if not len(made["train"]):
        raise DataError(f"{table.name}: no picture is left for training")
    return made


def _rows_of_splits(table: manifest.Table, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The rows of `train`, `validation` and `test`."""
    if not table.has_persons:
        log.warning(
            "%s names no person, video or group: each picture counts as a person of its own, and "
            "pictures of one person may stand in training and test",
            table.name,
        )
    if table.split is not None and not (table.split == persons.TEST).any():
        log.warning(
            "%s: the split column names no test rows; test persons are cut from training",
            table.name,
        )
    split = persons.assign(
        table.persons,
        folds=setting(config, "folds"),
        test_fold=setting(config, "test_fold"),
        validation_fraction=setting(config, "validation_fraction"),
        seed=setting(config, "split_seed"),
        given=table.split,
    )
    persons.warn_of_shared(table.name, table.persons, split)
    return {name: np.flatnonzero(split == k) for k, name in enumerate(persons.SPLIT_NAMES)}


def _cut(
    table: manifest.Table,
    rows_of: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    only: Sequence[str] = persons.SPLIT_NAMES,
) -> dict[str, TableSource]:
    """Sources of these rows without the excluded ones, and without those that cleaning drops."""
    sources = {}
    for name, rows in _without_excluded(table, rows_of, config).items():
        if name not in only:
            continue
        if setting(config, "clean" if name == "train" else "clean_eval"):
            rows = rows[
                cleaning.agrees(
                    table.class_names, table.expression[rows], table.valence_arousal[rows]
                )
            ]
        sources[name] = TableSource(table, rows)
        _log_split(table, name, sources[name])
    return sources


def _without_excluded(
    table: manifest.Table, rows_of: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The rows of each split without those that `data.exclude` lists."""
    path = setting(config, "exclude")
    if not path:
        return dict(rows_of)
    names = {part: [table.paths[i] for i in rows] for part, rows in rows_of.items()}
    # A picture that could not be used anyway may be listed too.
    marks = exclusion.find({**names, "unusable rows": [p for _, p, _ in table.bad]}, path)
    used = exclusion.parts(setting(config, "exclude_train"))
    log.info("%s", exclusion.report(marks, path, used))
    return {p: rows[~marks[p]] if p in used else rows for p, rows in rows_of.items()}


def _log_split(table: manifest.Table, name: str, source: TableSource) -> None:
    counts = np.bincount(source.labels[source.labels >= 0], minlength=source.num_classes)
    listed = ", ".join(f"{c} {n}" for c, n in zip(source.class_names, counts, strict=True))
    log.info(
        "%s %s: %d pictures of %d persons; %s",
        table.name,
        name,
        len(source),
        len(set(source.persons)),
        listed,
    )
    if not len(source):
        log.warning("%s: the %s split is empty", table.name, name)
    elif name == "train" and (counts == 0).any():
        absent = [c for c, n in zip(source.class_names, counts, strict=True) if not n]
        log.warning("%s: no training picture of class %s", table.name, ", ".join(absent))
