"""Prepared data sets as sources: random access, labels without reading images."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.dataset_names import BUILDERS, HIERARCHIES
from data_pipelines.schema import (
    MISSING_ID,
    NUM_LANDMARKS,
    DataError,
    DecodeError,
    Record,
    canonical_name,
    empty_labels,
    resolve_classes,
)

META_FILE = "affect.json"
REJECTED_FILE = "rejected.csv"
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
    """Find a data set by `name` or `name/config` in the folder it was prepared in.

    Without a config, the only one there is taken.

    Raises:
      DataError: a name is missing, the set is not prepared there, or several of its configs are.
    """
    if not name or not data_dir:
        raise DataError("data.source = tfds needs data.dataset and data.data_dir; set both")
    base, _, config = name.partition("/")
    root = Path(data_dir).expanduser() / base
    pattern = f"{config}/*/{META_FILE}" if config else f"**/{META_FILE}"
    # Skip the temporary folders of TFDS that a killed run has left.
    found = sorted(
        p for p in root.glob(pattern) if not any(d.startswith("incomplete.") for d in p.parts)
    )
    configs = sorted({p.parent.parent.name for p in found if p.parent.parent != root})
    if not found:
        known = "" if base in BUILDERS else f" (known data sets: {', '.join(sorted(BUILDERS))})"
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
    """One split of a prepared data set; follows `schema.Source`.

    It pickles without its open files, so that every worker process opens its own. A record without
    a known person counts as a person of its own.

    Attributes:
      folder, split: where its files are.
      valence_arousal: float64 [n, 2], NaN where unknown.
    """

    def __init__(self, prepared: Prepared, split: str):
        if split not in prepared.splits:
            raise DataError(
                f"{prepared.folder} has no split {split!r}; it has {', '.join(prepared.splits)}"
            )
        meta = prepared.meta
        self.folder, self.split = prepared.folder, split
        with np.load(prepared.folder / f"labels-{split}.npz") as z:
            self.labels, self.groups = z["labels"], z["groups"]
            self.valence_arousal, self._person_ids = z["valence_arousal"], z["persons"]
        self._total = len(self.labels)
        self._rows = np.arange(self._total)
        self._lookup: np.ndarray | None = None
        self._person_names = list(meta["person_names"])
        self._content = meta["splits"][split]["digest"]
        self._name = "/".join(x for x in (meta["dataset"], meta["config"]) if x)
        self.class_names = tuple(meta["class_names"])
        self.num_classes = len(self.class_names)
        self.hierarchy = HIERARCHIES.get(meta["dataset"], "")
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

    def __getitem__(self, i: int) -> Record:
        """Return raw record i.

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
        # Only fields that the set has: converting 136 numbers costs more than all the rest.
        if "landmarks" in self.has:
            record["landmarks"] = _floats(stored["landmarks"]).reshape(NUM_LANDMARKS, 2)
        record["box"] = _floats(stored["box"])
        if "attributes" in stored:
            record["attributes"] = np.array(stored["attributes"].int64_list.value, np.int32)
        if "expression_probs" in stored:
            record["expression_probs"] = self._probs(_floats(stored["expression_probs"]))
        return record

    def describe(self, i: int) -> str:
        """Return set, split, row and file: `raf_db/aligned train 17 (a.jpg)`."""
        row = int(self._rows[i])
        try:
            name = self.name(i)
        except (OSError, DecodeError):
            name = "its record cannot be read"
        return f"{self._name} {self.split} {row} ({name})"

    def name(self, i: int) -> str:
        """Return the path of image i in the user's copy; errors as in reading it."""
        return self._read(int(self._rows[i]))["name"].bytes_list.value[0].decode()

    @property
    def tracks(self) -> np.ndarray:
        """int32 [n], the group if that is a video (frames were written in order), else -1."""
        return self.groups if self._is_video else np.full_like(self.groups, MISSING_ID)

    @property
    def persons(self) -> list[str]:
        """Names of the person of each record."""
        known = self._person_names
        return [
            known[p] if p >= 0 else f"{self._name} {self.split} {row}"
            for p, row in zip(self._person_ids.tolist(), self._rows.tolist(), strict=True)
        ]

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        """Return row, person, valence and arousal of each record."""
        known = self._person_names
        return {
            "row": self._rows,
            "valence_arousal": self.valence_arousal.astype(np.float32),
            "person": [known[p] if p >= 0 else "" for p in self._person_ids.tolist()],
        }

    def record_facts(self) -> dict[str, Any]:
        """Return which set it is, and the digest of its images and landmarks as prepared."""
        return {"prepared set": self._name, "content": self._content}

    def subset(self, rows: np.ndarray | Sequence[int]) -> "TfdsSource":
        """Return the records at these positions, in this order."""
        rows = np.asarray(rows, np.int64)
        part = object.__new__(TfdsSource)
        part.__dict__ = self.__getstate__()
        for field in ("labels", "groups", "valence_arousal", "_person_ids", "_rows"):
            setattr(part, field, getattr(self, field)[rows])
        return part

    def with_classes(self, classes: str | tuple[str, ...]) -> "TfdsSource":
        """Return the records of the given classes, with ids in their order.

        Other records are left out.

        Records without a class but with votes stay.

        Args:
          classes: names (synonyms are understood) or a known label order such as `affectnet5`.

        Raises:
          DataError: a class that the data set does not have.
        """
        wanted = resolve_classes(classes)
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
        """Return the features of a stored record, still as protocol buffers."""
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
    """Return a function that gives the features of a record of one split.

    It reads what TFDS's `as_data_source` reads in a third of the time, because it skips TFDS's
    generic conversion of every feature.
    """
    # Slow to import; only processes that read images need it.
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


def official(prepared: Prepared) -> dict[str, TfdsSource]:
    """Return the official splits by the part they play in the usual protocol.

    Returns:
      `train`, `validation` and `test` as far as there are official ones (AffectNet's validation
      set plays the test part, since its test set is not public), or `full`.
    """
    roles = prepared.meta["roles"].items()
    return {role: TfdsSource(prepared, split) for role, split in roles if split in prepared.splits}


def whole_source(name: str, data_dir: str) -> TfdsSource:
    """Return all records of a set without official splits, for cross-validation.

    Raises:
      DataError: the set is not prepared, or has official splits.
    """
    parts = official(find_prepared(name, data_dir))
    if len(parts) != 1:
        raise DataError(
            f"{name} has official splits ({', '.join(parts)}) and is trained and tested on those; "
            "cross-validation is for sets without"
        )
    return next(iter(parts.values()))
