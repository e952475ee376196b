"""Stored features as data: one .npz file with all splits, and the sources made of it.

`--mode=eval --config.eval.features=PATH` writes such a file. Any other program may: it is what
`numpy.savez` makes of these arrays, for each of the splits `train`, `validation` and `test` with n
records. Only the first two of a split are needed, and what is missing counts as unknown.

| array                    | dtype, shape     | meaning                                       |
|--------------------------|------------------|-----------------------------------------------|
| `class_names`            | str [N]          | position = class id                           |
| `SPLIT/features`         | float32 [n, D]   | the network's own input, finite               |
| `SPLIT/expression`       | int32 [n]        | class id, -1: unknown                         |
| `SPLIT/true_expression`  | int32 [n]        | without label noise, where that is known      |
| `SPLIT/expression_probs` | float32 [n, N]   | votes, NaN: unknown                           |
| `SPLIT/valence_arousal`  | float32 [n, 2]   | in [-1, 1], NaN: unknown                      |
| `SPLIT/group`            | int32 [n]        | video, clip or person                         |
| `SPLIT/track`            | int32 [n]        | video whose frames follow each other          |
| `SPLIT/attributes`       | int32 [n, A]     | subgroups for audit                           |
| `SPLIT/person`           | str [n]          | in one split only                             |
| `SPLIT/name`             | str [n]          | of the record, for messages                   |
| `about`                  | str []           | JSON, see the attributes of `FeatureFile`     |
"""

import copy
import dataclasses
import functools
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from data_pipelines.defaults import DataConfig
from data_pipelines.protocols import persons
from data_pipelines.rendering import hashing
from data_pipelines.schema import (
    MISSING_ID,
    DataError,
    Record,
    canonical_name,
    empty_labels,
    resolve_classes,
    same_classes,
)
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.fingerprint import hash_rows

log = logging.getLogger(__name__)

SPLITS = persons.SPLIT_NAMES
_NEEDED = ("features", "expression")
# Column -> its dtype, and the kinds of dtype (of NumPy) that are read as this.
_FLOATS, _IDS, _TEXTS = (np.float32, "f"), (np.int32, "iu"), (np.str_, "U")
_COLUMNS: dict[str, tuple[type, str]] = {
    "features": _FLOATS,
    "expression": _IDS,
    "true_expression": _IDS,
    "expression_probs": _FLOATS,
    "valence_arousal": _FLOATS,
    "group": _IDS,
    "track": _IDS,
    "attributes": _IDS,
    "person": _TEXTS,
    "name": _TEXTS,
}
_NOISE = 0x0F  # stream of random numbers: an argument of `hashing.fold`

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """The content of a file of stored features.

    Attributes:
      class_names: position = class id.
      splits: split -> column -> array; columns as in the table above.
      attribute_names, attribute_values, group_names: as in `schema.Source`.
      hierarchy: name or path of the label tree of the data; "": none.
      learns_votes: whether training learns `expression_probs`, unless `data.votes` says otherwise:
        the votes of annotators, but not the true mixtures of synthetic faces.
      made_from: JSON-able facts about the network and the data.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Columns]
    attribute_names: tuple[str, ...] = ()
    attribute_values: tuple[tuple[str, ...], ...] = ()
    group_names: tuple[str, ...] = ()
    hierarchy: str = ""
    learns_votes: bool = True
    made_from: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def n_features(self) -> int:
        """Numbers of a feature vector."""
        return self.splits["train"]["features"].shape[1]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the file, for `numpy.savez`."""
        about = {name: getattr(self, name) for name in _ABOUT}
        return {
            "class_names": np.array(self.class_names, np.str_),
            "about": np.array(json.dumps(about)),
            **{
                f"{s}/{name}": a
                for s, columns in self.splits.items()
                for name, a in columns.items()
            },
        }


_ABOUT = (
    *("attribute_names", "attribute_values", "group_names"),
    *("hierarchy", "learns_votes", "made_from"),
)


