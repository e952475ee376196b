"""Finding faces with BlazeFace: large ones first, then smaller and turned ones."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from affect_jax.errors import UserError
from affect_jax.inference.blazeface import suppression
from affect_jax.inference.blazeface.network import (
    FULL,
    NOTHING,
    SHORT,
    Candidates,
    Network,
    Square,
    Variant,
)
from affect_jax.inference.faces import Faces
from data_pipelines.schema import FOREHEAD

# With a border around the picture the short-range network finds faces that fill it: 114 of 114
# photos at 1.3 to 2 times the picture's side, 112 at 1.
_BORDER = 1.4
# A face found over more than this part of the picture's longer side is taken for a portrait.
_PORTRAIT = 0.5
# A proposal becomes a face if the short-range network finds it again in a window of this many times
# its size. Proposals need little: of faces of 5 to 40 % of a picture's width, all scored 0.6 or
# more in the window, 783 in all, and of 69 proposals without a face 7 did.
_PROPOSED = 0.4
_CLOSE = 2.0
# Below this score, which turned faces seldom reach, and beyond this lean in degrees a face is
# looked at in the other directions too. There it must score so much better.
_SURE = 0.8
_LEANING = 30.0
_TURN_GAIN = 0.05
_RIGHT_EYE, _LEFT_EYE = 0, 1
# From the square of a network to the box around the 68 landmarks: half its width, its top and its
# bottom, all over the side of the square and from its centre, in the frame of the face. Medians
# over 226 photos (every tenth of a set of 2,261), whose landmarks MediaPipe's Face Mesh found; the
# deviation of an edge is 0.03 to 0.05.
_EDGES = {SHORT: (0.465, -0.42, 0.475), FULL: (0.455, -0.35, 0.51)}


class _Tiling(NamedTuple):
    """A pass over tiles.

    Attributes:
      across: tiles along the longer side.
      side: of a tile, over the longer side.
      below: faces smaller than this part of the longer side make it worth while.
      least: pixels of the longer side below which it is not.
    """

    across: int
    side: float
    below: float
    least: int


# Tiles overlap by the size up to which the pass before misses faces.
_TILINGS = (_Tiling(2, 0.6, 0.2, 200), _Tiling(3, 0.4, 0.12, 400))


class BlazeFace:
    """The face detector that comes with the package; a `faces.Detector`.

    It looks in turn for faces that fill the picture (short range), for smaller ones (full range,
    unless a portrait was found), and in overlapping tiles if the smallest face found is small or
    none was. If there is still none, it looks at the picture turned by 90, 180 and 270 degrees.
    Each find is looked at again from close by, which gives its score.

    Several threads may use one, and it can be pickled.

    Args:
      threshold: the least score, in (0, 1).
      small: whether to look in tiles.
      turned: whether to turn the picture if nothing was found.

    Raises:
      UserError: the threshold is out of range, or OpenCV does not run the networks as it should.
    """

    def __init__(self, threshold: float = 0.6, *, small: bool = True, turned: bool = True):
        if not 0 < threshold < 1:
            raise UserError(f"threshold = {threshold}; it must lie between 0 and 1")
        self.threshold, self.small, self.turned = threshold, small, turned
        self._networks = {variant: Network(variant) for variant in (SHORT, FULL)}

    def __call__(self, image: np.ndarray) -> Faces:
        """Return the faces of a uint8 [H, W, 3] RGB image, the highest score first."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise UserError(
                f"image must be uint8 [H, W, 3] RGB, got {image.dtype} {list(image.shape)}"
            )
        found = self._search(image, 0)
        if self.turned and not len(found.scores):
            found = suppression.distinct([self._search(image, k) for k in (1, 2, 3)])
        return Faces(found.boxes, found.scores, found.points, _rolls(found.points))

    def _search(self, image: np.ndarray, quarters: int) -> Candidates:
        """Return what is found over the image turned by so many times 90 degrees."""
        height, width = image.shape[:2]
        longer, middle = max(height, width), (width / 2, height / 2)
        found = self._look(NOTHING, SHORT, image, _around(middle, _BORDER * longer), quarters)
        if not (_sizes(found) > _PORTRAIT * longer).any():
            found = self._look(found, FULL, image, _around(middle, longer), quarters)
        for tiling in _TILINGS if self.small and not quarters else ():
            sizes = _sizes(found) / longer
            if longer < tiling.least or (len(sizes) and sizes.min() > tiling.below):
                break
            for square in _tiles(width, height, tiling):
                found = self._look(found, FULL, image, square, quarters)
        return found

    def _look(
        self,
        known: Candidates,
        variant: Variant,
        image: np.ndarray,
        square: Square,
        quarters: int,
    ) -> Candidates:
        """Return the faces known and those that a network finds in a square of the image."""
        pixels = self._networks[variant].pixels(image, square)
        for face in self._find(variant, pixels, square, _PROPOSED, quarters).each():
            if suppression.covered(face, known):
                continue
            if variant != SHORT or not _certain(face):
                face = self._close(image, face, quarters)
            known = suppression.distinct([known, face])
        return known

    def _find(
        self,
        variant: Variant,
        pixels: np.ndarray,
        square: Square,
        threshold: float,
        quarters: int,
    ) -> Candidates:
        found = self._networks[variant].find(pixels, square, threshold, quarters)
        found = suppression.merged(found)
        return found._replace(boxes=_face_boxes(found, *_EDGES[variant]))

    def _close(self, image: np.ndarray, face: Candidates, quarters: int) -> Candidates:
        """Return a face [1] as the short-range network sees it from close by, or nothing.

        A face on its side or upside down is often proposed as an upright one, with a middling score
        and points in the wrong places. So it is looked at from four directions if need be.
        """
        left, top, right, bottom = face.boxes[0].tolist()
        square = _around(((left + right) / 2, (top + bottom) / 2), _CLOSE * _sizes(face)[0])
        pixels = self._networks[SHORT].pixels(image, square)
        best, least = NOTHING, self.threshold
        for turn in range(quarters, quarters + (4 if self.turned else 1)):
            found = self._find(SHORT, pixels, square, least, turn % 4)
            same = suppression.overlaps(face.boxes[0], found.boxes) > suppression.OVERLAP
            if same.any():
                best = Candidates(*(values[same][:1] for values in found))
                if _certain(best):
                    break
                least = best.scores[0] + _TURN_GAIN
        return best


