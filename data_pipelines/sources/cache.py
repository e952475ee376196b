"""Decoded pictures kept in memory: by one pipeline, or by all that are made within `shared`.

Pipelines of one source with the same framing then decode, or draw, each picture once: those of the
phases and validations of a run, and of several runs in one process.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

from data_pipelines.defaults import setting

# Fields of `config.data` that say which records there are, and in which split.
_SOURCE_FIELDS = (
    "source",
    "manifest",
    "folder",
    "dataset",
    "data_dir",
    "synthetic",
    "classes",
    "clean",
    "clean_eval",
    "exclude",
    "exclude_train",
    "validation_fraction",
    "protocol",
    "folds",
    "test_fold",
    "split_seed",
    "max_bad_fraction",
)


class Cache:
    """Entries up to a number of bytes; later ones are not kept, none is thrown out."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self._entries: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return Cache, (self.limit,)  # a worker process starts with its own, empty

    def get(self, index: int) -> Any:
        return self._entries.get(index)

    def put(self, index: int, entry: Any, size: int) -> None:
        with self._lock:
            if self.used + size <= self.limit and index not in self._entries:
                self._entries[index] = entry
                self.used += size


class _View:
    """The cache of a source as one of its subsets, made of the records `rows`, sees it."""

    def __init__(self, cache: Cache, rows: Any):
        self._cache, self._rows = cache, rows

    def get(self, index: int) -> Any:
        return self._cache.get(int(self._rows[index]))

    def put(self, index: int, entry: Any, size: int) -> None:
        self._cache.put(int(self._rows[index]), entry, size)


class _Shared:
    def __init__(self) -> None:
        # A source stays alive with its cache: the key holds its id.
        self.caches: dict[Hashable, tuple[Any, Cache]] = {}
        self.sources: dict[Hashable, Any] = {}


_shared: _Shared | None = None


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Within it, `cache_for` and `sources_for` give again what they gave before.

    Nested calls belong to the outermost. All is dropped at its end.
    """
    global _shared
    if _shared is not None:
        yield
        return
    _shared = _Shared()
    try:
        yield
    finally:
        _shared = None


def cache_for(source: Any, framing: Hashable, limit: int) -> Cache | _View:
    """The cache of a source's pictures in one framing; outside of `shared` a new one.

    Args:
      source: of the records; a `folds.Subset` shares with other subsets of its base.
      framing: all that the kept pictures depend on beside the source.
      limit: bytes. When those kept together exceed it, the caches used least recently are let go.
    """
    if _shared is None:
        return Cache(limit)
    base = getattr(source, "base", source)
    caches, key = _shared.caches, (id(base), framing, limit)
    entry = caches.pop(key, None) or (base, Cache(limit))
    while caches and sum(c.used for _, c in caches.values()) + entry[1].used > limit:
        del caches[next(iter(caches))]
    caches[key] = entry
    return entry[1] if base is source else _View(entry[1], source.rows)


def sources_for(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` returns, made once for each key within `shared`."""
    if _shared is None:
        return make()
    if key not in _shared.sources:
        _shared.sources[key] = make()
    return _shared.sources[key]


def source_key(config: Mapping[str, Any], but: Collection[str] = ()) -> str:
    """What of `config.data` makes sources what they are, leaving out the fields `but`."""
    values = {name: setting(config, name) for name in _SOURCE_FIELDS if name not in but}
    values["synthetic"] = dict(values["synthetic"])
    return json.dumps(values, sort_keys=True, default=list)
