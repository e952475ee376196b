"""Fingerprints of data: names, labels, persons and splits, without image content.

A run records the fingerprint of its data and compares it when it is resumed. The digest of a split
covers every record; its columns are kept too, so that the first difference can be named.
"""

import dataclasses
import functools
import hashlib
import heapq
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import DecodeError, Source

_SEPARATOR = "\0"
_CHUNK = 8192  # rows that are hashed at once
_SAMPLED = 32  # images of a split whose bytes are compared as well: so many twice
# Columns that are kept as hashes: whether one has changed can be said, but not how.
HASHED = ("landmarks", "box", "features", "expression_probs")
STRINGS = ("path", "person")


@dataclasses.dataclass(frozen=True)
class Records:
    """What is known of the records of one split.

    Attributes:
      count: number of records.
      has: label fields that at least one record holds, sorted.
      per_class: int [number of classes], records of each class.
      digest: SHA-256 of the columns.
      columns: name (see `differences`) -> array [n, ...], or the encoded strings (see `encode`);
        empty where a stored fingerprint has lost them.
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
    paths = columns.get("path", [])
    for name, column in columns.items():
        if name in STRINGS:
            columns[name] = encode(column)
        elif name in HASHED and column.dtype != np.uint64:  # a source may hash once for many runs
            columns[name] = hash_rows(column)
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    facts = source.record_facts()
    return Records(
        count=len(source),
        has=tuple(sorted(source.has)),
        per_class=tuple(counts.tolist()),
        digest=digest(columns),
        columns=columns,
        facts=facts,
        # Images that are drawn have no stored bytes.
        sample=_sample(source, paths) if sample and "synthetic" not in facts else {},
    )


def digest(columns: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of columns, as `Records.digest` has it."""
    found = hashlib.sha256()
    for name in sorted(columns):
        array = np.ascontiguousarray(columns[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


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


def _sample(source: Source, paths: Sequence[str]) -> dict[str, int]:
    """Return checksums of stored images, by position.

    One half is spread over the source, for records of runs that hold only such. The other is
    chosen by name, so that it holds the same images in any order.
    """
    count = len(source)
    chosen = set(np.linspace(0, count - 1, min(_SAMPLED, count)).astype(int).tolist())
    place = {path: i for i, path in enumerate(paths)}
    chosen.update(place[path] for path in heapq.nsmallest(_SAMPLED, place, key=_name_hash))
    found = {}
    for i in sorted(chosen):
        try:
            image = source[i]["image"]
        except (OSError, DecodeError):
            continue  # training counts it
        if isinstance(image, bytes):
            found[str(i)] = zlib.crc32(image)
    return found


def _name_hash(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))
