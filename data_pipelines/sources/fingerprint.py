"""Fingerprints of data: names, labels, persons and splits, without image content.

A run records the fingerprint of its data and compares it when it is resumed. The digest of a split
covers every record; its columns are kept too, so that the first difference can be named.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import DecodeError, Source, same_classes
from data_pipelines.sources import record_order

_SEPARATOR = "\0"
_CHUNK = 8192  # rows that are hashed at once
_SAMPLED = 32  # images of a split whose bytes are compared as well
# Columns that are kept as hashes: whether one has changed can be said, but not how.
_HASHED = ("landmarks", "box", "features", "expression_probs")
# In the order in which differences are looked for; the first names the record.
_STRINGS = ("path", "person")
_COLUMNS = {
    "path": "name",
    "row": "place in the prepared set",
    "features": "features",
    "expression": "expression",
    "valence_arousal": "valence and arousal",
    "landmarks": "landmarks",
    "box": "box",
    "expression_probs": "votes",
    "attributes": "attributes",
    "person": "person",
    "group": "group",
    "track": "video",
}


@dataclasses.dataclass(frozen=True)
class Records:
    """What is known of the records of one split.

    Attributes:
      count: number of records.
      has: label fields that at least one record holds, sorted.
      per_class: int [number of classes], records of each class.
      digest: SHA-256 of the columns.
      columns: name (see `_COLUMNS`) -> array [n, ...], or the encoded strings (see `encode`); empty
        where a stored fingerprint has lost them.
      facts: JSON-able facts about all of them together; None for an unknown one.
      sample: position -> checksum of the image's bytes, of some records.
    """

    count: int
    has: tuple[str, ...]
    per_class: tuple[int, ...]
    digest: str
    columns: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    sample: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """The data of a run.

    Attributes:
      class_names: position = class id.
      attribute_names: of the attributes for audit.
      splits: name -> its records.
    """

    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    splits: Mapping[str, Records]

    @property
    def digest(self) -> str:
        """One digest of everything that is compared, and of the spelling of the classes."""
        splits = [[name, r.digest, r.has, r.facts, r.sample] for name, r in self.splits.items()]
        content = json.dumps([self.class_names, self.attribute_names, splits], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first difference between two sets of records.

    Attributes:
      text: one line.
      only_order: the records and their labels are the same, in another order. The frames of each
        video are in the same order.
    """

    text: str
    only_order: bool = False


def encode(strings: Sequence[str]) -> np.ndarray:
    """Return strings [n] as one uint8 array; any file name survives.

    The array compresses well.
    """
    joined = _SEPARATOR.join(strings).encode("utf-8", "surrogateescape")
    return np.frombuffer(joined, np.uint8)


def decode(array: np.ndarray) -> list[str]:
    """Return the strings that `encode` was given, at least one."""
    return array.tobytes().decode("utf-8", "surrogateescape").split(_SEPARATOR)


def of_sources(sources: Mapping[str, Source], *, sample: bool = True) -> Fingerprint:
    """Return the fingerprint of the sources of a run, by split.

    Args:
      sources: train, validation, test.
      sample: also read the bytes of a few images of each, so that other images of the same names
        are noticed.
    """
    train = sources["train"]
    return Fingerprint(
        tuple(train.class_names),
        tuple(train.attribute_names),
        {split: _of_source(source, sample) for split, source in sources.items()},
    )


def _of_source(source: Source, sample: bool) -> Records:
    labels = np.asarray(source.labels)
    columns: dict[str, Any] = {
        "expression": labels.astype(np.int32),
        "group": renumber(source.groups),
        "track": renumber(source.tracks),
        **source.record_columns(),
    }
    for name, column in columns.items():
        if name in _STRINGS:
            columns[name] = encode(column)
        elif name in _HASHED and column.dtype != np.uint64:  # a source may hash once for many runs
            columns[name] = hash_rows(column)
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    facts = source.record_facts()
    return Records(
        count=len(source),
        has=tuple(sorted(source.has)),
        per_class=tuple(counts.tolist()),
        digest=_digest(columns),
        columns=columns,
        facts=facts,
        # Images that are drawn have no stored bytes.
        sample=_sample(source) if sample and "synthetic" not in facts else {},
    )


