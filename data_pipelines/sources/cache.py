"""A cache shared by the runs of a process: sources, and decoded images.

A sweep or a cross-validation makes one `DataCache` and passes it to its runs. Each image is then
decoded or drawn once per framing.
"""

import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from data_pipelines.images.framing import Frame
from data_pipelines.schema import Record, Source
from data_pipelines.sources.subset import Subset

T = TypeVar("T")


class LoadedRecord(NamedTuple):
    """A record made ready: the finished pixels, or an image and the frame to draw from it."""

    image: np.ndarray
    landmarks: np.ndarray | None
    frame: Frame | None
    record: Record


class ImageCache(Protocol):
    """Loaded records of a source."""

    def get(self, index: int) -> LoadedRecord | None: ...
    def put(self, index: int, entry: LoadedRecord, size: int) -> None: ...


class Entries:
    """An `ImageCache` that is filled up to a number of bytes and never shrinks."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self._entries: dict[int, LoadedRecord] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return Entries, (self.limit,)  # a worker process starts with its own, empty

    def get(self, index: int) -> LoadedRecord | None:
        return self._entries.get(index)

    def put(self, index: int, entry: LoadedRecord, size: int) -> None:
        with self._lock:
            if self.used + size <= self.limit and index not in self._entries:
                self._entries[index] = entry
                self.used += size


class _SubsetEntries:
    """The `ImageCache` of the records `rows` of a source whose own is `entries`."""

    def __init__(self, entries: Entries, rows: np.ndarray):
        self._entries, self._rows = entries, rows

    def get(self, index: int) -> LoadedRecord | None:
        return self._entries.get(int(self._rows[index]))

    def put(self, index: int, entry: LoadedRecord, size: int) -> None:
        self._entries.put(int(self._rows[index]), entry, size)


class DataCache:
    """Values made once for each key, and images of sources."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}
        # A source stays alive with its images: the key holds its id.
        self._images: dict[Hashable, tuple[Source, Entries]] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned at the first call with this key."""
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]

    def images(self, source: Source, framing: Hashable, limit: int) -> ImageCache:
        """Return the cached images of a source in one framing.

        Args:
          source: of the records; a `Subset` shares with other subsets of its base.
          framing: all that the images depend on, apart from the source.
          limit: bytes of all images together; those used least recently are dropped first.
        """
        base = source.base if isinstance(source, Subset) else source
        key = (id(base), framing, limit)
        _, entries = self._images.pop(key, (base, Entries(limit)))
        while self._images and entries.used + self._used() > limit:
            del self._images[next(iter(self._images))]
        self._images[key] = (base, entries)
        return _SubsetEntries(entries, source.rows) if isinstance(source, Subset) else entries

    def _used(self) -> int:
        return sum(entries.used for _, entries in self._images.values())
