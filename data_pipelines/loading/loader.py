"""Makes batches: records read, decoded, cropped and augmented straight into one array.

Unreadable records are replaced in training and masked in evaluation; which they were travels with
the batch, for `pipeline.BadRecords` to count.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines.images import decode, framing, landmark_checks, transforms
from data_pipelines.images.presets import Params
from data_pipelines.loading import sampling
from data_pipelines.schema import MISSING_ID, NUM_LANDMARKS, DecodeError, Source, TooManyBadRecords
from data_pipelines.sources.cache import DataCache

BAD = "bad_records"  # key of a batch: (record, reason) of what could not be read
_SAME_CLASS_TRIES, _TRIES = 16, 64


@dataclasses.dataclass
class Loader:
    """Makes batches: `loader(step)` is a dict of arrays. Pure; may run in any thread or process.

    Args:
      source: raw records.
      plan: order of training examples; None = evaluation, in the order of the source.
      batch_size: global.
      image_size: side of the output.
      seed: of the augmentation.
      params: augmentation, already without randomness for evaluation.
      crop, crop_scale: see `framing.frame_of`.
      shard_index, shard_count: this process among all.
      max_pixels: see `decode.decode`.
      cache_bytes: room for pictures: finished ones where nothing is drawn at random (evaluation),
        else decoded ones, cropped to what the augmentation can reach and shrunk to about 1.3 x
        the output; 0 = decode every time. Evaluation gives the same pixels with any.
      cache: shares these images with other pipelines.
    """

    source: Source
    plan: sampling.Plan | None
    batch_size: int
    image_size: int
    seed: int
    params: Params
    crop: str = "auto"
    crop_scale: float = 0.0
    shard_index: int = 0
    shard_count: int = 1
    max_pixels: int = decode.MAX_PIXELS
    cache_bytes: int = 0
    cache: dataclasses.InitVar[DataCache | None] = None

    def __post_init__(self, cache: DataCache | None):
        self._cache = None
        self._framing = framing.Framing.of(self.params, self.image_size, self.crop, self.crop_scale)
        if self.cache_bytes:
            # Records, and so labels, are kept with the pictures: a cache belongs to its source.
            kept = self.params.framing_only() if self.params.fixed else self.params
            frame = (self.image_size, kept, self.crop, self.crop_scale, self.max_pixels)
            self._cache = (cache or DataCache()).images(self.source, frame, self.cache_bytes)

    def __call__(self, step: int) -> dict[str, Any]:
        """The batch of this process at a step; `bad_records` holds (record, reason) pairs."""
        part = self.batch_size // self.shard_count
        if self.plan is None:
            step %= -(-len(self.source) // self.batch_size)  # pass after pass
            start = step * self.batch_size + self.shard_index * part
            records = np.arange(start, start + part, dtype=np.int64)
            epochs = np.zeros(part, np.int64)
            places = records
            mask = records < len(self.source)
        else:
            positions = self.plan.batch_positions(step, self.shard_index, self.shard_count)
            epochs, places, records = self.plan.at(positions)
            mask = np.ones(part, bool)
        batch = self._empty(part)
        draws = transforms.Draws(self.params, self.image_size, self.seed, epochs, places)
        bad: list[tuple[int, str]] = []
        for k in np.flatnonzero(mask).tolist():
            if self.plan is None:
                mask[k] = self._fill(batch, k, int(records[k]), draws, bad)
            else:
                records[k] = self._fill_or_replace(batch, k, records[k], epochs, places, draws, bad)
        batch["mask"] = mask
        batch["index"] = np.where(records < len(self.source), records, MISSING_ID)
        batch[BAD] = bad
        return batch

    def _empty(self, n: int) -> dict[str, np.ndarray]:
        size, has = self.image_size, self.source.has
        batch = {
            "image": np.zeros((n, size, size, 3), np.uint8),
            "expression": np.full(n, MISSING_ID, np.int32),
            "valence_arousal": np.full((n, 2), np.nan, np.float32),
            "landmarks": np.full((n, NUM_LANDMARKS, 2), np.nan, np.float32),
            "group": np.full(n, MISSING_ID, np.int32),
        }
        if "expression_probs" in has:
            batch["expression_probs"] = np.full((n, self.source.num_classes), np.nan, np.float32)
        if "attributes" in has:
            width = len(self.source.attribute_names)
            batch["attributes"] = np.full((n, width), MISSING_ID, np.int32)
        return batch

    def _fill_or_replace(self, batch, k, record, epochs, places, draws, bad) -> int:
        """Fills place k, with another record of the same class where this one is unusable."""
        if self._fill(batch, k, int(record), draws, bad):
            return int(record)
        u = transforms.uniforms(self.seed ^ 0x5EED, epochs[k], places[k], _TRIES)[0]
        same = np.flatnonzero(self.source.labels == self.source.labels[record])
        for attempt in range(_TRIES):
            pool = same if attempt < _SAME_CLASS_TRIES else np.arange(len(self.source))
            substitute = int(pool[int(u[attempt] * len(pool))])
            if self._fill(batch, k, substitute, draws, bad):
                return substitute
        raise TooManyBadRecords(
            f"no readable record was found in {_TRIES} tries in place of "
            f"{self.source.describe(int(record))}: {bad[-1][1]}"
        )

    def _fill(self, batch, k: int, index: int, draws: transforms.Draws, bad: list) -> bool:
        """Writes record `index` to place k; False where it cannot be read."""
        try:
            if self.params.fixed:
                pixels, landmarks, record = self._kept(index, self._finished)
                batch["image"][k] = pixels
            else:
                image, landmarks, frame, record = self._kept(index, self._picture)
                matrix = draws.apply(k, image, frame, batch["image"][k])
                if landmarks is not None:
                    landmarks = transforms.move_landmarks(landmarks, matrix, draws.flip[k])
        except DecodeError as e:
            bad.append((index, str(e)))
            return False
        except OSError as e:
            bad.append((index, f"cannot be read ({e.strerror or e})"))
            return False
        if landmarks is not None:
            batch["landmarks"][k] = landmarks
        batch["expression"][k] = record["expression"]
        batch["valence_arousal"][k] = record["valence_arousal"]
        batch["group"][k] = record["group"]
        for field in ("expression_probs", "attributes"):
            if field in batch:
                batch[field][k] = record[field]
        return True

    def _kept(self, index: int, make: Callable[[int], tuple]) -> tuple:
        """What `make` gives for record `index`: an array and more, perhaps from the cache."""
        if self._cache is None:
            return make(index)
        entry = self._cache.get(index)
        if entry is None:
            entry = make(index)
            self._cache.put(index, entry, entry[0].nbytes)
        return entry

    def _record(self, index: int) -> tuple[bytes | np.ndarray, np.ndarray | None, dict]:
        """Its picture, its landmarks if it has any, and all its other fields."""
        record = dict(self.source[index])
        image, landmarks = record.pop("image"), record["landmarks"]
        if "landmarks" not in self.source.has or not np.isfinite(landmarks).any():
            landmarks = None
        return image, landmarks, record

    def _check_marks(
        self, landmarks: np.ndarray | None, box: np.ndarray, height: int, width: int
    ) -> None:
        """Raises `DecodeError` for marks that cannot be those of a face in the picture."""
        by_box = self.crop == "box" or (self.crop == "auto" and landmarks is None)
        if reason := landmark_checks.fault(landmarks, box if by_box else None, height, width):
            raise DecodeError(reason)

    def _finished(self, index: int) -> tuple[np.ndarray, np.ndarray | None, dict]:
        """The network's pixels, landmarks on them and the other fields; nothing is drawn."""
        image, landmarks, record = self._record(index)
        if isinstance(image, bytes):
            image = decode.decode(image, max_pixels=self.max_pixels, grey=True)
        self._check_marks(landmarks, record["box"], *image.shape[:2])
        frame = self._framing.frame(*image.shape[:2], landmarks, record["box"])
        if landmarks is not None:
            landmarks = transforms.move_landmarks(landmarks, self._framing.matrix(frame), False)
        return self._framing.pixels(image, frame), landmarks, record

    def _picture(self, index: int) -> tuple[np.ndarray, np.ndarray | None, framing.Frame, dict]:
        """Decoded picture, its landmarks, the frame to take and the other fields, for training."""
        image, landmarks, record = self._record(index)
        target = self.image_size * (1 + self.params.margin)

        def frame_of(height: int, width: int) -> framing.Frame:
            return self._framing.frame(height, width, landmarks, record["box"])

        def shrink(height: int, width: int) -> int:
            return framing.halving(frame_of(height, width), target)

        if isinstance(image, bytes):
            image, k, height, width = decode.decode_shrunk(
                image, shrink, max_pixels=self.max_pixels, grey=True
            )
        else:
            height, width = image.shape[:2]
            k = shrink(height, width)
            image = decode.shrink_by(image, k)
        self._check_marks(landmarks, record["box"], height, width)
        # Of the picture as it is: the last pixels of a shrunk one may stand for less than k.
        frame = frame_of(height, width)
        framing.check_frame(frame, height, width)
        frame = frame.shrunk(k)
        if k > 1 and landmarks is not None:
            landmarks = (landmarks + 0.5) / k - 0.5
        if self._cache is not None:
            image, landmarks, frame = framing.cut_to_reach(
                image, landmarks, frame, self.params, target
            )
        return image, landmarks, frame, record