def _digest(columns: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        array = np.ascontiguousarray(columns[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def renumber(codes: np.ndarray) -> np.ndarray:
    """Return codes numbered by first appearance, int32 [n]; unknown ones become -1."""
    codes = np.asarray(codes)
    known = codes >= 0
    _, first, inverse = np.unique(codes[known], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    result = np.full(len(codes), -1, np.int32)
    result[known] = rank[inverse]
    return result


@functools.cache
def _weights(count: int) -> np.ndarray:
    digests = [hashlib.sha256(str(k).encode()).digest()[:8] for k in range(count)]
    return np.array([int.from_bytes(d, "little") | 1 for d in digests], np.uint64)


def hash_rows(array: np.ndarray) -> np.ndarray:
    """Return a hash per row of float32 [n, ...] as uint64 [n]; 0 if all are NaN."""
    rows = np.asarray(array, np.float32).reshape(len(array), -1)
    result = np.zeros(len(rows), np.uint64)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK] + np.float32(0)  # no negative zero
        missing = np.isnan(part)
        part[missing] = np.float32(np.nan)
        bits = part.view(np.uint32).astype(np.uint64) + np.uint64(1)
        hashes = (bits * _weights(rows.shape[1])).sum(1, dtype=np.uint64) | np.uint64(1)
        result[start : start + _CHUNK] = np.where(missing.all(1), np.uint64(0), hashes)
    return result


def _sample(source: Source) -> dict[str, int]:
    """Return checksums of stored images spread over a source, by position."""
    found = {}
    for i in np.unique(np.linspace(0, len(source) - 1, min(_SAMPLED, len(source))).astype(int)):
        try:
            image = source[int(i)]["image"]
        except (OSError, DecodeError):
            continue  # training counts it
        if isinstance(image, bytes):
            found[str(i)] = zlib.crc32(image)
    return found


def first_difference(then: Fingerprint, now: Fingerprint) -> Difference | None:
    """Return the first difference between a run's data then and now, or None.

    Args:
      then: as recorded; a split may have lost its columns, and then only counts are compared.
      now: of the current data.
    """
    if not same_classes(then.class_names, now.class_names):
        return Difference(_class_difference(then.class_names, now.class_names))
    for split, old in then.splits.items():
        has = now.splits[split].has
        if old.has != has:
            changes = [
                f"{', '.join(sorted(names))} {what}"
                for names, what in (
                    (set(old.has) - set(has), "missing"),
                    (set(has) - set(old.has), "new"),
                )
                if names
            ]
            text = _there_now(f"labels of the {split} split", old.has, has)
            return Difference(f"{text} ({'; '.join(changes)})")
    if then.attribute_names != now.attribute_names:
        return Difference(_there_now("attributes", then.attribute_names, now.attribute_names))
    differences = (_split_difference(split, then, now) for split in then.splits)
    found = [difference for difference in differences if difference is not None]
    return next((d for d in found if not d.only_order), found[0] if found else None)


def _there_now(title: str, then: Sequence[str], now: Sequence[str]) -> str:
    return f"{title}: there {', '.join(then) or 'none'}, now {', '.join(now) or 'none'}"


def _class_difference(then: Sequence[str], now: Sequence[str]) -> str:
    for k, (old, new) in enumerate(zip(then, now, strict=False)):
        if not same_classes([old], [new]):
            listed = f"there {', '.join(then)}; now {', '.join(now)}"
            return f"class {k}: there {old!r}, now {new!r} ({listed})"
    return f"classes: there {len(then)} ({', '.join(then)}), now {len(now)} ({', '.join(now)})"


def _split_difference(split: str, then: Fingerprint, now: Fingerprint) -> Difference | None:
    old, new = then.splits[split], now.splits[split]
    if old.digest != new.digest:
        return _record_difference(split, then, now)
    for name, value in old.facts.items():
        other = new.facts.get(name)
        if value is not None and other is not None and value != other:
            return Difference(f"{split} split: {name}: there {value}, now {other}")
    for position, checksum in old.sample.items():
        if new.sample.get(position, checksum) != checksum:
            return Difference(
                f"{split} split: {_name(new, int(position))}: the image there and the one now are "
                "not the same file"
            )
    return None


def _record_difference(split: str, then: Fingerprint, now: Fingerprint) -> Difference:
    old, new = then.splits[split], now.splits[split]
    size = f"{old.count:,} records there, {new.count:,} now"
    if not old.columns:
        return Difference(f"{split} split: {size}, and they are not the same")
    key = _key(old)
    order = None
    if key and key in new.columns:
        was, names = _names(old, key), _names(new, key)
        if Counter(was) != Counter(names):
            return _membership_difference(split, then, now, key)
        if was != names:
            text = f"{split} split: {record_order.first_moved(was, names)}"
            order, places = Difference(text, only_order=True), record_order.places(was, names)
            new = _reordered(new, places)
            if frame := record_order.moved_frame(old.columns["track"], places):
                return Difference(f"{split} split: {was[frame]!r}: its video has another order now")
    elif old.count != new.count:
        return Difference(f"{split} split: {size}")
    for name, title in _COLUMNS.items():
        if name in old.columns or name in new.columns:
            a, b = (_values(r, name, then.class_names) for r in (old, new))
            different = [i for i in range(old.count) if a[i] != b[i]] if a != b else []
            if different:
                i, more = different[0], len(different) - 1
                also = f" ({more:,} more records of the split differ in this)" if more else ""
                both = isinstance(a[i], _Given) and isinstance(b[i], _Given)
                what = "has changed" if both else f"there {a[i]}, now {b[i]}"
                return Difference(f"{split} split: {_name(new, i)}: {title}: {what}{also}")
    return order or Difference(f"{split} split: its records are not the same")


def _reordered(records: Records, places: np.ndarray) -> Records:
    columns: dict[str, np.ndarray] = {}
    for name, column in records.columns.items():
        if name in _STRINGS:
            strings = decode(column)
            columns[name] = encode([strings[place] for place in places])
        else:
            moved = column[places]
            columns[name] = renumber(moved) if name in ("group", "track") else moved
    return dataclasses.replace(records, columns=columns)


def _key(records: Records) -> str | None:
    """Return the column that names the records, if there is one."""
    return next((key for key in ("path", "row") if key in records.columns), None)


def _names(records: Records, key: str) -> list[str]:
    if not records.count:
        return []
    column = records.columns[key]
    return decode(column) if key == "path" else [f"record {row}" for row in column.tolist()]


def _name(records: Records, i: int) -> str:
    key = _key(records)
    if key is None:
        return f"record {i}"
    name = _names(records, key)[i]
    return repr(name) if key == "path" else name


def _membership_difference(split: str, then: Fingerprint, now: Fingerprint, key: str) -> Difference:
    """Return which record came, went or moved first."""
    old, new = (_names(side.splits[split], key) for side in (then, now))
    differing = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    at = next(differing, min(len(old), len(new)))
    lost, added = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if at < len(old) and old[at] in lost:
        gone, name = True, old[at]
    elif at < len(new) and new[at] in added:
        gone, name = False, new[at]
    else:  # the first difference is one of order
        gone, name = bool(lost), next(iter(lost or added))
    others = (now if gone else then).splits.items()
    where = [s for s, r in others if s != split and key in r.columns and name in _names(r, key)]
    if gone:
        what = f"is now in the {where[0]} split" if where else "is not there any more"
    else:
        what = f"was in the {where[0]} split" if where else "is new"
    size = f"{len(old):,} records there, {len(new):,} now"
    return Difference(f"{split} split: {name!r} {what} ({size})")


class _Given(int):
    """A value that is shown as "given"."""

    def __str__(self) -> str:
        return "given"


def _values(records: Records, name: str, class_names: Sequence[str]) -> list[Any]:
    """Return the values of a column in the form in which they are shown."""
    n, column = records.count, records.columns.get(name)
    if column is None:
        return ["none"] * n
    if name in _STRINGS:
        return [repr(s) if s else "none" for s in decode(column)] if n else []
    if name == "expression":
        return [repr(class_names[i]) if i >= 0 else "none" for i in column.tolist()]
    if name == "valence_arousal":
        return ["none" if np.isnan(row).all() else f"({row[0]:g}, {row[1]:g})" for row in column]
    if name in _HASHED:
        return [_Given(h) if h else "none" for h in column.tolist()]
    if name in ("group", "track"):
        return [_Given(c) if c >= 0 else "none" for c in column.tolist()]
    return [str(row) for row in column.tolist()]