def read(path: str | Path) -> FeatureFile:
    """Read a file of stored features.

    Raises:
      DataError: it is missing or damaged, lacks a split or a column, or an array has the wrong
        dtype, shape or values.
    """
    if not str(path):
        raise DataError(
            "data.features is empty; give the .npz file that --config.eval.features wrote"
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(
            f"data.features: there is no file {path}; python -m affect_jax.main --mode=eval ... "
            f"--config.eval.features={path} makes it"
        )
    again = "extract the features again, or restore the file from a copy"
    if not zipfile.is_zipfile(path):
        raise DataError(f"data.features: {path} is not a whole .npz file; {again}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays.pop("about", "{}")))
        known = {name: _tuples(about[name]) for name in _ABOUT if name in about}
    except Exception as error:  # zipfile and NumPy raise many kinds for damaged files
        raise DataError(f"data.features: {path} is damaged ({error}); {again}") from None
    class_names = tuple(arrays.pop("class_names", np.zeros(0, np.str_)).tolist())
    splits: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for name, array in arrays.items():
        split, _, column = name.partition("/")
        if split not in splits or column not in _COLUMNS:
            raise DataError(
                f"{path}: the array {name!r} is not known; there are class_names, about, and for "
                f"each of {', '.join(SPLITS)}: {', '.join(_COLUMNS)}"
            )
        splits[split][column] = array
    file = FeatureFile(class_names, splits, **known)
    return _checked(file, str(path))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _checked(file: FeatureFile, path: str) -> FeatureFile:
    """Return a file with all columns in their own dtypes.

    Raises:
      DataError: see `read`.
    """
    names = file.class_names
    if not names or len({canonical_name(str(name)) for name in names}) != len(names):
        raise DataError(f"{path}: class_names must be different names, got {names}")
    for split, columns in file.splits.items():
        if absent := [name for name in _NEEDED if name not in columns]:
            raise DataError(f"{path} has no {split}/{absent[0]}; every split needs it")
    if file.splits["train"]["features"].ndim != 2:
        raise DataError(
            f"{path}: train/features has the shape {file.splits['train']['features'].shape}; it "
            "must be [n, D]"
        )
    widths = {
        "features": file.n_features,
        "expression_probs": len(names),
        "valence_arousal": 2,
        "attributes": len(file.attribute_names),
    }
    splits = {
        split: {
            name: _column(f"{path}: {split}/{name}", name, array, len(columns["features"]), widths)
            for name, array in columns.items()
        }
        for split, columns in file.splits.items()
    }
    for split, columns in splits.items():
        for name in ("expression", "true_expression"):
            ids = columns.get(name, np.zeros(0))
            if ((ids < MISSING_ID) | (ids >= len(names))).any():
                raise DataError(
                    f"{path}: {split}/{name} holds ids from {ids.min()} to {ids.max()}; they must "
                    f"be from -1 (unknown) to {len(names) - 1}"
                )
    return dataclasses.replace(file, splits=splits)


def _column(
    where: str, name: str, array: np.ndarray, count: int, widths: Mapping[str, int]
) -> np.ndarray:
    """Return a column in its own dtype; raise DataError for another kind or shape."""
    dtype, kinds = _COLUMNS[name]
    shape = (count, widths[name]) if name in widths else (count,)
    if array.shape != shape or array.dtype.kind not in kinds:
        raise DataError(
            f"{where} is {array.dtype} {list(array.shape)}; it must be {dtype.__name__} "
            f"{list(shape)}"
        )
    # Values beyond float32 become infinite.
    with np.errstate(over="ignore"):
        column = array if dtype is np.str_ else np.ascontiguousarray(array, dtype)
    if name == "features" and not np.isfinite(column).all():
        row = int(np.argmin(np.isfinite(column).all(axis=1)))
        raise DataError(f"{where}: row {row} holds a value that is not a finite number")
    return column


class FeatureSource:
    """One split of stored features; follows `schema.Source`.

    Args:
      file: the content of the file.
      split: "train", "validation" or "test".
      path: of the file, for messages.
      noise, seed: see `symmetric_noise`; a record whose label is replaced loses its votes.

    Attributes:
      columns: fields of a batch -> array [n, ...] of all records.
      true_labels: int32 [n], without label noise as far as is known.
      n_features: numbers of a feature vector.
      hierarchy: name or path of the label tree of the data; "": none.
    """

    def __init__(
        self, file: FeatureFile, split: str, path: str = "", *, noise: float = 0.0, seed: int = 0
    ):
        stored = file.splits[split]
        self._path, self._split, self._names = path, split, stored.get("name")
        self.class_names, self.num_classes = file.class_names, len(file.class_names)
        self.attribute_names, self.attribute_values = file.attribute_names, file.attribute_values
        self.group_names, self.hierarchy = file.group_names, file.hierarchy
        self.n_features, self._learns_votes = file.n_features, file.learns_votes
        given, count = stored["expression"], len(stored["expression"])
        self.labels = symmetric_noise(given, self.num_classes, noise, seed)
        self.true_labels = stored.get("true_expression", given)
        unknown = np.full(count, MISSING_ID, np.int32)
        self.groups = stored.get("group", unknown)
        self.tracks = stored.get("track", unknown)
        self.has_persons = "person" in stored
        self.persons = stored.get("person", self._default_persons(count)).tolist()
        self.columns: dict[str, np.ndarray] = {
            "image": stored["features"],
            "expression": self.labels,
            "valence_arousal": stored.get("valence_arousal", np.full((count, 2), np.nan, "f4")),
            "group": self.groups,
        }
        if "expression_probs" in stored:
            replaced = (self.labels != given)[:, None]
            self.columns["expression_probs"] = np.where(
                replaced, np.float32(np.nan), stored["expression_probs"]
            )
        if "attributes" in stored:
            self.columns["attributes"] = stored["attributes"]
        self.has = frozenset(name for name, there in self._there().items() if there)

    def _default_persons(self, count: int) -> np.ndarray:
        return np.array([f"{self._split} {i}" for i in range(count)], np.str_)

    def _there(self) -> dict[str, bool]:
        """Return which label fields at least one record has."""
        floats = ("valence_arousal", "expression_probs")
        found = {name: bool(np.isfinite(self.columns.get(name, np.nan)).any()) for name in floats}
        return found | {
            "expression": bool((self.labels >= 0).any()),
            "attributes": "attributes" in self.columns,
        }

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Record:
        """Return record i; its `image` is the feature vector, float32 [D]."""
        record = {name: column[i] for name, column in self.columns.items()}
        return (
            empty_labels() | record | {name: int(record[name]) for name in ("expression", "group")}
        )

    def take(self, rows: np.ndarray) -> Self:
        """Return the records `rows`, int64 [n], as a source."""
        part = copy.copy(self)
        part.__dict__.pop("_hashes", None)
        part.columns = {name: column[rows] for name, column in self.columns.items()}
        part.labels, part.true_labels = part.columns["expression"], self.true_labels[rows]
        part.groups, part.tracks = self.groups[rows], self.tracks[rows]
        part.persons = [self.persons[row] for row in rows.tolist()]
        part._names = None if self._names is None else self._names[rows]
        return part

    def describe(self, i: int) -> str:
        """Return file, split and row, and what the record was made of if that is known."""
        name = "" if self._names is None else f" ({self._names[i]})"
        return f"{self._path}: {self._split} {i}{name}"

    def learns_votes(self, data: DataConfig) -> bool:
        """Return whether training batches hold `expression_probs`."""
        return data.votes == "learn" or (data.votes == "auto" and self._learns_votes)

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        """Return names, persons and labels, and a hash of the features of each record."""
        found: dict[str, np.ndarray | list[str]] = dict(self._hashes)
        found["person"] = self.persons if self.has_persons else [""] * len(self)
        if self._names is not None:
            found["path"] = self._names.tolist()
        for name in ("valence_arousal", "attributes"):
            if name in self.columns:
                found[name] = self.columns[name]
        return found

    @functools.cached_property
    def _hashes(self) -> dict[str, np.ndarray]:
        """Hashes of rows, for `record_columns`: a sweep asks for them once a run."""
        columns = {"features": "image", "expression_probs": "expression_probs"}
        return {
            name: hash_rows(self.columns[field])
            for name, field in columns.items()
            if field in self.columns
        }

    def record_facts(self) -> dict[str, Any]:
        return {}


def symmetric_noise(
    labels: np.ndarray, num_classes: int, fraction: float, seed: int = 0
) -> np.ndarray:
    """Return int32 [n] labels of which about `fraction` are replaced by another class.

    All other classes are equally likely. What happens to record i depends on (seed, i) alone, and
    a larger fraction keeps the replacements of a smaller one. Unknown labels (-1) stay.
    """
    chance, which = hashing.uniforms(hashing.fold(seed, _NOISE, np.arange(len(labels))), 2).T
    other = (labels + 1 + (which * (num_classes - 1)).astype(np.int64)) % num_classes
    return np.where((labels >= 0) & (chance < fraction), other, labels).astype(np.int32)


def feature_sources(data: DataConfig, cache: DataCache) -> dict[str, FeatureSource]:
    """Return the sources of `data.features`, and log what each holds.

    Raises:
      DataError: as `read`, or a field of `data` does not apply to features.
    """
    for name in ("clean", "clean_eval", "exclude"):
        if getattr(data, name):
            raise DataError(
                f"data.{name} does not work with stored features; set it when they are extracted"
            )
    # Rows of a sweep with different noise share the arrays.
    file = cache.once(("features", data.features), lambda: read(data.features))
    if data.classes and not same_classes(resolve_classes(data.classes), file.class_names):
        raise DataError(
            f"data.classes does not name the classes of {data.features}: they are "
            f"{', '.join(file.class_names)}. Leave it out, or set it when features are extracted"
        )
    if data.features_noise and len(file.class_names) < 2:
        raise DataError("data.features_noise needs at least two classes to choose another one from")
    sources = {
        split: FeatureSource(
            file,
            split,
            data.features,
            noise=data.features_noise if split == "train" else 0.0,
            seed=data.features_noise_seed,
        )
        for split in SPLITS
    }
    for split, source in sources.items():
        counts = np.bincount(source.labels[source.labels >= 0], minlength=source.num_classes)
        listed = ", ".join(f"{c} {n}" for c, n in zip(source.class_names, counts, strict=True))
        size = f"{len(source)} vectors of {source.n_features} numbers"
        log.info("%s %s: %s; %s", data.features, split, size, listed)
    if all(source.has_persons for source in sources.values()):
        split_of = np.repeat(np.arange(len(sources)), [len(s) for s in sources.values()])
        everyone = [person for source in sources.values() for person in source.persons]
        if shared := persons.shared_persons(everyone, split_of):
            log.warning(
                "%s: %d persons are in more than one split: %s",
                data.features,
                len(shared),
                ", ".join(shared[:5]),
            )
    return sources
