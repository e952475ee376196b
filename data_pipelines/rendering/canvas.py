"""Anti-aliased drawing with sub-pixel coordinates, and colour arithmetic on plain tuples.

A picture has four channels: RGB, and the share of a pixel that belongs to the person (the
background has 0), so that one stroke draws both. Layers with one channel take a number for colour.
"""

from collections.abc import Sequence

import cv2
import numpy as np

_SHIFT = 4
_ONE = 1 << _SHIFT

Colour = tuple[float, float, float]


def shade(rgb: Colour, factor: float) -> Colour:
    """The colour times a factor, within 0 to 255."""
    r, g, b = rgb
    return (min(255.0, r * factor), min(255.0, g * factor), min(255.0, b * factor))


def mix(a: Colour, b: Colour, part: float) -> Colour:
    """(1 - part) a + part b."""
    keep = 1.0 - part
    return (keep * a[0] + part * b[0], keep * a[1] + part * b[1], keep * a[2] + part * b[2])


def _fixed(points: np.ndarray) -> np.ndarray:
    return (points * _ONE).astype(np.int32)


def _value(colour: Colour | float) -> tuple[float, ...] | float:
    return (*colour, 255.0) if isinstance(colour, tuple) else colour


def fill(image: np.ndarray, points: np.ndarray, colour: Colour | float) -> None:
    """Fill the polygon [n, 2]."""
    cv2.fillPoly(image, [_fixed(points)], _value(colour), cv2.LINE_AA, _SHIFT)


def stroke(
    image: np.ndarray,
    lines: np.ndarray | Sequence[np.ndarray],
    colour: Colour | float,
    width: int = 1,
    closed: bool = False,
) -> None:
    """Draw one line [n, 2], or several of one colour (a list, or an array [k, n, 2])."""
    if isinstance(lines, list):
        fixed = [_fixed(line) for line in lines]
    else:
        fixed = list(_fixed(lines)) if lines.ndim == 3 else [_fixed(lines)]
    cv2.polylines(image, fixed, closed, _value(colour), width, cv2.LINE_AA, _SHIFT)


def disc(image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour | float) -> None:
    """Fill a circle."""
    at = (int(centre[0] * _ONE), int(centre[1] * _ONE))
    cv2.circle(image, at, max(1, int(radius * _ONE)), _value(colour), -1, cv2.LINE_AA, _SHIFT)


def hull(points: np.ndarray) -> np.ndarray:
    """Convex hull [m, 2] of points [n, 2]."""
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def window(outline: np.ndarray, size: int) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) of the part of the picture around an outline; None if hardly any is left."""
    x0, y0 = np.maximum(outline.min(0).astype(int) - 2, 0).tolist()
    x1, y1 = np.minimum(outline.max(0).astype(int) + 4, size).tolist()
    return (x0, y0, x1, y1) if x1 - x0 > 3 and y1 - y0 > 3 else None


def blend(area: np.ndarray, patch: np.ndarray, outline: np.ndarray) -> None:
    """Put the patch into an area of the same shape, within an outline, with soft edges."""
    mask = np.zeros(area.shape[:2], np.uint8)
    fill(mask, outline, 255.0)
    alpha = cv2.merge([mask] * 4)
    inside = cv2.multiply(patch, alpha, scale=1 / 255)
    cv2.add(cv2.multiply(area, cv2.bitwise_not(alpha), scale=1 / 255), inside, dst=area)
