"""What a pipeline is asked for: the section `data`, and this process among all."""

import dataclasses
import os

from data_pipelines.defaults import DataConfig
from data_pipelines.images import presets
from data_pipelines.schema import DataError

_MAX_THREADS = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """How records become batches.

    Attributes:
      batch_size: global; each process gets `batch_size // shard_count`.
      data: sampling, crop, augmentation and delivery.
      seed: of order and augmentation.
      shard_index, shard_count: this process among all.

    Raises:
      DataError: a value is impossible.
    """

    batch_size: int
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    seed: int = 0
    shard_index: int = 0
    shard_count: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"batch_size {self.batch_size} must be positive")
        if self.seed < 0:
            raise DataError(f"seed {self.seed} must not be negative")
        if not 0 <= self.shard_index < self.shard_count:
            raise DataError(f"shard_index {self.shard_index} is outside 0..{self.shard_count - 1}")
        if self.batch_size % self.shard_count:
            sizes = f"batch_size {self.batch_size} is not divisible by {self.shard_count}"
            raise DataError(f"{sizes} processes")

    @property
    def part(self) -> int:
        """Number of images of a batch that this process makes."""
        return self.batch_size // self.shard_count

    @property
    def threads(self) -> int:
        """Threads (in each worker)."""
        each = min(usable_cores() // max(self.data.num_workers, 1), _MAX_THREADS)
        return self.data.num_threads or max(each, 1)

    @property
    def batches_ahead(self) -> int:
        """Number of batches made ahead (by each worker)."""
        return self.data.prefetch or max(self.threads + 2, 4)

    def params(self, train: bool) -> presets.Params:
        """Return what augmentation may do; in evaluation nothing is drawn.

        Raises:
          DataError: as `presets.resolve`.
        """
        chosen = presets.resolve(self.data.augment, self.data.augment_overrides)
        return chosen if train else chosen.framing_only()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
