"""Delivery: records in planned order, decoded, augmented and batched by grain threads or processes.

A batch is a pure function of (seed, step): the plan names its records, every random choice hashes
(seed, epoch, place in the epoch), and the whole batch is made by one call, in one array. So the
stream is the same with any number of threads, worker processes or hosts, and is resumed from a
plain step number.
"""

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import grain.python as grain
from absl import flags

from data_pipelines.defaults import DataConfig
from data_pipelines.images import decode, framing, presets
from data_pipelines.loading import loader, workers
from data_pipelines.loading import sampling as sampling_lib
from data_pipelines.schema import Batch, DataError, Source, TooManyBadRecords
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)

_ENDLESS = 1 << 40
_MAX_THREADS = 16


class BadRecords:
    """Records found unusable so far: counted once each, named once in the log.

    Attributes:
      names: place of the record -> reason, in the order they were found.
    """

    def __init__(self, source: Source, max_fraction: float):
        self._source, self._max_fraction = source, max_fraction
        self._seen: set[int] = set()
        self.names: dict[str, str] = {}

    @property
    def count(self) -> int:
        return len(self._seen)

    def add(self, index: int, reason: str) -> None:
        """Notes a record.

        Raises:
          TooManyBadRecords: they are now more than the allowed share of the source.
        """
        if index in self._seen:
            return
        self._seen.add(index)
        name = self._source.describe(index)
        self.names[name] = reason
        log.warning("skipped: %s: %s", name, reason)
        if self.count > self._max_fraction * len(self._source):
            raise TooManyBadRecords(
                f"{self.count} of {len(self._source)} records cannot be read, more than "
                f"data.max_bad_fraction = {self._max_fraction:g} allows. The last: {name}: {reason}"
            )


