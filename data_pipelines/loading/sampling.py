"""Order of the training examples: shuffle, inverse frequency, refinement.

Refinement sampling is ARBEx's (Wasi et al., 2023): every epoch up to 512 images of each video or
person are pooled, and 500 of each class are taken from the pool, topped up by repetition.

An order is a pure function of (seed, epoch), so every process computes it without communication.
The stream of all epochs is divided into global batches, and a process takes a fixed part of each
batch. Class lists are distributed over the places of a batch before they are mixed. With 2, 4, 8
... processes, each therefore takes the same number of every class in an epoch (plus or minus one).
The global batches are the same for any number of processes.

`balanced_order` serves a choice of few examples, such as those that images are compared with.
"""

import dataclasses
import functools
import threading
from collections.abc import Collection
from typing import Any

import numpy as np

from data_pipelines.schema import DataError

SAMPLINGS = ("shuffle", "refine", "inverse_frequency")


def _generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, purpose))))


def refinement_pool(
    groups: np.ndarray, usable: np.ndarray, per_group: int, rng: np.random.Generator
) -> np.ndarray:
    """Return up to `per_group` randomly chosen usable records of each group.

    Args:
      groups: int [n]; a record of group -1 is always in the pool.
      usable: int [m] records to choose from.
      per_group: limit.
      rng: is advanced.

    Returns:
      int64 [p] record numbers, in random order within a group.
    """
    group = groups[usable].astype(np.uint64)
    # Group in the high bits and noise in the low ones: one sort shuffles inside groups.
    key = (group << np.uint64(40)) | (rng.integers(0, 1 << 40, len(usable), np.uint64))
    # Stable: in millions of records some keys are equal, and every host must order them alike.
    order = np.argsort(key, kind="stable")
    del key
    group = group[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else group
    rank = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    single = groups[usable[order]] < 0
    return usable[order[(rank < per_group) | single]]


def repeat_to(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` members in random order, all equally often (plus or minus one)."""
    rounds = -(-count // len(members))
    if rounds == 1:
        return rng.permutation(members)[:count]
    return np.concatenate([rng.permutation(members) for _ in range(rounds)])[:count]


def deal(entries: np.ndarray, start: int, lanes: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffle entries within their lanes.

    Entry i of the stream (counting from `start`) belongs to lane (start + i) % lanes; within a lane
    the order is random. A lane therefore sees every class of a class-sorted list in proportion.
    """
    lane = (start + np.arange(len(entries))) % lanes
    places = np.argsort(lane, kind="stable")
    mixed = np.empty_like(entries)
    mixed[places] = entries[np.lexsort((rng.random(len(entries)), lane))]
    return mixed


def balanced_order(labels: np.ndarray, seed: int, excluded: Collection[int] = ()) -> np.ndarray:
    """Return all labelled records in an order whose every beginning is class-balanced.

    In each round every class that has records left gives one of them, chosen at random. The first m
    records therefore hold each class equally often (plus or minus one), and a class with fewer
    records gives all it has. They are also the first of any longer beginning.

    Args:
      labels: int [n] class ids, -1 = unknown.
      seed: non-negative.
      excluded: records to leave out; another of the same class takes the place of each.

    Returns:
      int64 [k] record numbers.
    """
    labels = np.asarray(labels)
    known = labels >= 0
    if not known.any():
        return np.zeros(0, np.int64)
    rng = _generator(seed, 0, 1)
    # Drawn for every record and round, so that an excluded record changes no other draw.
    keys = rng.random(len(labels))
    counts = np.bincount(labels[known])
    turns = rng.random((counts.max(), len(counts)))
    usable = known.copy()
    usable[list(excluded)] = False
    records = np.flatnonzero(usable)
    records = records[np.lexsort((keys[records], labels[records]))]
    own = labels[records]
    rounds = np.arange(len(own)) - np.searchsorted(own, own)
    return records[np.lexsort((turns[rounds, own], rounds))]


@functools.lru_cache(maxsize=8)
def lane_order(batch_size: int) -> np.ndarray:
    """Return the lane of each place of a batch (int64 [batch_size]).

    Lanes that agree modulo H fill one of H equal parts, for every H = 2, 4, 8, ... that divides
    the batch size.
    """
    order = np.arange(batch_size)
    block = batch_size
    while block % 2 == 0:
        # Even entries of each block go to its first half, odd ones to its second.
        pairs = order.reshape(-1, block // 2, 2)
        order = np.ascontiguousarray(pairs.transpose(0, 2, 1)).reshape(-1)
        block //= 2
    return order


@dataclasses.dataclass(eq=False)
class RefinementPlan:
    """The record at each position of the endless training stream.

    Attributes:
      labels: int [n] class ids, -1 = unknown.
      groups: int [n] video or person, -1 = unknown.
      batch_size: global.
      sampling: `shuffle` (every record once an epoch), `refine`, or `inverse_frequency` (as many
        draws as labelled records, the same number of each class).
      seed: non-negative.
      per_group, per_class: of refinement sampling.
      length: positions in an epoch.

    Raises:
      DataError: unknown sampling, no labelled record, or a batch larger than an epoch.
    """

    labels: np.ndarray
    groups: np.ndarray
    batch_size: int
    sampling: str = "shuffle"
    seed: int = 0
    per_group: int = 512
    per_class: int = 500
    length: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise DataError(f"data.sampling is {self.sampling!r}; known: {', '.join(SAMPLINGS)}")
        if self.per_group < 1 or self.per_class < 1:
            raise DataError("data.refine: per_group and per_class must be at least 1")
        self.labels, self.groups = np.asarray(self.labels), np.asarray(self.groups)
        self._classes = np.unique(self.labels[self.labels >= 0])
        if self.sampling != "shuffle" and not len(self._classes):
            raise DataError(
                f"data.sampling={self.sampling} needs expression labels; there are none"
            )
        self.length = {
            "shuffle": len(self.labels),
            "refine": self.per_class * len(self._classes),
            "inverse_frequency": int((self.labels >= 0).sum()),
        }[self.sampling]
        if self.batch_size > self.length:
            raise DataError(
                f"batch_size {self.batch_size} is larger than an epoch of {self.length} examples "
                f"(data.sampling={self.sampling}); take a smaller one"
            )
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_orders")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._orders, self._lock = {}, threading.Lock()

    def order(self, epoch: int) -> np.ndarray:
        """Return the record numbers of one epoch (int64 [length])."""
        with self._lock:  # threads that wait need this very epoch
            if epoch not in self._orders:
                for old in [e for e in self._orders if e < epoch - 1]:
                    del self._orders[old]
                self._orders[epoch] = self._compute(epoch)
            return self._orders[epoch]

    def _compute(self, epoch: int) -> np.ndarray:
        rng = _generator(self.seed, epoch, 0)
        if self.sampling == "shuffle":
            return rng.permutation(self.length)
        if self.sampling == "refine":
            usable = np.flatnonzero(self.labels >= 0)
            pool = refinement_pool(self.groups, usable, self.per_group, rng)
            counts = [self.per_class] * len(self._classes)
        else:
            pool = np.flatnonzero(self.labels >= 0)
            share, extra = divmod(self.length, len(self._classes))
            # The classes that get one more change from epoch to epoch.
            counts = [
                share + ((c + epoch) % len(self._classes) < extra)
                for c in range(len(self._classes))
            ]
        pool_labels = self.labels[pool]
        entries = []
        for label, count in zip(self._classes, counts, strict=True):
            members = pool[pool_labels == label]
            if not len(members):  # the limit of a large group kept a rare class out
                members = np.flatnonzero(self.labels == label)
            entries.append(repeat_to(members, count, rng))
        return deal(np.concatenate(entries), epoch * self.length, self.batch_size, rng)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return epoch, place in it and record of stream positions (int64 [k] each)."""
        epochs, places = np.divmod(positions, self.length)
        records = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            records[here] = self.order(int(epoch))[places[here]]
        return epochs, places, records

    def batch_positions(self, step: int, shard_index: int = 0, shard_count: int = 1) -> np.ndarray:
        """Return the stream positions of a process at a step, int64 [k]."""
        part = self.batch_size // shard_count
        lanes = lane_order(self.batch_size)[shard_index * part : (shard_index + 1) * part]
        return step * self.batch_size + lanes.astype(np.int64)

    def class_counts(self, epoch: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return examples of each class in an epoch, and different records among them.

        Returns:
          two int64 [num_classes].
        """
        order = self.order(epoch)

        def count(records: np.ndarray) -> np.ndarray:
            labels = self.labels[records]
            return np.bincount(labels[labels >= 0], minlength=num_classes)

        return count(order), count(np.unique(order))
