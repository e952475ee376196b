"""The settings of a pipeline, from `config.data` or by hand."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from data_pipelines.defaults import check, setting
from data_pipelines.images import presets
from data_pipelines.images.decode import MAX_PIXELS
from data_pipelines.images.framing import CROPS
from data_pipelines.schema import DataError

_MAX_THREADS = 16
_FROM_CONFIG = (
    *("image_size", "seed", "sampling", "refine", "augment", "augment_overrides"),
    *("crop", "crop_scale", "num_workers", "num_threads", "prefetch"),
    *("max_pixels", "max_bad_fraction"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How records become batches.

    Attributes:
      batch_size: global; each process gets `batch_size // shard_count`.
      image_size: side of the images.
      seed: of order and augmentation.
      sampling, refine: see `sampling.RefinementPlan`.
      augment, augment_overrides: see `presets.resolve`; evaluation takes the framing only.
      crop, crop_scale: see `framing.Framing`.
      shard_index, shard_count: this process among all.
      num_workers: worker processes, 0 = none.
      num_threads: threads (in each worker), 0 = automatic.
      prefetch: batches made ahead (by each worker), 0 = automatic.
      cache_bytes: room for images: finished ones where nothing is drawn at random (evaluation),
        else decoded ones, cropped to what the augmentation can reach and shrunk to about 1.3 x
        the output; 0 = decode every time. Evaluation gives the same pixels with any value.
      max_pixels: see `decode.decode`.
      max_bad_fraction: maximum fraction of unreadable records tolerated.

    Raises:
      DataError: a value is impossible.
    """

    batch_size: int
    image_size: int
    seed: int = 0
    sampling: str = "shuffle"
    refine: Mapping[str, int] = dataclasses.field(default_factory=dict)
    augment: str = "none"
    augment_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    crop: str = "auto"
    crop_scale: float = 0.0
    shard_index: int = 0
    shard_count: int = 1
    num_workers: int = 0
    num_threads: int = 0
    prefetch: int = 0
    cache_bytes: int = 0
    max_pixels: int = MAX_PIXELS
    max_bad_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.image_size < 1:
            sizes = f"batch_size {self.batch_size} and image_size {self.image_size}"
            raise DataError(f"{sizes} must be positive")
        if self.seed < 0:
            raise DataError(f"seed {self.seed} must not be negative")
        if not 0 <= self.shard_index < self.shard_count:
            raise DataError(f"shard_index {self.shard_index} is outside 0..{self.shard_count - 1}")
        if self.batch_size % self.shard_count:
            sizes = f"batch_size {self.batch_size} is not divisible by {self.shard_count}"
            raise DataError(f"{sizes} processes")
        if self.crop not in CROPS:
            raise DataError(f"data.crop is {self.crop!r}; known: {', '.join(CROPS)}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], batch_size: int, **overrides: Any) -> "Options":
        """Read the settings of `config.data` (see `defaults`); `overrides` replace some of them.

        Raises:
          DataError: a setting is out of its range.
        """
        check(config)
        values = {name: setting(config, name) for name in _FROM_CONFIG}
        for name in ("refine", "augment_overrides"):
            values[name] = dict(values[name])
        cache = setting(config, "cache")
        if cache not in ("none", "memory"):
            raise DataError(f"data.cache is {cache!r}; known: none, memory")
        values["cache_bytes"] = 0
        if cache == "memory":
            values["cache_bytes"] = int(setting(config, "cache_megabytes") * 1e6)
        return cls(batch_size=batch_size, **(values | overrides))

    @property
    def part(self) -> int:
        """Images of a batch that this process makes."""
        return self.batch_size // self.shard_count

    @property
    def threads(self) -> int:
        """Threads (in each worker)."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        each = min(cores // max(self.num_workers, 1), _MAX_THREADS)
        return self.num_threads or max(each, 1)

    @property
    def batches_ahead(self) -> int:
        """Batches made ahead (by each worker)."""
        return self.prefetch or max(self.threads + 2, 4)

    def params(self, train: bool) -> presets.Params:
        """Return what augmentation may do; in evaluation nothing is drawn.

        Raises:
          DataError: as `presets.resolve`.
        """
        chosen = presets.resolve(self.augment, self.augment_overrides)
        return chosen if train else chosen.framing_only()
