"""Anti-aliased drawing with sub-pixel coordinates, and colour arithmetic.

An image has four channels: RGB, and the fraction of a pixel that belongs to the person (the
background has 0), so that one stroke draws both. Layers with one channel take a number for colour.
Points are in pixels (float), or already in sixteenths of a pixel (int32, from `fixed`): it costs no
more to convert all curves of an image at once than to convert one.
"""

from collections.abc import Sequence

import cv2
import numpy as np

_SHIFT = 4
_ONE = 1 << _SHIFT

Colour = tuple[float, float, float]
Point = np.ndarray | tuple[float, float]  # x, y
Box = tuple[int, int, int, int]  # x0, y0, x1, y1


def shade(rgb: Colour, factor: float) -> Colour:
    """Return the colour times a factor, within 0 to 255."""
    r, g, b = rgb
    return (min(255.0, r * factor), min(255.0, g * factor), min(255.0, b * factor))


def mix(a: Colour, b: Colour, part: float) -> Colour:
    """Return (1 - part) a + part b."""
    keep = 1.0 - part
    return (keep * a[0] + part * b[0], keep * a[1] + part * b[1], keep * a[2] + part * b[2])


def fixed(points: np.ndarray) -> np.ndarray:
    """Return sixteenths of a pixel, int32."""
    return (points * _ONE).astype(np.int32)


def _lines(points: np.ndarray) -> Sequence[np.ndarray]:
    """Return curves, int32 [n, 2], of one curve or several."""
    if points.dtype != np.int32:
        points = fixed(points)
    return list(points) if points.ndim == 3 else [points]


def _value(colour: Colour | float) -> tuple[float, ...] | float:
    return (*colour, 255.0) if isinstance(colour, tuple) else colour


def fill(image: np.ndarray, points: np.ndarray, colour: Colour | float) -> None:
    """Fill a polygon [n, 2], or several that do not overlap, [k, n, 2]."""
    cv2.fillPoly(image, _lines(points), _value(colour), cv2.LINE_AA, _SHIFT)


def stroke(
    image: np.ndarray,
    lines: np.ndarray,
    colour: Colour | float,
    width: int = 1,
    closed: bool = False,
) -> None:
    """Draw a line [n, 2], or several [k, n, 2]."""
    cv2.polylines(image, _lines(lines), closed, _value(colour), width, cv2.LINE_AA, _SHIFT)


def disc(image: np.ndarray, centre: Point, radius: float, colour: Colour | float) -> None:
    """Fill a circle around (x, y)."""
    at = (int(centre[0] * _ONE), int(centre[1] * _ONE))
    cv2.circle(image, at, max(1, int(radius * _ONE)), _value(colour), -1, cv2.LINE_AA, _SHIFT)


def hull(points: np.ndarray) -> np.ndarray:
    """Return the convex hull [m, 2] of points [n, 2]."""
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def window(outline: np.ndarray, size: int) -> Box | None:
    """Return the part of an image around outlines (int32 [..., 2] from `fixed`).

    None if hardly any is left.
    """
    x, y, width, height = cv2.boundingRect(outline.reshape(-1, 2))
    x0, y0 = max(x // _ONE - 2, 0), max(y // _ONE - 2, 0)
    x1 = min((x + width - 1) // _ONE + 4, size)
    y1 = min((y + height - 1) // _ONE + 4, size)
    return (x0, y0, x1, y1) if x1 - x0 > 3 and y1 - y0 > 3 else None


def patch(box: Box, colour: Colour) -> np.ndarray:
    """Return an image of one colour for a part of the whole."""
    x0, y0, x1, y1 = box
    image = np.empty((y1 - y0, x1 - x0, 4), np.uint8)
    cv2.rectangle(image, (0, 0), (x1 - x0, y1 - y0), _value(colour), cv2.FILLED)
    return image


def within(points: np.ndarray, box: Box) -> np.ndarray:
    """Return points from `fixed`, seen from a part of the image."""
    return points - np.array([box[0] * _ONE, box[1] * _ONE], np.int32)


def blend(image: np.ndarray, patch: np.ndarray, box: Box, outline: np.ndarray) -> None:
    """Blend a patch into a part of the image, within outlines with soft edges.

    The patch is used up.

    Outlines are seen from the part, as patches are (`within`).
    """
    x0, y0, x1, y1 = box
    area, alpha = image[y0:y1, x0:x1], np.zeros(patch.shape, np.uint8)
    fill(alpha, outline, (255.0, 255.0, 255.0))
    cv2.multiply(patch, alpha, patch, scale=1 / 255)
    cv2.bitwise_not(alpha, alpha)
    cv2.multiply(area, alpha, area, scale=1 / 255)
    cv2.add(area, patch, area)
