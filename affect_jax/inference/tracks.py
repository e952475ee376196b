"""Tracks: the faces of one person in the frames of a video, and means over their last frames.

Faces of following frames are joined by how much their boxes overlap and how alike the pixels in
them look. The network is not asked, and its crop is not used, so that tracks depend neither on the
model nor on its batches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from affect_jax.evaluation.smoothing import WEIGHTS, smooth
from data_pipelines.images.framing import Frame, Framing

# Pairs of faces that may be joined: the boxes overlap and the looks do not contradict, or the face
# has moved, by at most this many widths, and looks the same. Looks of photos of two persons reach
# 0.7 in 5 % of pairs (0.85: 0.3 %), those of a photo and itself, turned by up to 8 degrees
# and its box moved by 2 %, in 100 % (0.85: 98 %), measured on 252 photos.
_OVERLAP, _NOT_UNLIKE = 0.2, 0.7
_SAME_LOOK, _REACH = 0.85, 1.5
_LOOK_SIDE = 8  # of the thumbnail that stands for a face, pixels
_SAMPLES = 64  # pixels along a side of a box that are read, at least
_NEWEST = 0.3  # weight of the newest look in a track's own
_GAP = 1.0  # seconds without the face after which a track ends
_FRAME_RATE = 25.0  # where a frame has no time

Look = np.ndarray
NO_LOOK = np.zeros(3 * _LOOK_SIDE**2, np.float32)


def look(image: np.ndarray, box: np.ndarray) -> Look:
    """Return a description of what a box shows: float32 [192] of length 1 and mean 0.

    It is a thumbnail without its mean brightness and contrast. The product of two is their
    correlation.

    Args:
      image: uint8 [H, W, 3].
      box: float [4], left, top, right, bottom in pixels. Outside the image, it shows black.
    """
    left, top, right, bottom = np.asarray(box, float).tolist()
    frame = Frame((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    if not (frame.width > 0 and frame.height > 0 and frame.touches(*image.shape[:2])):
        return NO_LOOK
    k = max(int(min(frame.width, frame.height) / _SAMPLES), 1)
    small = Framing(_LOOK_SIDE).pixels(image[::k, ::k], frame.shrunk(k))
    values = small.astype(np.float32).ravel()
    return _unit(values - values.mean())


def _unit(values: np.ndarray) -> np.ndarray:
    return values / max(float(np.linalg.norm(values)), 1e-6)


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return intersection over union [A, B] of boxes [A, 4] and [B, 4]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=-1) for b in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-6)


class Tracker:
    """Gives the faces of a video the numbers of their tracks, frame by frame.

    Args:
      fps: frames a second that are looked at; 0: all.
      state: of an earlier tracker, to go on from; see `state`.
    """

    def __init__(self, fps: float = 0.0, state: dict[str, Any] | None = None):
        self._gap = max(_GAP, 2.5 / fps) if fps else _GAP
        self._count = 0
        self._tracks: dict[int, tuple[np.ndarray, Look, float]] = {}  # box, look, last time
        if state:
            self._count = state["count"]
            for number, box, values, time in state["tracks"]:
                arrays = np.array(box, np.float32), np.array(values, np.float32)
                self._tracks[number] = (*arrays, time)

    def state(self) -> dict[str, Any]:
        """Return what the tracker remembers, for JSON."""
        tracks = [(n, b.tolist(), v.tolist(), t) for n, (b, v, t) in self._tracks.items()]
        return {"count": self._count, "tracks": tracks}

    @property
    def alive(self) -> frozenset[int]:
        """Numbers of the tracks that may go on."""
        return frozenset(self._tracks)

    def update(
        self, boxes: np.ndarray, looks: Sequence[Look], number: int, time: float
    ) -> list[int]:
        """Return the track of each face of the next frame.

        Args:
          boxes: float [F, 4].
          looks: F results of `look`.
          number: of the frame.
          time: of the frame in seconds; NaN: taken from its number.
        """
        now = time if np.isfinite(time) else number / _FRAME_RATE
        self._tracks = {n: t for n, t in self._tracks.items() if abs(now - t[2]) <= self._gap}
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        joined = self._joined(boxes, looks)
        for face in range(len(boxes)):
            if face not in joined:
                joined[face], self._count = self._count, self._count + 1
            track, new = joined[face], looks[face]
            if track in self._tracks:
                old = self._tracks[track][1]
                new = _unit((1 - _NEWEST) * old + _NEWEST * new)
            self._tracks[track] = (boxes[face], new.astype(np.float32), now)
        return [joined[face] for face in range(len(boxes))]

    def _joined(self, boxes: np.ndarray, looks: Sequence[Look]) -> dict[int, int]:
        if not len(boxes) or not self._tracks:
            return {}
        numbers = list(self._tracks)
        last = np.stack([self._tracks[n][0] for n in numbers])
        alike = np.stack([self._tracks[n][1] for n in numbers]) @ np.stack(looks).T
        overlap = overlaps(last, boxes)
        gap = np.linalg.norm(_centres(last)[:, None] - _centres(boxes)[None], axis=-1)
        widths = (last[:, None, 2] - last[:, None, 0] + boxes[None, :, 2] - boxes[None, :, 0]) / 2
        fits = (overlap >= _OVERLAP) & (alike >= _NOT_UNLIKE)
        fits |= (gap <= _REACH * widths) & (alike >= _SAME_LOOK)
        worth = np.where(fits, 1 + overlap + alike, 0)
        pairs = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
        return {int(face): numbers[row] for row, face in pairs if fits[row, face]}


def _centres(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


class Smoother:
    """Averages numbers over the last frames of each track, as evaluation does.

    Args:
      state: of an earlier smoother, to go on from.
    """

    def __init__(self, state: list[Any] | None = None):
        self._last = {number: [np.array(v) for v in values] for number, values in state or ()}

    def state(self) -> list[Any]:
        """Return what the smoother remembers, for JSON."""
        return [(number, [v.tolist() for v in values]) for number, values in self._last.items()]

    def update(self, track: int, values: np.ndarray) -> np.ndarray:
        """Return the weighted mean of float64 [n] and the last values of its track."""
        last = self._last.setdefault(track, [])
        last.append(values)
        del last[: -len(WEIGHTS)]
        return smooth(np.stack(last), np.zeros(len(last), int))[-1]

    def keep(self, tracks: frozenset[int]) -> None:
        """Forget all other tracks."""
        self._last = {n: values for n, values in self._last.items() if n in tracks}
