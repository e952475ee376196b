"""Prepared data sets as sources: random access by index, labels without reading a picture."""

import csv
import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets import names
from data_pipelines.datasets.files import META_FILE, REJECTED_FILE, labels_file
from data_pipelines.defaults import setting
from data_pipelines.protocols import cleaning, exclusion, persons
from data_pipelines.protocols import folds as folds_lib
from data_pipelines.schema import (
    MISSING_ID,
    NUM_LANDMARKS,
    DataError,
    DecodeError,
    canonical_name,
    empty_labels,
    resolve_classes,
)

log = logging.getLogger(__name__)

# Keys of that file without which its records would be read wrong.
_NEEDED = (
    "class_names",
    "person_names",
    "group_names",
    "has_persons",
    "lost_persons",
    "splits",
    "roles",
)
# What cards call a group whose records are frames of one video, a face each.
_VIDEOS = ("clip", "recording", "face track")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk.

    Attributes:
      folder: `DATA_DIR/NAME[/CONFIG]/VERSION`.
      meta: content of `affect.json`.
    """

    folder: Path
    meta: Mapping[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that were written."""
        return tuple(self.meta["splits"])


def find_prepared(name: str, data_dir: str | Path) -> Prepared:
    """Finds a data set by `name` or `name/config` in the folder it was prepared in.

    Without a config, the only one there is taken.

    Raises:
      DataError: it is not prepared there, or several configs are.
    """
    base, _, config = name.partition("/")
    root = Path(data_dir).expanduser() / base
    pattern = f"{config}/*/{META_FILE}" if config else f"**/{META_FILE}"
    # TFDS's temporary folders, left by a killed run, hold nothing that may be read.
    found = sorted(
        p for p in root.glob(pattern) if not any(d.startswith("incomplete.") for d in p.parts)
    )
    configs = sorted({p.parent.parent.name for p in found if p.parent.parent != root})
    if not found:
        known = "" if base in names() else f" (known data sets: {', '.join(names())})"
        raise DataError(
            f"{name} is not prepared in {data_dir}{known}; run: python -m data_pipelines.prepare "
            f"--dataset {name} --manual_dir YOUR_FILES --data_dir {data_dir}"
        )
    if len(configs) > 1 and not config:
        raise DataError(
            f"{name} is prepared in {len(configs)} ways; choose one of "
            f"{', '.join(f'{base}/{c}' for c in configs)}"
        )
    folder = found[-1].parent
    meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
    absent = [key for key in _NEEDED if key not in meta]
    if absent:
        raise DataError(
            f"{folder / META_FILE} was written by another version and lacks {', '.join(absent)}; "
            f"remove {folder} and prepare {name} again"
        )
    return Prepared(folder, meta)


