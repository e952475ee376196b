"""Make batches: read, decode, crop and augment records into one array.

Unreadable records are replaced in training and masked in evaluation. The batch lists them, and
`pipeline.BadRecords` counts them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.images import decode, transforms
from data_pipelines.images import landmarks as landmarks_lib
from data_pipelines.images.framing import Frame, Framing, cut_to_reach, halving
from data_pipelines.images.presets import Params
from data_pipelines.loading.batch_rows import BatchRows
from data_pipelines.loading.options import Options
from data_pipelines.loading.sampling import RefinementPlan
from data_pipelines.schema import (
    MISSING_ID,
    NUM_LANDMARKS,
    Batch,
    DecodeError,
    Record,
    Source,
    TooManyBadRecords,
)
from data_pipelines.sources.cache import DataCache, LoadedRecord

BAD = "bad_records"  # key of a batch: (record, reason) of what could not be read
_SAME_CLASS_TRIES, _TRIES = 16, 64

BadList = list[tuple[int, str]]


@dataclasses.dataclass
class Loader:
    """Make batches, `loader(step)`: a pure function, for any thread or process.

    Attributes:
      source: raw records.
      plan: order of training examples; None = evaluation, in the order of the source.
      params: augmentation, without randomness for evaluation.
      options: see `Options`. With a cache, finished images are kept if nothing is drawn at random
        (evaluation), else decoded ones, cut to what augmentation can reach and shrunk to about
        1.3 x the output. Evaluation gives the same pixels either way.
      cache: shares these images with other pipelines.
    """

    source: Source
    plan: RefinementPlan | None
    params: Params
    options: Options
    cache: dataclasses.InitVar[DataCache | None] = None

    def __post_init__(self, cache: DataCache | None) -> None:
        o = self.options.data
        self._framing = Framing.of(self.params, o.image_size, o.crop, o.crop_scale)
        self._cache = None
        if o.cache_bytes:
            # Records, and so labels, are kept with the images: a cache belongs to its source.
            kept = self.params.framing_only() if self.params.fixed else self.params
            frame = (o.image_size, kept, o.crop, o.crop_scale, o.max_pixels)
            self._cache = (cache or DataCache()).images(self.source, frame, o.cache_bytes)

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the batch of this process at a step, with its `bad_records`.

        These are pairs (record, reason).
        """
        o = self.options
        rows = BatchRows.at(step, self.plan, o, len(self.source))
        epochs, places, records, mask = rows.epochs, rows.places, rows.records, rows.mask
        batch = self._empty(o.part)
        draws = transforms.Draws(self.params, o.data.image_size, o.seed, epochs, places)
        bad: BadList = []
        for k in np.flatnonzero(mask).tolist():
            if self.plan is None:
                mask[k] = self._fill(batch, k, int(records[k]), draws, bad)
                continue
            for candidate in self._candidates(int(records[k]), epochs[k], places[k]):
                if self._fill(batch, k, candidate, draws, bad):
                    records[k] = candidate
                    break
            else:
                raise TooManyBadRecords(
                    f"no readable record was found in {_TRIES} tries in place of "
                    f"{self.source.describe(int(records[k]))}: {bad[-1][1]}"
                )
        index = np.where(records < len(self.source), records, MISSING_ID)
        return {**batch, "mask": mask, "index": index, BAD: bad}

    def _empty(self, n: int) -> Batch:
        o, has = self.options.data, self.source.has
        size = o.image_size
        batch: Batch = {
            "image": np.zeros((n, size, size, 3), np.uint8),
            "expression": np.full(n, MISSING_ID, np.int32),
            "valence_arousal": np.full((n, 2), np.nan, np.float32),
            "landmarks": np.full((n, NUM_LANDMARKS, 2), np.nan, np.float32),
            "group": np.full(n, MISSING_ID, np.int32),
        }
        # Evaluation measures by votes, learnt or not.
        if "expression_probs" in has and (self.plan is None or o.learns_votes):
            batch["expression_probs"] = np.full((n, self.source.num_classes), np.nan, np.float32)
        if "attributes" in has:
            width = len(self.source.attribute_names)
            batch["attributes"] = np.full((n, width), MISSING_ID, np.int32)
        return batch

    def _candidates(self, record: int, epoch: int, place: int) -> Iterator[int]:
        """Yield a record, then others to take its place, first of the same class."""
        yield record
        u = transforms.uniforms(self.options.seed ^ 0x5EED, epoch, place, _TRIES)[0]
        same = np.flatnonzero(self.source.labels == self.source.labels[record])
        for attempt in range(_TRIES):
            pool = same if attempt < _SAME_CLASS_TRIES else np.arange(len(self.source))
            yield int(pool[int(u[attempt] * len(pool))])

    def _fill(
        self,
        batch: Batch,
        k: int,
        index: int,
        draws: transforms.Draws,
        bad: BadList,
    ) -> bool:
        """Write record `index` to place k; return False if it cannot be read."""
        try:
            image, landmarks, frame, record = self._kept(index)
            if frame is None:
                batch["image"][k] = image
            else:
                matrix = draws.apply(k, image, frame, batch["image"][k])
                if landmarks is not None:
                    landmarks = landmarks_lib.move_landmarks(landmarks, matrix, draws.flip[k])
        except DecodeError as e:
            bad.append((index, str(e)))
            return False
        except OSError as e:
            bad.append((index, f"cannot be read ({e.strerror or e})"))
            return False
        if landmarks is not None:
            batch["landmarks"][k] = landmarks
        for field in batch.keys() - {"image", "landmarks"}:
            batch[field][k] = record[field]
        return True

    def _kept(self, index: int) -> LoadedRecord:
        """Return record `index` made ready, perhaps from the cache."""
        make = self._finished if self.params.fixed else self._drawable
        if self._cache is None:
            return make(index)
        entry = self._cache.get(index)
        if entry is None:
            entry = make(index)
            self._cache.put(index, entry, entry.image.nbytes)
        return entry

    def _read(self, index: int) -> tuple[bytes | np.ndarray, np.ndarray | None, Record]:
        """Return an image, its landmarks if it has any, and all its other fields."""
        record = dict(self.source[index])
        image, landmarks = record.pop("image"), record["landmarks"]
        if "landmarks" not in self.source.has or not np.isfinite(landmarks).any():
            landmarks = None
        return image, landmarks, record

    def _check_marks(
        self, landmarks: np.ndarray | None, box: np.ndarray, height: int, width: int
    ) -> None:
        """Raise `DecodeError` for marks that cannot belong to a face in the image."""
        crop = self.options.data.crop
        by_box = crop == "box" or (crop == "auto" and landmarks is None)
        if reason := landmarks_lib.fault(landmarks, box if by_box else None, height, width):
            raise DecodeError(reason)

    def _finished(self, index: int) -> LoadedRecord:
        """Return the network's pixels and the landmarks on them; nothing is drawn."""
        image, landmarks, record = self._read(index)
        if isinstance(image, bytes):
            image = decode.decode(image, max_pixels=self.options.data.max_pixels, grey=True)
        height, width = image.shape[:2]
        self._check_marks(landmarks, record["box"], height, width)
        frame = self._framing.frame(height, width, landmarks, record["box"])
        if landmarks is not None:
            landmarks = landmarks_lib.move_landmarks(landmarks, self._framing.matrix(frame), False)
        return LoadedRecord(self._framing.pixels(image, frame), landmarks, None, record)

    def _drawable(self, index: int) -> LoadedRecord:
        """Return a decoded image, possibly shrunk, and the frame to draw from it."""
        image, landmarks, record = self._read(index)
        target = self.options.data.image_size * (1 + self.params.margin)

        def frame_of(height: int, width: int) -> Frame:
            return self._framing.frame(height, width, landmarks, record["box"])

        def shrink(height: int, width: int) -> int:
            return halving(frame_of(height, width), target)

        if isinstance(image, bytes):
            image, k, height, width = decode.decode_shrunk(
                image, shrink, max_pixels=self.options.data.max_pixels, grey=True
            )
        else:
            height, width = image.shape[:2]
            k = shrink(height, width)
            image = decode.shrink_by(image, k)
        self._check_marks(landmarks, record["box"], height, width)
        # Of the whole image: the last pixels of a shrunk one may cover less than k.
        frame = frame_of(height, width)
        frame.check(height, width)
        frame = frame.shrunk(k)
        if k > 1 and landmarks is not None:
            landmarks = (landmarks + 0.5) / k - 0.5
        if self._cache is not None:
            image, landmarks, frame = cut_to_reach(image, landmarks, frame, self.params, target)
        return LoadedRecord(image, landmarks, frame, record)
