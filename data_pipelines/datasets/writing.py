"""Write a data set: threads check images, records stay in order, all are counted."""

import collections
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from array_record.python import array_record_module

from data_pipelines.datasets.card import Record, Reject
from data_pipelines.images.decode import decode
from data_pipelines.schema import MISSING_ID, DecodeError

Item = TypeVar("Item")
Result = TypeVar("Result")
WINDOW = 64
_SHARD_BYTES = 512 * 2**20
# JPEG and PNG do not shrink, so compression would only cost time; a group of one record makes
# random access cheap.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_STORED = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n")


def read(image: Path | bytes | Callable[[], bytes]) -> bytes:
    """Return the bytes of a record's image.

    Raises:
      Reject: the file is missing or cannot be read.
    """
    if callable(image):
        return image()
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except FileNotFoundError:
        raise Reject("file is missing") from None
    except OSError as e:
        raise Reject(f"file cannot be read ({e.strerror})") from e


def is_stored(data: bytes) -> bool:
    """Return whether an encoded image is JPEG or PNG, which are stored unchanged."""
    return data.startswith(_STORED)


def storable(data: bytes) -> tuple[bytes, np.ndarray]:
    """Check that an image decodes whole; formats other than JPEG and PNG become PNG.

    Returns:
      the bytes to store, and the decoded image, uint8 RGB [H, W, 3] or grey [H, W].

    Raises:
      Reject: the image is empty, truncated, damaged or too large.
    """
    try:
        pixels = decode(data, grey=True)
    except DecodeError as e:
        raise Reject(str(e)) from e
    return data if is_stored(data) else encode_png(pixels), pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 grey [H, W] or RGB [H, W, 3] as PNG."""
    bgr = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".png", bgr)
    if not ok:
        raise Reject(f"an image of shape {pixels.shape} could not be written as PNG")
    return data.tobytes()


class Names:
    """Names to numbers in the order of their first appearance."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a name; -1 for the empty one."""
        return self.ids.setdefault(name, len(self.ids)) if name else MISSING_ID


class Book:
    """Labels and rejections of one split as they are written."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self.groups: list[int] = []
        self.persons: list[int] = []
        self.valence_arousal: list[tuple[float, float]] = []
        self.rejected: list[tuple[str, str]] = []
        self.rejected_persons: set[str] = set()
        self.has: set[str] = set()
        self._content = hashlib.sha256()

    def add(self, example: dict[str, Any], record: Record, person: int) -> None:
        """Note a record that is written, with the number of its person."""
        self._content.update(example["image"])
        self._content.update(example["name"].encode("utf-8", "surrogateescape"))
        for field in ("landmarks", "box"):
            self._content.update(np.asarray(example[field], np.float32).tobytes())
        self.labels.append(record.expression)
        self.groups.append(example["group"])
        self.persons.append(person)
        self.valence_arousal.append((record.valence, record.arousal))
        held = {
            "expression": record.expression >= 0,
            "valence_arousal": np.isfinite((record.valence, record.arousal)).any(),
            "landmarks": np.isfinite(example["landmarks"]).any(),
            "expression_probs": record.probs is not None,
        }
        self.has |= {field for field, known in held.items() if known}

    def reject(self, record: Record, reason: str) -> None:
        """Note a record that is left out."""
        self.rejected.append((record.name, reason))
        if person := record.person or record.group:
            self.rejected_persons.add(person)

    def summary(self, num_classes: int) -> dict[str, Any]:
        """Return the counts of the split, for `affect.json`."""
        labels = np.array(self.labels, np.int64)
        return {
            "examples": len(self.labels),
            "per_class": np.bincount(labels[labels >= 0], minlength=num_classes).tolist(),
            "groups": len({g for g in self.groups if g >= 0}),
            "persons": len({p for p in self.persons if p >= 0}),
            "rejected": len(self.rejected),
            "has": sorted(self.has),
            "digest": self._content.hexdigest(),
        }


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in the order of `items`, computed by threads."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        window: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
        try:
            for item in items:
                window.append((item, pool.submit(function, item)))
                if len(window) >= WINDOW:
                    first, future = window.popleft()
                    yield first, future.result()
            while window:
                first, future = window.popleft()
                yield first, future.result()
        finally:
            for _, future in window:
                future.cancel()


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def write_shards(encoded: Iterable[bytes], template: Any) -> tuple[list[int], int]:
    """Write records in order into shards of at most 512 MiB, named by `template`.

    Returns:
      the number of records of each shard, and the bytes written.
    """
    folder = Path(template.data_dir)
    lengths: list[int] = []
    total = shard_bytes = 0
    writer = None
    try:
        for data in encoded:
            if writer is None or shard_bytes > _SHARD_BYTES:
                if writer is not None:
                    writer.close()
                # The number of shards, part of their names, is not known yet.
                path = folder / f"{template.split}.part{len(lengths):05d}"
                writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
                lengths.append(0)
                shard_bytes = 0
            writer.write(data)
            lengths[-1] += 1
            shard_bytes += len(data)
            total += len(data)
    finally:
        if writer is not None:
            writer.close()
    for k in range(len(lengths)):
        final = template.sharded_filepath(shard_index=k, num_shards=len(lengths))
        (folder / f"{template.split}.part{k:05d}").rename(str(final))
    return lengths, total