class TfdsSource:
    """One split of a prepared data set; follows `data_pipelines.schema.Source`.

    Pickles without its open files, so that every worker process opens its own.

    Attributes:
      class_names, num_classes, labels, groups, has: see `example.Source`.
      persons: n names of what must not stand in two splits; a record about which nothing is known
        counts as a person of its own.
      has_persons: whether anything is known.
      group_names: names of the groups.
      valence_arousal: float64 [n, 2], NaN where unknown.
      attribute_names, attribute_values: meaning of `attributes`.
    """

    def __init__(self, prepared: Prepared, split: str):
        if split not in prepared.splits:
            raise DataError(
                f"{prepared.folder} has no split {split!r}; it has {', '.join(prepared.splits)}"
            )
        meta = prepared.meta
        self.folder, self.split = prepared.folder, split
        with np.load(prepared.folder / labels_file(split)) as z:
            self.labels, self.groups = z["labels"], z["groups"]
            self.valence_arousal, self._person_ids = z["valence_arousal"], z["persons"]
        self._total = len(self.labels)
        self._rows = np.arange(self._total)
        self._lookup: np.ndarray | None = None
        self._person_names = list(meta["person_names"])
        # Sets that were prepared by an earlier version have none.
        self._content = meta["splits"][split].get("digest")
        self._name = "/".join(x for x in (meta["dataset"], meta["config"]) if x)
        self.class_names = tuple(meta["class_names"])
        self.num_classes = len(self.class_names)
        self.attribute_names = tuple(name for name, _ in meta["attributes"])
        self.attribute_values = tuple(tuple(values) for _, values in meta["attributes"])
        self._is_video = meta["group"] in _VIDEOS
        self.group_names = tuple(meta["group_names"])
        self.has_persons = bool(meta["has_persons"] and (self._person_ids >= 0).any())
        self.has = frozenset(
            [*meta["splits"][split]["has"], *(["attributes"] if self.attribute_names else [])]
        )
        self._reader: Any = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Raw record i.

        Raises:
          DecodeError: the stored record is damaged.
          OSError: the files have vanished.
        """
        stored = self._read(int(self._rows[i]))
        record = empty_labels()
        record["image"] = stored["image"].bytes_list.value[0]
        record["expression"] = int(self.labels[i])
        record["group"] = int(self.groups[i])
        record["valence_arousal"] = self.valence_arousal[i].astype(np.float32)
        # Only what the set has: turning 136 numbers into an array costs more than the rest.
        if "landmarks" in self.has:
            record["landmarks"] = _floats(stored["landmarks"]).reshape(NUM_LANDMARKS, 2)
        record["box"] = _floats(stored["box"])
        if "attributes" in stored:
            record["attributes"] = np.array(stored["attributes"].int64_list.value, np.int32)
        if "expression_probs" in stored:
            record["expression_probs"] = self._probs(_floats(stored["expression_probs"]))
        return record

    def describe(self, i: int) -> str:
        """`raf_db/aligned train 17 (Image/aligned/train_00018_aligned.jpg)`."""
        row = int(self._rows[i])
        try:
            name = self.name(i)
        except (OSError, DecodeError):
            name = "its record cannot be read"
        return f"{self._name} {self.split} {row} ({name})"

    def name(self, i: int) -> str:
        """Path of picture i in the user's copy; raises as reading the record does."""
        return self._read(int(self._rows[i]))["name"].bytes_list.value[0].decode()

    @property
    def tracks(self) -> np.ndarray:
        """int32 [n], the group where that is a video (frames were written in order); else -1."""
        return self.groups if self._is_video else np.full_like(self.groups, MISSING_ID)

    @property
    def persons(self) -> list[str]:
        """Name of the person of each record (see the class)."""
        known = self._person_names
        return [
            known[p] if p >= 0 else f"{self._name} {self.split} {row}"
            for p, row in zip(self._person_ids.tolist(), self._rows.tolist(), strict=True)
        ]

    def record_columns(self) -> dict[str, Any]:
        """Returns what `fingerprint` compares of each record."""
        known = self._person_names
        return {
            "row": self._rows,
            "valence_arousal": self.valence_arousal.astype(np.float32),
            "person": [known[p] if p >= 0 else "" for p in self._person_ids.tolist()],
        }

    def record_facts(self) -> dict[str, Any]:
        """Returns which set it is, and the digest of its pictures and landmarks as prepared."""
        return {"prepared set": self._name, "content": self._content}

    def subset(self, rows: np.ndarray | Sequence[int]) -> "TfdsSource":
        """The records at these positions, in this order."""
        rows = np.asarray(rows, np.int64)
        part = object.__new__(TfdsSource)
        part.__dict__ = self.__getstate__()
        for field in ("labels", "groups", "valence_arousal", "_person_ids", "_rows"):
            setattr(part, field, getattr(self, field)[rows])
        return part

    def with_classes(self, classes: str | Sequence[str]) -> "TfdsSource":
        """The records of the given classes, with ids in their order; the others are left out.

        Records without a class but with votes stay.

        Args:
          classes: names (synonyms are understood) or a known label order such as `affectnet5`.

        Raises:
          DataError: a class that the data set does not have.
        """
        wanted = resolve_classes(classes if isinstance(classes, str) else tuple(classes))
        own = {canonical_name(n): i for i, n in enumerate(self.class_names)}
        absent = [n for n in wanted if canonical_name(n) not in own]
        if absent:
            raise DataError(
                f"{self._name} has no class {', '.join(absent)}; it has "
                f"{', '.join(self.class_names) or 'none'}"
            )
        order = np.array([own[canonical_name(n)] for n in wanted], np.int64)
        lookup = np.full(self.num_classes + 1, MISSING_ID, np.int32)
        lookup[order] = np.arange(len(wanted))
        labels = lookup[self.labels]
        part = self.subset(np.flatnonzero((labels >= 0) | (self.labels < 0)))
        part.labels = lookup[part.labels]
        part._lookup = order if self._lookup is None else self._lookup[order]
        part.class_names, part.num_classes = wanted, len(wanted)
        return part

    def _probs(self, probs: np.ndarray) -> np.ndarray:
        if self._lookup is None:
            return probs
        chosen = probs[self._lookup]
        total = chosen.sum()
        return (chosen / total if total > 0 else np.full_like(chosen, np.nan)).astype(np.float32)

    def _read(self, row: int) -> Mapping[str, Any]:
        """The features of a stored record, still as protocol buffers."""
        if self._reader is None:
            self._reader = _open(self.folder, self.split, self._total)
        try:
            return self._reader(row)
        except OSError:
            raise
        # The parser and the reader raise several types on damaged files.
        except Exception as e:
            if not self.folder.is_dir():
                raise FileNotFoundError(f"{self.folder} has vanished") from e
            raise DecodeError(f"record is damaged ({type(e).__name__}: {e})") from e


