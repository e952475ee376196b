"""Landmarks and boxes in an image: moved and mirrored with it, and checked.

Both are pixels of the upright image (see `schema`). The checks find values that cannot belong to a
face in the image: for example, fractions in 0..1 would crop a single pixel.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.schema import FLIP_INDEX, NUM_LANDMARKS

_LEFT_EYE, _RIGHT_EYE, _MOUTH = slice(36, 42), slice(42, 48), slice(48, 68)
# Their product with landmarks: from the left eye to the right eye, and to the mouth.
_SIDES = np.zeros((2, NUM_LANDMARKS))
_SIDES[:, _LEFT_EYE] = -1 / 6
_SIDES[0, _RIGHT_EYE], _SIDES[1, _MOUTH] = 1 / 6, 1 / 20

_LEAST_SPAN = 4.0  # pixels; a face is larger
_LEAST_SIDE = 1.0
_LEAST_IMAGE = 8  # pixels; a smaller image is not judged
_EMPTY = "leave the cell empty where unknown"
# Twice the area of the triangle of eyes and mouth over the square of the face's side: 0.15 or more
# in a face, also a turned one; about 0 in a profile; as much below 0 if it is mirrored.
_LEAST_AREA = -0.05
# It is less than the first if x and y are two halves; read as halves, more than the second.
_HALVES = (0.08, 0.1)
_PERCENT = 100.0
_FEW = 10  # rows
_LEAST_SIZES = 4  # different ones, which frames of one or two cameras do not have
_INSIDE = 0.5  # of the landmarks, or of a box's area; faces at the border are cut, but less


def landmark_fault(points: np.ndarray) -> str:
    """Return what is wrong with landmarks [68, 2] in any image, or "".

    NaN = unknown.
    """
    finite = np.isfinite(points).all(1)
    known = points if finite.all() else points[finite]
    if not len(known):
        return ""
    (left, top), (right, bottom) = known.min(0).tolist(), known.max(0).tolist()
    width, height = right - left, bottom - top
    if width == 0 and height == 0:
        return f"all landmarks are ({left:g}, {top:g}); {_EMPTY}"
    if _are_fractions(min(left, top), max(right, bottom)):
        return "landmarks lie in 0..1; give pixels of the image, not fractions"
    if max(width, height) < _LEAST_SPAN or min(width, height) < _LEAST_SIDE:
        return f"landmarks span only {width:.3g} x {height:.3g} pixels"
    for code in (0, -1) if max(left, top) <= 0 else ():
        missing = int((known == code).all(1).sum())
        if missing > 1:
            return f"{missing} of the landmarks are ({code}, {code}); {_EMPTY}"
    return _order_fault(points, max(width, height)) if len(known) == len(points) else ""


def _order_fault(points: np.ndarray, side: float) -> str:
    """Return what is wrong with the order of 68 known points or their numbers, or ""."""
    area = _area(points, side)
    wanted = "give x0 y0 x1 y1 ... of the 68 points in iBUG order"
    if abs(area) < _HALVES[0]:
        halves = points.reshape(2, NUM_LANDMARKS)
        if _area(halves.T, float(np.ptp(halves, axis=1).max())) >= _HALVES[1]:
            return f"landmarks seem to be all x, then all y; {wanted}"
    if area < _LEAST_AREA:
        return f"landmarks are mirrored, or x and y are exchanged; {wanted}"
    return ""


def _area(points: np.ndarray, side: float) -> float:
    """Return twice the area of the triangle of eyes and mouth over the square of `side`."""
    (x, y), (across, down) = (_SIDES @ points).tolist()
    return (x * down - y * across) / max(side, _LEAST_SIDE) ** 2


def box_fault(box: np.ndarray) -> str:
    """Return what is wrong with a box float [4] (x0, y0, x1, y1), or ""."""
    numbers = box.tolist()  # plain numbers: a table may have a box in every row
    if not all(map(math.isfinite, numbers)):
        return ""
    x0, y0, x1, y1 = numbers
    if x1 <= x0 or y1 <= y0:
        hint = _EMPTY if x0 == y0 == x1 == y1 else "it is x0, y0, x1, y1, not width and height"
        return f"box {numbers} has no area; {hint}"
    if _are_fractions(min(numbers), max(numbers)):
        return f"box {numbers} lies in 0..1; give pixels of the image, not fractions"
    if min(x1 - x0, y1 - y0) < _LEAST_SIDE:
        return f"box {numbers} is only {x1 - x0:.3g} x {y1 - y0:.3g} pixels"
    return ""


def looks_like_percent(
    marks: Sequence[np.ndarray], sizes: Iterable[tuple[int, int]]
) -> tuple[bool, bool]:
    """Return whether marks of several images seem to be percent of the image, and surely so.

    All faces may lie in the first 100 pixels of one camera's frames, but hardly in images of
    different sizes.

    Args:
      marks: landmarks or boxes of each image, float arrays of any shape, all known.
      sizes: (width, height) of some of the images; asked only if the numbers may be percent.
    """
    highest = 0.0
    for mark in marks:
        highest = max(highest, float(mark.max()))
        if highest > _PERCENT or mark.min() < 0:
            return False, False
    if len(marks) < _FEW or highest <= _PERCENT / 2:
        return False, False
    known = set(sizes)
    likely = bool(known) and min(map(min, known)) > 2 * _PERCENT
    return likely, likely and len(known) >= _LEAST_SIZES


def _are_fractions(low: float, high: float) -> bool:
    return low >= -0.5 and high <= 1.5


def fault(landmarks: np.ndarray | None, box: np.ndarray | None, height: int, width: int) -> str:
    """Return what is wrong with marks on an image of this size, or "".

    Args:
      landmarks: float [68, 2] pixels, NaN = unknown; or None.
      box: float [4] pixels, NaN = unknown; or None.
      height, width: of the image, in the same pixels.
    """
    if min(height, width) < _LEAST_IMAGE:
        return ""
    reason = ""
    if landmarks is not None:
        reason = landmark_fault(landmarks) or _outside(landmarks, height, width)
    if box is not None and not reason:
        reason = box_fault(box) or _box_outside(box, height, width)
    return reason


def _outside(landmarks: np.ndarray, height: int, width: int) -> str:
    known = landmarks[np.isfinite(landmarks).all(1)]
    inside = ((known >= -0.5) & (known <= (width - 0.5, height - 0.5))).all(1).sum()
    if inside >= _INSIDE * len(known):
        return ""
    return (
        f"{len(known) - inside} of {len(known)} landmarks lie outside the image, which is "
        f"{width}x{height} pixels"
    )


def _box_outside(box: np.ndarray, height: int, width: int) -> str:
    if not np.isfinite(box).all():
        return ""
    x0, y0, x1, y1 = box.tolist()
    across, down = min(x1, width) - max(x0, 0.0), min(y1, height) - max(y0, 0.0)
    if max(across, 0.0) * max(down, 0.0) >= _INSIDE * (x1 - x0) * (y1 - y0):
        return ""
    # A generous box of a face that fills the image reaches far over it on all sides.
    if 0 <= (x0 + x1) / 2 < width and 0 <= (y0 + y1) / 2 < height:
        return ""
    return (
        f"most of the face's box {np.round(box, 1).tolist()} lies outside the image, which is "
        f"{width}x{height} pixels"
    )


def move_landmarks(landmarks: np.ndarray, matrix: np.ndarray, flipped: bool) -> np.ndarray:
    """Return landmarks [68, 2] under a 2x3 matrix; mirrored ones change sides.

    `matrix` is the whole transform, mirror included: x maps to W - 1 - x as the pixels do.
    """
    moved = landmarks.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return (moved[FLIP_INDEX] if flipped else moved).astype(np.float32)