class Pipeline:
    """Host batches of this process; iterate over it.

    Training is endless. Evaluation is one pass in the order of the source, the last batch padded
    with `mask` False and `index` -1; iterating again is another pass, for which threads and workers
    stay. Unreadable records are replaced in training by others of their class (a pure function of
    seed and position too) and masked in evaluation.

    Args:
      source: raw records.
      batch_size: global; each process gets `batch_size // shard_count`.
      image_size: side of the pictures.
      seed: of order and augmentation.
      train: see above.
      sampling, refine_options: see `refine.Plan`.
      augment_preset, augment_overrides: see `params.resolve`; evaluation takes the framing only.
      crop, crop_scale: see `framing.frame_of`.
      shard_index, shard_count: this process among all.
      num_workers: worker processes, 0 = none.
      num_threads: threads (in each worker), 0 = automatic.
      prefetch: batches made ahead (by each worker), 0 = automatic.
      cache_bytes, max_pixels: see `loader.Loader`.
      max_bad_fraction: share of unreadable records that is put up with.
      start_step: training goes on from here.
      cache: shares decoded images with other pipelines.

    Attributes:
      step: number of the next batch; a pipeline with this `start_step` goes on with it.
      steps_per_epoch: batches an epoch, a fraction in training.
      buffered: batches that may be made ahead.
      bad_records: `BadRecords` found so far by this process.

    Raises:
      DataError: the arguments contradict each other or the source.
      TooManyBadRecords, WorkerDiedError: while iterating.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        image_size: int,
        seed: int = 0,
        train: bool,
        sampling: str = "shuffle",
        refine_options: Mapping[str, int] | None = None,
        augment_preset: str = "none",
        augment_overrides: Mapping[str, Any] | None = None,
        crop: str = "auto",
        crop_scale: float = 0.0,
        shard_index: int = 0,
        shard_count: int = 1,
        num_workers: int = 0,
        num_threads: int = 0,
        prefetch: int = 0,
        cache_bytes: int = 0,
        max_pixels: int = decode.MAX_PIXELS,
        max_bad_fraction: float = 0.1,
        start_step: int = 0,
        cache: DataCache | None = None,
    ):
        _check(batch_size, image_size, seed, shard_index, shard_count)
        if not len(source):
            raise DataError("the source holds no record; see the log for rows that were left out")
        chosen = presets.resolve(augment_preset, augment_overrides)
        plan = None
        if train:
            plan = sampling_lib.Plan(
                source.labels,
                source.groups,
                sampling=sampling,
                seed=seed,
                batch_size=batch_size,
                **dict(refine_options or {}),
            )
        self._source, self._plan, self.train = source, plan, train
        self._loader = loader.Loader(
            source=source,
            plan=plan,
            batch_size=batch_size,
            image_size=image_size,
            seed=seed,
            params=chosen if train else chosen.framing_only(),
            crop=crop,
            crop_scale=crop_scale,
            shard_index=shard_index,
            shard_count=shard_count,
            max_pixels=max_pixels,
            cache_bytes=cache_bytes,
            cache=cache,
        )
        framing.frame_of(1, 1, None, None, chosen, crop)  # complains about an unknown crop now
        self._num_workers = num_workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._num_threads = num_threads or max(min(cores // max(num_workers, 1), _MAX_THREADS), 1)
        self._prefetch = prefetch or max(self._num_threads + 2, 4)
        self.buffered = self._prefetch * max(num_workers, 1)
        self._batches = -(-len(source) // batch_size)
        self.steps_per_epoch = plan.length / batch_size if train else float(self._batches)
        self.bad_records = BadRecords(source, max_bad_fraction)
        self.step = start_step
        self._logged_epoch = -1
        self._iterator: Iterator | None = None

    def __len__(self) -> int:
        """Batches of an evaluation pass."""
        if self.train:
            raise TypeError("a training pipeline is endless; see steps_per_epoch")
        return self._batches

    def describe(self, index: int) -> str:
        """File and row of a record, for messages."""
        return self._source.describe(index)

    def __iter__(self) -> "Pipeline":
        if not self.train and self.step:
            if self.step < self._batches:  # the last pass was broken off
                self.close()
            self.step = 0
        return self

    def __next__(self) -> Batch:
        if not self.train and self.step == self._batches:
            raise StopIteration
        if self._iterator is None:
            self._iterator = self._start()
        if self.train:
            self._log_epoch()
        batch = next(self._iterator)
        for index, reason in batch.pop(loader.BAD):
            self.bad_records.add(int(index), reason)
        self.step += 1
        return batch

    def _start(self) -> Iterator:
        # Pictures are spread over our threads; OpenCV's own would only get in their way.
        cv2.setNumThreads(1)
        options = grain.ReadOptions(
            num_threads=self._num_threads, prefetch_buffer_size=self._prefetch
        )
        steps = grain.MapDataset.range(self.step, _ENDLESS)
        data = steps.map(self._loader).to_iter_dataset(options)
        if self._num_workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads flags that only absl.app parses
            data = data.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._num_workers, per_worker_buffer_size=self._prefetch
                ),
                worker_init_fn=workers.initialise,
            )
            return workers.WatchedIterator(data)
        return iter(data)

    def epoch_starting(self, step: int) -> tuple[int, dict[str, int], dict[str, int]] | None:
        """What a training epoch shows of each class, if batch `step` is the first of that epoch.

        Returns:
          its number, class name -> examples of the whole job, and class name -> different records
          among them (fewer where a class is topped up by repetition); None in mid-epoch.
        """
        batch_size, length = self._loader.batch_size, self._plan.length
        epoch = step * batch_size // length
        if step and (step - 1) * batch_size // length == epoch:
            return None
        return epoch, *self._class_counts(epoch)

    def _class_counts(self, epoch: int) -> tuple[dict[str, int], dict[str, int]]:
        names = self._source.class_names
        examples, records = self._plan.class_counts(epoch, len(names))
        return (
            dict(zip(names, examples.tolist(), strict=True)),
            dict(zip(names, records.tolist(), strict=True)),
        )

    def _log_epoch(self) -> None:
        epoch = self.step * self._loader.batch_size // self._plan.length
        if epoch == self._logged_epoch or self._plan.sampling == "shuffle":
            return
        self._logged_epoch = epoch
        examples, records = self._class_counts(epoch)
        listed = (
            f"{name} {n}" + (f" ({records[name]} different)" if records[name] < n else "")
            for name, n in examples.items()
        )
        log.info("epoch %d (%s): %s", epoch, self._plan.sampling, ", ".join(listed))

    def close(self) -> None:
        """Stops threads and workers; the next batch starts them again at `step`."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *unused) -> None:
        self.close()


def _check(batch_size, image_size, seed, shard_index, shard_count) -> None:
    if batch_size < 1 or image_size < 1:
        raise DataError(f"batch_size {batch_size} and image_size {image_size} must be positive")
    if seed < 0:
        raise DataError(f"seed {seed} must not be negative")
    if not 0 <= shard_index < shard_count:
        raise DataError(f"shard_index {shard_index} is outside 0..{shard_count - 1}")
    if batch_size % shard_count:
        raise DataError(f"batch_size {batch_size} is not divisible by {shard_count} processes")


def make_pipeline(
    data: DataConfig | Mapping[str, Any],
    source: Source,
    *,
    train: bool,
    batch_size: int,
    **kwargs: Any,
) -> Pipeline:
    """Return a `Pipeline` with the settings of `config.data`; keywords replace them.

    Raises:
      DataError: a setting is out of its range, or as `Pipeline`.
    """
    data = DataConfig.of(data)
    same = ("image_size", "sampling", "augment_overrides", "crop", "crop_scale", "num_workers")
    same += ("num_threads", "prefetch", "max_pixels", "max_bad_fraction", "cache_bytes")
    settings = {name: getattr(data, name) for name in same}
    settings |= {"augment_preset": data.augment, "refine_options": dataclasses.asdict(data.refine)}
    return Pipeline(source, train=train, batch_size=batch_size, **(settings | kwargs))
