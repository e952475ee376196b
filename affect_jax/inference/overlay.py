"""Pictures of predictions: the box, landmarks, expression and circumplex of each face."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from affect_jax.inference.face_table import BOX, Row

# A picture whose longer side is shorter is enlarged by a whole factor, so that text can be read.
_LEAST_SIDE = 480
_PER_UNIT = 480.0  # pixels of the shorter side per pixel of line width
_FONT, _TEXT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_DARK, _WHITE = (24, 24, 24), (255, 255, 255)
_LIGHT = 300  # sum of a colour from which dark text is read better on it
_DARKNESS = 0.6  # of the disc of a circumplex
# Of tracks, or of the faces of a photo, in turn; RGB (Okabe and Ito, told apart by colour-blind).
_COLOURS = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((240, 228, 66), (213, 94, 0), (0, 114, 178)),
)
_CIRCUMPLEX = 0.35  # side over the mean side of the box
_CIRCUMPLEX_UNITS = (28, 72)  # least and greatest half side, in line widths


class _Canvas(NamedTuple):
    """A picture that is drawn on.

    Attributes:
      image: uint8 [H, W, 3] RGB.
      factor: by which it was enlarged.
      line: width of a line, pixels.
    """

    image: np.ndarray
    factor: int
    line: int


class _Circle(NamedTuple):
    """The circle of a circumplex, in pixels of the picture."""

    x: int
    y: int
    radius: int


def enlargement(height: int, width: int) -> int:
    """Return the factor by which a picture is enlarged before it is drawn on."""
    return max(-(-_LEAST_SIDE // max(height, width)), 1)


def draw(image: np.ndarray, rows: Sequence[Row], points: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return a picture with what was found: uint8 [k H, k W, 3], with k of `enlargement`.

    Without a face it is the image itself, as large.

    Args:
      image: uint8 [H, W, 3] RGB.
      rows: of the table.
      points: float [K, 2] landmarks of each row, in pixels of the image; None: none.
    """
    factor = enlargement(*image.shape[:2])
    picture = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
    line = max(round(min(picture.shape[:2]) / _PER_UNIT), 1)
    canvas = _Canvas(np.ascontiguousarray(picture), factor, line)
    # Text comes last, so that no box or landmark of another face covers it.
    faces = [(row, own) for row, own in zip(rows, points, strict=True) if row["face"] >= 0]
    for row, own in faces:
        _draw_face(canvas, row, own)
    circles: list[_Circle] = []
    for row, _ in faces:
        _draw_values(canvas, row, circles)
    return canvas.image


def _colour(row: Row) -> tuple[int, int, int]:
    number = row["track"] if row["track"] >= 0 else row["face"]
    return _COLOURS[number % len(_COLOURS)]


def _box(canvas: _Canvas, row: Row) -> tuple[int, int, int, int]:
    """Return the corners of a face, kept near the picture: OpenCV overflows far outside."""
    height, width = canvas.image.shape[:2]
    edges = np.array([row[name] for name in BOX], np.float64) * canvas.factor
    low, high = [-9, -9] * 2, [width + 9, height + 9] * 2
    left, top, right, bottom = np.clip(edges, low, high).round().astype(int).tolist()
    return left, top, right, bottom


def _draw_face(canvas: _Canvas, row: Row, points: np.ndarray | None) -> None:
    left, top, right, bottom = _box(canvas, row)
    cv2.rectangle(canvas.image, (left, top), (right, bottom), _colour(row), 2 * canvas.line)
    if points is None:
        return
    height, width = canvas.image.shape[:2]
    for x, y in (points + 0.5) * canvas.factor:
        if 0 <= x < width and 0 <= y < height:
            place = (int(x), int(y))
            cv2.circle(canvas.image, place, canvas.line, _WHITE, cv2.FILLED, cv2.LINE_AA)


def _draw_values(canvas: _Canvas, row: Row, circles: list[_Circle]) -> None:
    left, top, right, bottom = _box(canvas, row)
    _draw_label(canvas, _label(row), left, top, bottom, _colour(row))
    if np.isfinite(row["valence"]) and np.isfinite(row["arousal"]):
        side = (right - left + bottom - top) / 2
        least, most = (units * canvas.line for units in _CIRCUMPLEX_UNITS)
        radius = int(np.clip(_CIRCUMPLEX * side / 2, least, most))
        circles.append(_place(canvas, (left, top, right, bottom), radius, circles))
        _draw_circumplex(canvas, row, circles[-1])