def _certain(face: Candidates) -> bool:
    """Return whether a face [1] was seen well, and the right way up."""
    return bool(face.scores[0] >= _SURE and abs(_rolls(face.points)[0]) <= _LEANING)


def _around(centre: tuple[float, float], side: float) -> Square:
    return Square(centre[0] - side / 2, centre[1] - side / 2, side)


def _face_boxes(found: Candidates, half_width: float, top: float, bottom: float) -> np.ndarray:
    """Return the boxes that `Faces` describes, from the squares of a network."""
    centres, sides = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2, _sizes(found)
    roll = np.radians(_rolls(found.points))
    top -= FOREHEAD * (bottom - top)
    lift, half_height = (top + bottom) / 2, (bottom - top) / 2
    sin, cos = np.sin(roll), np.cos(roll)
    centres = centres + (sides * lift)[:, None] * np.stack([-sin, cos], -1)
    # The box around a turned ellipse, which a face resembles more than a rectangle.
    halves = np.stack(
        [
            np.hypot(half_width * cos, half_height * sin),
            np.hypot(half_width * sin, half_height * cos),
        ],
        -1,
    )
    halves *= sides[:, None]
    return np.concatenate([centres - halves, centres + halves], -1).astype(np.float32)


def _rolls(points: np.ndarray) -> np.ndarray:
    """Return the clockwise turn in degrees of faces [n, 6, 2], from eye to eye."""
    across = points[:, _LEFT_EYE] - points[:, _RIGHT_EYE]
    return np.degrees(np.arctan2(across[:, 1], across[:, 0])).astype(np.float32)


def _sizes(found: Candidates) -> np.ndarray:
    """Return the mean sides [n] of the boxes."""
    return (found.boxes[:, 2:] - found.boxes[:, :2]).mean(-1)


def _tiles(width: int, height: int, tiling: _Tiling) -> Iterator[Square]:
    """Yield overlapping squares that cover an image."""
    longer = max(width, height)
    side = tiling.side * longer
    step = (longer - side) / (tiling.across - 1)
    for top in _starts(height, side, step):
        for left in _starts(width, side, step):
            yield Square(left, top, side)


def _starts(length: int, side: float, step: float) -> np.ndarray:
    if length <= side:
        return np.array([(length - side) / 2])
    return np.linspace(0, length - side, math.ceil((length - side) / step - 1e-6) + 1)