def _floats(feature: Any) -> np.ndarray:
    return np.array(feature.float_list.value, np.float32)


def _open(folder: Path, split: str, needed: int) -> Callable[[int], Mapping[str, Any]]:
    """A function that gives the features of a record of one split.

    It reads what TFDS's `as_data_source` reads, in a third of the time, by leaving out TFDS's
    generic conversion of every feature.
    """
    # Imported late: only processes that read pictures pay for it.
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from tensorflow_datasets.proto import tf_example_pb2

    shards = sorted(str(p) for p in folder.glob(f"*-{split}.array_record-*"))
    if not shards:
        raise FileNotFoundError(f"{folder} has no records of split {split} any more")
    records = ArrayRecordDataSource(shards)
    if len(records) < needed:
        raise OSError(f"{folder} holds {len(records)} records of split {split}, not {needed}")

    def features(row: int) -> Mapping[str, Any]:
        return tf_example_pb2.Example.FromString(records[row]).features.feature

    return features


def load_source(
    name: str,
    data_dir: str | Path,
    split: str,
    *,
    classes: str | Sequence[str] = "",
    clean: bool = False,
) -> TfdsSource:
    """Opens one split of a prepared data set.

    Args:
      name: `affectnet`, or with a config as in `ck_plus/seven`.
      data_dir: where it was prepared.
      split: `train`, `validation`, `test` or `full`, as `prepare --dataset list` says.
      classes: keep these classes only and number them in this order; empty = all.
      clean: keep only pictures whose class agrees with valence and arousal (AffectNet).

    Raises:
      DataError: not prepared, no such split, no such class.
    """
    source = TfdsSource(find_prepared(name, data_dir), split)
    if clean:
        keep = cleaning.agrees(source.class_names, source.labels, source.valence_arousal)
        source = source.subset(np.flatnonzero(keep))
    return source.with_classes(classes) if len(classes) else source