def _label(row: Row) -> str:
    parts = [f"#{row['track']}"] if row["track"] >= 0 else []
    parts += [f"{row['expression']} {row['confidence']:.2f}"] if row["expression"] else []
    parts += [row["error"]] if row["error"] else []
    # OpenCV's fonts hold ASCII only.
    return " ".join(parts).encode("ascii", "replace").decode()


def _draw_label(
    canvas: _Canvas, text: str, left: int, top: int, bottom: int, colour: tuple[int, int, int]
) -> None:
    """Write on a bar above the face, or where there is no room, below or inside it."""
    if not text:
        return
    height, width = canvas.image.shape[:2]
    scale, pad = _TEXT_SCALE * canvas.line, 3 * canvas.line
    (wide, high), base = cv2.getTextSize(text, _FONT, scale, canvas.line)
    tall = high + base + 2 * pad
    x = int(np.clip(left, 0, max(width - wide - 2 * pad, 0)))
    y = top - tall
    if y < 0:
        y = bottom if bottom + tall <= height else max(top, 0)
    cv2.rectangle(canvas.image, (x, y), (x + wide + 2 * pad, y + tall), colour, cv2.FILLED)
    place, ink = (x + pad, y + pad + high), _DARK if sum(colour) > _LIGHT else _WHITE
    cv2.putText(canvas.image, text, place, _FONT, scale, ink, canvas.line, cv2.LINE_AA)


def _place(
    canvas: _Canvas, box: tuple[int, int, int, int], radius: int, others: Sequence[_Circle]
) -> _Circle:
    """Return where a circumplex goes: the first place next to a face that is free.

    Right or left of it, at its bottom or its top; or else in its corner.
    """
    height, width = canvas.image.shape[:2]
    left, top, right, bottom = box
    gap = radius + 3 * canvas.line
    low, high = min(gap, height // 2), max(height - gap, height // 2)
    next_to = [(x, y) for x in (right + gap, left - gap) for y in (bottom - gap, top + gap)]
    inside = (max(min(right, width) - gap, gap), bottom - gap)
    fitting = [(x, y) for x, y in next_to if gap <= x <= width - gap] + [inside]
    places = [_Circle(x, min(max(y, low), high), radius) for x, y in fitting]
    free = [place for place in places if not any(_touch(place, other) for other in others)]
    return (free or places)[0]


def _touch(one: _Circle, other: _Circle) -> bool:
    return math.hypot(one.x - other.x, one.y - other.y) < one.radius + other.radius


def _draw_circumplex(canvas: _Canvas, row: Row, circle: _Circle) -> None:
    """Draw valence to the right and arousal upwards, in the square from -1 to 1."""
    image, line = canvas.image, canvas.line
    x, y, radius = circle
    room = radius + line
    # Mixed in the part around the disc: a copy of the whole picture would cost more.
    top, left = max(y - room, 0), max(x - room, 0)
    part = image[top : y + room + 1, left : x + room + 1]
    disc = part.copy()
    cv2.circle(disc, (x - left, y - top), radius, _DARK, cv2.FILLED, cv2.LINE_AA)
    part[:] = cv2.addWeighted(disc, _DARKNESS, part, 1 - _DARKNESS, 0)
    cv2.circle(image, (x, y), radius, _WHITE, line, cv2.LINE_AA)
    cv2.line(image, (x - radius, y), (x + radius, y), _WHITE, line)
    cv2.line(image, (x, y - radius), (x, y + radius), _WHITE, line)
    valence, arousal = (np.clip(float(row[name]), -1, 1) for name in ("valence", "arousal"))
    place = (round(x + radius * valence), round(y - radius * arousal))
    dot = max(radius // 7, 3 * line)
    cv2.circle(image, place, dot, _colour(row), cv2.FILLED, cv2.LINE_AA)
    cv2.circle(image, place, dot, _WHITE, line, cv2.LINE_AA)
