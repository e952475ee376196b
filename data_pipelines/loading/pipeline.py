"""Delivery: decoded, augmented batches in planned order, by threads or processes.

A batch is a pure function of (seed, step): the plan names its records, every random choice hashes
(seed, epoch, place in the epoch), and the whole batch is made by one call, in one array. Therefore
the stream is the same with any number of threads, worker processes or hosts, and a run resumes from
a step number. Stored features come in the same order, straight from memory.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import grain.python as grain
from absl import flags

from data_pipelines.defaults import DataConfig
from data_pipelines.loading import loader, workers
from data_pipelines.loading.feature_loader import FeatureLoader
from data_pipelines.loading.options import Options
from data_pipelines.loading.sampling import RefinementPlan
from data_pipelines.schema import Batch, DataError, Source, TooManyBadRecords
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.features import FeatureSource

log = logging.getLogger(__name__)

_ENDLESS = 1 << 40


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
        """Number of different records."""
        return len(self._seen)

    def add(self, index: int, reason: str) -> None:
        """Note a record.

        Raises:
          TooManyBadRecords: they are now more than the tolerated fraction of the source.
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
    with `mask` False and `index` -1; iterating again is another pass with the same threads and
    workers. In training, unreadable records are replaced by others of their class (also a pure
    function of seed and position). In evaluation they are masked.

    Args:
      source: raw records.
      options: see `Options`.
      train: training or evaluation.
      start_step: training resumes here.
      cache: shares decoded images with other pipelines.

    Attributes:
      step: number of the next batch; a pipeline with this `start_step` begins with it.
      steps_per_epoch: batches an epoch, a fraction in training.
      buffered: batches that may be made ahead.
      bad_records: `BadRecords` found so far by this process.

    Raises:
      DataError: the options contradict each other or the source.
      TooManyBadRecords, WorkerDiedError: while iterating.
    """

    def __init__(
        self,
        source: Source,
        options: Options,
        *,
        train: bool,
        start_step: int = 0,
        cache: DataCache | None = None,
    ):
        if not len(source):
            raise DataError("the source holds no record; see the log for rows that were left out")
        params, plan = options.params(train), None
        if train:
            plan = RefinementPlan(
                source.labels,
                source.groups,
                options.batch_size,
                sampling=options.data.sampling,
                seed=options.seed,
                **dataclasses.asdict(options.data.refine),
            )
        self._source, self._plan, self._options, self.train = source, plan, options, train
        self._loader: loader.Loader | FeatureLoader
        if isinstance(source, FeatureSource):
            self._loader = FeatureLoader(source, plan, options)
        else:
            self._loader = loader.Loader(source, plan, params, options, cache)
        self.buffered = options.batches_ahead * max(options.data.num_workers, 1)
        self._batches = -(-len(source) // options.batch_size)
        self.steps_per_epoch = float(self._batches)
        if plan is not None:
            self.steps_per_epoch = plan.length / options.batch_size
        self.bad_records = BadRecords(source, options.data.max_bad_fraction)
        self.step = start_step
        self._logged_epoch = -1
        self._iterator: Iterator[dict[str, Any]] | None = None

    def __len__(self) -> int:
        """Return the number of batches of an evaluation pass."""
        if self.train:
            raise TypeError("a training pipeline is endless; see steps_per_epoch")
        return self._batches

    def describe(self, index: int) -> str:
        """Return file and row of a record, for messages."""
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
        if self._plan is not None:
            self._log_epoch(self._plan)
        batch = next(self._iterator)
        for index, reason in batch.pop(loader.BAD):
            self.bad_records.add(int(index), reason)
        self.step += 1
        return batch

    def _start(self) -> Iterator[dict[str, Any]]:
        if isinstance(self._loader, FeatureLoader):
            # Made when it is asked for: to take rows costs less than to hand over a batch.
            return map(self._loader, itertools.count(self.step))
        # Images are spread over our threads; OpenCV's own would only get in their way.
        cv2.setNumThreads(1)
        ahead, processes = self._options.batches_ahead, self._options.data.num_workers
        options = grain.ReadOptions(num_threads=self._options.threads, prefetch_buffer_size=ahead)
        steps = grain.MapDataset.range(self.step, _ENDLESS)
        data = steps.map(self._loader).to_iter_dataset(options)
        if not processes:
            return iter(data)
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads flags that only absl.app parses
        data = data.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=processes, per_worker_buffer_size=ahead),
            worker_init_fn=workers.initialise,
        )
        return workers.WatchedIterator(data)

    def epoch_starting(self, step: int) -> tuple[int, dict[str, int], dict[str, int]] | None:
        """Return what a training epoch shows of each class if batch `step` is its first.

        Returns:
          its number, class name -> examples of the whole job, and class name -> different records
          among them (fewer where a class is topped up by repetition); None in mid-epoch.
        """
        plan, batch_size = self._plan, self._options.batch_size
        if plan is None:
            raise TypeError("an evaluation pipeline has no epochs")
        epoch = step * batch_size // plan.length
        if step and (step - 1) * batch_size // plan.length == epoch:
            return None
        return epoch, *self._class_counts(plan, epoch)

    def _class_counts(
        self, plan: RefinementPlan, epoch: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        names = self._source.class_names
        examples, records = plan.class_counts(epoch, len(names))
        return (
            dict(zip(names, examples.tolist(), strict=True)),
            dict(zip(names, records.tolist(), strict=True)),
        )

    def _log_epoch(self, plan: RefinementPlan) -> None:
        epoch = self.step * self._options.batch_size // plan.length
        if epoch == self._logged_epoch or plan.sampling == "shuffle":
            return
        self._logged_epoch = epoch
        examples, records = self._class_counts(plan, epoch)
        listed = (
            f"{name} {n}" + (f" ({records[name]} different)" if records[name] < n else "")
            for name, n in examples.items()
        )
        log.info("epoch %d (%s): %s", epoch, plan.sampling, ", ".join(listed))

    def close(self) -> None:
        """Stop threads and workers; the next batch starts them again at `step`."""
        iterator, self._iterator = self._iterator, None
        if isinstance(iterator, workers.WatchedIterator | grain.DatasetIterator):
            iterator.close()

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def make_pipeline(
    data: DataConfig | Mapping[str, Any],
    source: Source,
    *,
    train: bool,
    batch_size: int,
    start_step: int = 0,
    cache: DataCache | None = None,
    **own: int,
) -> Pipeline:
    """Make a `Pipeline` with the settings of `config.data` and further `Options`.

    Raises:
      DataError: as `DataConfig.of`, `Options` and `Pipeline`.
    """
    options = Options(batch_size, DataConfig.of(data), **own)
    return Pipeline(source, options, train=train, start_step=start_step, cache=cache)
