"""From items to rows of the table: frames read, faces scored in batches, tracks kept.

Batches are filled with faces of following frames and files. A frame is given out when all of its
faces have their scores, in the order of the inputs.
"""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from affect_jax.evaluation.smoothing import SMOOTHED
from affect_jax.evaluation.validity import is_number
from affect_jax.inference.face_scorer import FaceScorer, Scores
from affect_jax.inference.face_table import BOX, NO_FACE, FaceTable, Row
from affect_jax.inference.frames import Crop, Frame, FrameReader
from affect_jax.inference.inputs import Item
from affect_jax.inference.tracks import Smoother, Tracker

_BATCHES = 2  # that wait for the network or are in it
_IMAGE_BYTES = 2**28  # of kept images that may wait for scores


class Predicted(NamedTuple):
    """A frame, or the end of an item, with its rows.

    Attributes:
      frame: without its crops.
      rows: of the table.
      points: float [K, 2] landmarks of each row in pixels of the image, where the model has them.
    """

    frame: Frame
    rows: list[Row]
    points: list[np.ndarray | None]


@dataclasses.dataclass
class _Waiting:
    """A frame whose faces may lack scores."""

    frame: Frame
    scores: list[Scores | None]
    missing: int


class FacePredictions:
    """Predicts items one after the other.

    Iterate over it once. `position` is then, after each result, from where another can go on.

    Args:
      items: all of them.
      reader: gives frames.
      scorer: runs the network.
      table: makes rows.
      smooth: average the scores of a face in a video over its last frames.
      position: from where to go on.
    """

    def __init__(
        self,
        items: Sequence[Item],
        reader: FrameReader,
        scorer: FaceScorer,
        table: FaceTable,
        *,
        smooth: bool = True,
        position: dict[str, Any] | None = None,
    ):
        self._items, self._reader, self._scorer, self._table = items, reader, scorer, table
        self._smooth = smooth
        self._start = position or {"item": 0, "frame": 0}
        self._place, self._number = self._start["item"], self._start["frame"]
        self._tracker = Tracker(reader.fps, self._start.get("tracks"))
        self._smoother = Smoother(self._start.get("smoothed"))
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._image_bytes = 0  # of the frames that wait
        self._batch: list[tuple[_Waiting, int]] = []
        self._running: collections.deque[
            tuple[list[tuple[_Waiting, int]], concurrent.futures.Future[list[Scores]]]
        ] = collections.deque()

    def position(self) -> dict[str, Any]:
        """Return what is done so far, JSON-able: all items before `item` and frames before `frame`.

        It holds what tracks remember.
        """
        known: dict[str, Any] = {"item": self._place, "frame": self._number}
        if self._number:
            known |= {"tracks": self._tracker.state(), "smoothed": self._smoother.state()}
        return known

    def __iter__(self) -> Generator[Predicted, None, None]:
        frames = self._reader.read(self._items, self._place, self._number)
        try:
            for frame in frames:
                self._add(frame)
                if self._is_full():
                    self._submit()
                    self._collect(0)
                self._collect(_BATCHES)
                yield from self._ready()
            self._submit()
            self._collect(0)
            yield from self._ready()
        finally:
            frames.close()
            self._scorer.close()

    def _is_full(self) -> bool:
        """Return whether so much waits that a batch must run although it is not full."""
        # Frames without faces pile up behind one with a face.
        most = 4 * max(self._scorer.batch_size, self._reader.ahead)
        return len(self._waiting) > most or self._image_bytes > _IMAGE_BYTES

    def _add(self, frame: Frame) -> None:
        faces = [i for i, crop in enumerate(frame.crops) if crop.pixels is not None]
        waiting = _Waiting(frame, [None] * len(frame.crops), len(faces))
        self._waiting.append(waiting)
        self._image_bytes += _image_bytes(frame)
        for i in faces:
            self._batch.append((waiting, i))
            if len(self._batch) == self._scorer.batch_size:
                self._submit()

    def _submit(self) -> None:
        if self._batch:
            crops = [waiting.frame.crops[i].pixels for waiting, i in self._batch]
            self._running.append((self._batch, self._scorer.submit(crops)))  # type: ignore[arg-type]
            self._batch = []

    def _collect(self, allowed: int) -> None:
        """Wait until at most `allowed` batches are in work; note the scores of the others."""
        while len(self._running) > allowed or (self._running and self._running[0][1].done()):
            faces, future = self._running.popleft()
            for (waiting, i), scores in zip(faces, future.result(), strict=True):
                waiting.scores[i] = scores
                waiting.missing -= 1

    def _ready(self) -> Iterator[Predicted]:
        while self._waiting and not self._waiting[0].missing:
            waiting = self._waiting.popleft()
            self._image_bytes -= _image_bytes(waiting.frame)
            predicted = self._predicted(waiting)
            self._step(waiting.frame)
            yield predicted

    def _step(self, frame: Frame) -> None:
        if frame.number >= 0 and self._items[frame.place].is_video:
            self._number = frame.number + 1
        elif frame.place == self._place:  # the end of a video, or all of another item
            self._place, self._number = frame.place + 1, 0
            self._tracker, self._smoother = Tracker(self._reader.fps), Smoother()

    def _predicted(self, waiting: _Waiting) -> Predicted:
        frame = waiting.frame
        file = _shown(self._items[frame.place].path)
        bare = frame._replace(crops=())
        if frame.is_end:
            return Predicted(bare, [], [])
        if not frame.crops:
            error = frame.error or NO_FACE
            row = self._table.blank(file, frame.number, frame.time, error)
            return Predicted(bare, [row], [None])
        tracks = self._tracks(frame)
        rows, points = [], []
        for face, crop in enumerate(frame.crops):
            row = self._table.blank(file, frame.number, frame.time, crop.error)
            row |= {"face": face, "track": tracks[face], "detection_score": np.float32(crop.score)}
            row |= {name: np.float32(v) for name, v in zip(BOX, crop.box, strict=True)}
            values = self._values(crop, waiting.scores[face], tracks[face])
            row |= {"error": values} if isinstance(values, str) else self._table.scores(values)
            rows.append(row)
            points.append(None if isinstance(values, str) else values.get("points"))
        return Predicted(bare, rows, points)

    def _tracks(self, frame: Frame) -> list[int]:
        if not self._items[frame.place].is_video:
            return [-1] * len(frame.crops)
        boxes = np.stack([crop.box for crop in frame.crops])
        looks = [crop.look for crop in frame.crops]
        found = self._tracker.update(boxes, looks, frame.number, frame.time)
        self._smoother.keep(self._tracker.alive)
        return found

    def _values(self, crop: Crop, scores: Scores | None, track: int) -> Scores | str:
        """Return the scores to show, smoothed and with points of the image, or an error."""
        if scores is None:
            return crop.error
        if bad := [name for name, v in scores.items() if not is_number(name, v[None])[0]]:
            return f"the model gives no number for {' and '.join(bad)}"
        values = dict(scores)
        if self._smooth and track >= 0:
            values |= self._smoothed(scores, track)
        if "landmarks" in values and crop.to_image is not None:
            values["points"] = crop.to_image(values["landmarks"])
        return values

    def _smoothed(self, scores: Scores, track: int) -> Scores:
        names = [name for name in SMOOTHED if name in scores]
        if not names:  # a model of landmarks alone
            return {}
        joined = np.concatenate([np.atleast_1d(scores[name]) for name in names])
        means = self._smoother.update(track, joined)
        parts = np.split(means, np.cumsum([np.size(scores[name]) for name in names])[:-1])
        return {n: part.reshape(np.shape(scores[n])) for n, part in zip(names, parts, strict=True)}


def _shown(path: str) -> str:
    """Return a path as UTF-8 can hold it."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # no file can have this name
        return path.encode("utf-8", "backslashreplace").decode()


def _image_bytes(frame: Frame) -> int:
    return 0 if frame.image is None else frame.image.nbytes
