"""What a set of records is: names, labels, persons and splits, without reading the pictures.

A run notes the fingerprint of its data and compares it when it is resumed. The digest of a split
covers every record; the columns behind it are kept too, so that the first difference can be named.
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

from data_pipelines.schema import DecodeError, Source, same_classes, tracks_of

_SEPARATOR = "\0"
_CHUNK = 8192  # rows that are hashed at once
_SAMPLED = 32  # pictures of a split whose bytes are compared as well
# In the order in which differences are looked for; the first names the record.
_STRINGS = ("path", "person")
_COLUMNS = {
    "path": "name",
    "row": "place in the prepared set",
    "expression": "expression",
    "valence_arousal": "valence and arousal",
    "landmarks": "landmarks",
    "box": "box",
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
      facts: JSON-able facts about all of them together; None for one that is not known.
      sample: position -> checksum of the picture's bytes, of some records.
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
    """What the data of a run are.

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
        """One digest of all that is compared, and the spelling of the classes."""
        splits = [[name, r.digest, r.has, r.facts, r.sample] for name, r in self.splits.items()]
        content = json.dumps([self.class_names, self.attribute_names, splits], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first difference between two sets of records.

    Attributes:
      text: one line.
      only_order: the records are the same, in another order.
    """

    text: str
    only_order: bool = False


def encode(strings: Sequence[str]) -> np.ndarray:
    """Strings [n] as one uint8 array, which compresses well; names of any encoding survive."""
    joined = _SEPARATOR.join(strings).encode("utf-8", "surrogateescape")
    return np.frombuffer(joined, np.uint8)


def decode(array: np.ndarray) -> list[str]:
    """The reverse of `encode`, for at least one string."""
    return array.tobytes().decode("utf-8", "surrogateescape").split(_SEPARATOR)


def of_sources(sources: Mapping[str, Source], *, sample: bool = True) -> Fingerprint:
    """Returns the fingerprint of the sources of a run, by split.

    Args:
      sources: train, validation, test.
      sample: also read the bytes of a few pictures of each, so that other pictures of the same
        names are noticed.
    """
    train = sources["train"]
    return Fingerprint(
        tuple(train.class_names),
        tuple(getattr(train, "attribute_names", ())),
        {split: _of_source(source, sample) for split, source in sources.items()},
    )


def _of_source(source: Source, sample: bool) -> Records:
    labels = np.asarray(source.labels)
    columns: dict[str, Any] = {
        "expression": labels.astype(np.int32),
        "group": renumber(source.groups),
        "track": renumber(tracks_of(source)),
    }
    facts: dict[str, Any] = {}
    if hasattr(source, "record_columns"):
        columns |= source.record_columns()
        facts = source.record_facts()
    elif hasattr(source, "persons"):
        columns["person"] = [str(p) for p in source.persons]
    for name in _STRINGS:
        if name in columns:
            columns[name] = encode(columns[name])
    for name in ("landmarks", "box"):
        if name in columns:
            columns[name] = hash_rows(columns[name])
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    return Records(
        len(source),
        tuple(sorted(source.has)),
        tuple(counts.tolist()),
        _digest(columns),
        columns,
        facts,
        _sample(source) if sample else {},
    )


def _digest(columns: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(columns):
        array = np.ascontiguousarray(columns[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def renumber(codes: np.ndarray) -> np.ndarray:
    """Codes by first appearance, int32 [n]: they tell who belongs together and nothing else.

    Negative ones, which mean unknown, become -1.
    """
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
    """uint64 [n], a number for the values of each row of float32 [n, ...]; 0 where all are NaN."""
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
    """Checksums of stored pictures spread over a source; those that are drawn have none."""
    if "synthetic" in getattr(source, "record_facts", dict)():
        return {}
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
    """Returns the first difference between the data of a run then and now; None if there is none.

    Args:
      then: a split whose columns are lost may have none; then counts are compared.
      now: of the data as they are.
    """
    if not same_classes(then.class_names, now.class_names):
        return Difference(_class_difference(then.class_names, now.class_names))
    for split, old in then.splits.items():
        new = now.splits[split]
        if old.has != new.has:
            lost, more = sorted(set(old.has) - set(new.has)), sorted(set(new.has) - set(old.has))
            return Difference(
                f"labels of the {split} split: there {', '.join(old.has) or 'none'}, now "
                f"{', '.join(new.has) or 'none'} ("
                + "; ".join(
                    f"{', '.join(names)} {what}"
                    for names, what in ((lost, "missing"), (more, "new"))
                    if names
                )
                + ")"
            )
    if then.attribute_names != now.attribute_names:
        return Difference(
            f"attributes: there {', '.join(then.attribute_names) or 'none'}, now "
            f"{', '.join(now.attribute_names) or 'none'}"
        )
    reordered = None
    for split in then.splits:
        found = _split_difference(split, then, now)
        if found is not None and not found.only_order:
            return found
        reordered = reordered or found
    return reordered


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
                f"{split} split: {_name(new, int(position))}: the picture there and the one now "
                "are not the same file"
            )
    return None


def _record_difference(split: str, then: Fingerprint, now: Fingerprint) -> Difference:
    old, new = then.splits[split], now.splits[split]
    size = f"{old.count:,} records there, {new.count:,} now"
    if not old.columns:
        return Difference(f"{split} split: {size}, and they are not the same")
    key = next((name for name in ("path", "row") if {name} <= old.columns.keys()), None)
    if key and key in new.columns:
        names = [_names(records, key) for records in (old, new)]
        if names[0] != names[1]:
            return _membership_difference(split, then, now, key, *names)
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
                what = "not as it was" if both else f"there {a[i]}, now {b[i]}"
                return Difference(f"{split} split: {_name(new, i)}: {title}: {what}{also}")
    return Difference(f"{split} split: its records are not the same")


def _names(records: Records, key: str) -> list[str]:
    if not records.count:
        return []
    column = records.columns[key]
    return decode(column) if key == "path" else [f"record {row}" for row in column.tolist()]


def _name(records: Records, i: int) -> str:
    for key in ("path", "row"):
        if key in records.columns:
            return repr(_names(records, key)[i]) if key == "path" else _names(records, key)[i]
    return f"record {i}"


def _membership_difference(
    split: str,
    then: Fingerprint,
    now: Fingerprint,
    key: str,
    old: list[str],
    new: list[str],
) -> Difference:
    """Which record came, went or changed places first."""
    size = f"{len(old):,} records there, {len(new):,} now"
    before, after = Counter(old), Counter(new)
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    at = min(len(old), len(new)) if at is None else at
    if before == after:
        return Difference(
            f"{split} split: the same records in another order: place {at} has {new[at]!r}, where "
            f"{old[at]!r} was",
            only_order=True,
        )
    places = [
        {n: s for s, r in side.splits.items() if key in r.columns for n in _names(r, key)}
        for side in (then, now)
    ]
    gone = at < len(old) and after[old[at]] < before[old[at]]
    came = at < len(new) and before[new[at]] < after[new[at]]
    if not gone and not came:  # a change of order comes before
        left = before - after
        gone, name = bool(left), next(iter(left or after - before))
    else:
        name = old[at] if gone else new[at]
    if gone:
        where = places[1].get(name)
        what = f"now in the {where} split" if where not in (None, split) else "not there any more"
        return Difference(f"{split} split: {name!r} is {what} ({size})")
    where = places[0].get(name)
    what = f"was in the {where} split" if where not in (None, split) else "is new"
    return Difference(f"{split} split: {name!r} {what} ({size})")


class _Given(int):
    """A value of which no more is shown than that there is one."""

    def __str__(self) -> str:
        return "given"


def _values(records: Records, name: str, class_names: Sequence[str]) -> list[Any]:
    """A column in the form in which it is shown."""
    n, column = records.count, records.columns.get(name)
    if column is None:
        return ["none"] * n
    if name in _STRINGS:
        return [repr(s) if s else "none" for s in decode(column)] if n else []
    if name == "expression":
        return [repr(class_names[i]) if i >= 0 else "none" for i in column.tolist()]
    if name == "valence_arousal":
        return ["none" if np.isnan(row).all() else f"({row[0]:g}, {row[1]:g})" for row in column]
    if name in ("landmarks", "box"):
        return [_Given(h) if h else "none" for h in column.tolist()]
    if name in ("group", "track"):
        return [_Given(c) if c >= 0 else "none" for c in column.tolist()]
    return [str(row) for row in column.tolist()]