def make_sources(config: Mapping[str, Any]) -> dict[str, TfdsSource]:
    """Training, validation and test sources of a prepared data set (`data.source = "tfds"`).

    Official splits are used as they are. What is missing is cut by person: a validation split out
    of the training persons, and for sets without any split one fold (`folds`, `test_fold`) for
    testing. Own pictures (`manifest`) are cut as an unprepared manifest would be.

    Args:
      config: the fields of `config.data`; see `data_pipelines.defaults`.

    Raises:
      DataError: the configuration or the data cannot be used.
    """

    name, data_dir = setting(config, "dataset"), setting(config, "data_dir")
    if not name or not data_dir:
        raise DataError("data.source is tfds: set data.dataset and data.data_dir")
    prepared = find_prepared(name, data_dir)
    sources = official(prepared)
    sources["train"] = sources.pop("full", None) or sources.get("train")
    if sources["train"] is None:
        raise DataError(f"{name} was prepared without a train split; prepare it again")
    own = prepared.meta["dataset"] == "manifest"
    # Persons of whom no picture could be read: the manifest itself counts them, so they count here.
    lost = prepared.meta["lost_persons"][sources["train"].split] if own else []
    if "test" not in sources and (own or "full" in prepared.splits):
        everything = sources["train"]
        given = set(sources["validation"].persons) if "validation" in sources else set()
        test = _test_rows(everything, own, config) & [p not in given for p in everything.persons]
        sources["train"] = everything.subset(np.flatnonzero(~test))
        sources["test"] = everything.subset(np.flatnonzero(test))
        lost = [p for p, t in zip(lost, _in_test(lost, config).tolist(), strict=True) if not t]
    if "validation" not in sources:
        train = sources["train"]
        if not train.has_persons:
            log.warning(
                "%s names no persons: the validation split is cut by picture, and pictures of one "
                "person may stand in training and validation",
                name,
            )
        fraction, seed = setting(config, "validation_fraction"), setting(config, "split_seed")
        chosen = persons.choose_validation([*train.persons, *lost], fraction, seed)
        held_out = np.fromiter((p in chosen for p in train.persons), bool, len(train))
        sources["validation"] = train.subset(np.flatnonzero(held_out))
        sources["train"] = train.subset(np.flatnonzero(~held_out))
    everyone = [p for s in sources.values() for p in s.persons]
    split = np.repeat(np.arange(len(sources)), [len(s) for s in sources.values()])
    persons.warn_of_shared(name, everyone, split)
    if setting(config, "exclude"):
        sources |= _without_excluded(prepared, sources, config)
    result = {}
    for split in persons.SPLIT_NAMES:
        source = sources.get(split)
        if source is None:
            raise DataError(f"{name} was prepared without a {split} split; prepare it again")
        if setting(config, "clean" if split == "train" else "clean_eval"):
            keep = cleaning.agrees(source.class_names, source.labels, source.valence_arousal)
            source = source.subset(np.flatnonzero(keep))
        classes = setting(config, "classes")
        result[split] = source.with_classes(classes) if len(classes) else source
        _log_split(name, split, result[split])
    return result


def _without_excluded(
    prepared: Prepared, sources: Mapping[str, TfdsSource], config: Mapping[str, Any]
) -> dict[str, TfdsSource]:
    """The sources without the pictures that `data.exclude` lists."""
    path = setting(config, "exclude")
    names = {part: [s.name(i) for i in range(len(s))] for part, s in sources.items()}
    # A picture that was rejected anyway may be listed too.
    with open(prepared.folder / REJECTED_FILE, newline="", encoding="utf-8") as file:
        rejected = (row["file"] for row in csv.DictReader(file) if row["split"])
        names["rejected.csv"] = [re.sub(r" \(row \d+\)$", "", name) for name in rejected]
    marks = exclusion.find(names, path)
    used = exclusion.parts(setting(config, "exclude_train"))
    log.info("%s", exclusion.report(marks, path, used))
    return {p: s.subset(np.flatnonzero(~marks[p])) for p, s in sources.items() if p in used}


def _test_rows(everything: TfdsSource, own: bool, config: Mapping[str, Any]) -> np.ndarray:
    """Rows of the persons of the fold that is tested on (bool [n])."""
    folds, test_fold = setting(config, "folds"), setting(config, "test_fold")
    if own:
        return _in_test(everything.persons, config)

    seed = setting(config, "split_seed")
    fold = folds_lib.kfold(everything.persons, folds, labels=everything.labels, seed=seed)
    return fold == test_fold


def _in_test(names: Sequence[str], config: Mapping[str, Any]) -> np.ndarray:
    """Which persons of own pictures are tested on (bool [n])."""
    folds, test_fold = setting(config, "folds"), setting(config, "test_fold")
    split = persons.assign(names, folds=folds, test_fold=test_fold, validation_fraction=0.0)
    return split == persons.TEST


def _log_split(name: str, split: str, source: TfdsSource) -> None:
    counts = np.bincount(source.labels[source.labels >= 0], minlength=source.num_classes)
    listed = ", ".join(f"{c} {n}" for c, n in zip(source.class_names, counts, strict=True))
    log.info("%s %s: %d pictures; %s", name, split, len(source), listed or "no classes")


def official(prepared: Any) -> dict[str, Any]:
    """The official splits of a prepared data set by the part they play in the usual protocol.

    Args:
      prepared: what `datasets.source.find_prepared` gives.

    Returns:
      `train`, `validation` and `test` as far as there are official ones (AffectNet's validation
      set plays the test part, since its test set is not public), or `full`.
    """
    from data_pipelines.sources.prepared import TfdsSource

    roles = prepared.meta["roles"]
    return {
        role: TfdsSource(prepared, split)
        for role, split in roles.items()
        if split in prepared.splits
    }
