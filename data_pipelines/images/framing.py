"""The part of an image that fills the output: landmarks, a box or the whole.

`Framing` is the one way from a decoded image to the pixels that a network sees, in evaluation
and in use. Training with random draws warps the image itself (see `transforms.Draws`).

Frames are measured between pixel edges (the first pixel spans 0 to 1), landmarks between pixel
centres (the first pixel is at 0): half a pixel lies between the two.
"""

import dataclasses
import math
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.images.presets import Params
from data_pipelines.images.resampling import resample
from data_pipelines.schema import FOREHEAD, DataError, DecodeError

CROPS = ("auto", "landmarks", "face", "box", "whole")
_KEPT_RESOLUTION = 1.3


class Frame(NamedTuple):
    """The part of an image that fills the output: its centre and its sides.

    Pixel edges are at integers.
    """

    x: float
    y: float
    width: float
    height: float

    def touches(self, height: int, width: int) -> bool:
        """Return whether any part of an image of this size is in the frame."""
        across = abs(2 * self.x - width) < self.width + width
        return across and abs(2 * self.y - height) < self.height + height

    def check(self, height: int, width: int) -> None:
        """Raise DecodeError unless the frame shows something of an image of this size."""
        if not self.touches(height, width):
            raise DecodeError("the face's box or landmarks lie outside the image")

    def shrunk(self, k: int) -> "Frame":
        """Return the same part of the image shrunk k times, its first pixel where it was."""
        return Frame(self.x / k, self.y / k, self.width / k, self.height / k)


@dataclasses.dataclass(frozen=True)
class Framing:
    """From a decoded image to the pixels that a network sees, without random choice.

    Attributes:
      size: side of the output.
      fit, margin: see `Params`.
      crop: `auto` takes the landmarks, else the box, else the whole image; `face` does so too, but
        of a box without its forehead, which is where landmarks end; `landmarks` or `box` take only
        these, else the whole image; `whole` takes the whole image.
      crop_scale: side of the square crop over the mean side of the box or of the landmarks; 0
        takes the image whole.

    Raises:
      DataError: `crop` is not known.
    """

    size: int
    fit: str = "cover"
    margin: float = 0.0
    crop: str = "auto"
    crop_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise DataError(f"data.crop is {self.crop!r}; known: {', '.join(CROPS)}")

    @classmethod
    def of(
        cls, params: Params, size: int, crop: str = "auto", crop_scale: float = 0.0
    ) -> "Framing":
        """Return the framing of `params`; `crop_scale` replaces its `box_scale`."""
        return cls(size, params.fit, params.margin, crop, crop_scale or params.box_scale)

    def frame(
        self,
        height: int,
        width: int,
        landmarks: np.ndarray | None = None,
        box: np.ndarray | None = None,
    ) -> Frame:
        """Return the part of an image that fills the output, with its margin.

        A square around landmarks or a box may miss the image: see `Frame.check`.

        Args:
          height, width: of the image.
          landmarks: float [68, 2] pixels or None; NaN = unknown.
          box: float [4] or None; NaN = unknown.
        """
        crop, edges = self.crop if self.crop_scale else "whole", None
        if (
            crop in ("auto", "face", "landmarks")
            and landmarks is not None
            and np.isfinite(landmarks).any()
        ):
            low, high = np.nanmin(landmarks, 0) + 0.5, np.nanmax(landmarks, 0) + 0.5
            edges = (*low.tolist(), *high.tolist())
        elif crop in ("auto", "face", "box") and box is not None and np.isfinite(box).all():
            x0, y0, x1, y1 = box.tolist()
            edges = (x0, y0 + (crop == "face") * FOREHEAD / (1 + FOREHEAD) * (y1 - y0), x1, y1)
        if edges is not None:
            x0, y0, x1, y1 = edges
            side = (x1 - x0 + y1 - y0) / 2 * self.crop_scale
            if side > 0:
                return Frame((x0 + x1) / 2, (y0 + y1) / 2, side, side)
        if self.fit == "stretch":
            return Frame(width / 2, height / 2, width, height)
        side = min(height, width) if self.fit == "cover" else max(height, width)
        return Frame(width / 2, height / 2, side, side)

    def pixels(self, image: np.ndarray, frame: Frame | None = None) -> np.ndarray:
        """Return what the network sees of an image.

        Args:
          image: uint8 [H, W, 3], or [H, W] grey.
          frame: the part to show; default: the frame of the whole image.

        Returns:
          uint8 [size, size, 3].

        Raises:
          DecodeError: the frame shows nothing of the image.
        """
        frame = frame or self.frame(*image.shape[:2])
        frame.check(*image.shape[:2])
        return resample(image, *self._window(frame), self.size)

    def matrix(self, frame: Frame) -> np.ndarray:
        """Return the float64 [2, 3] map from pixels of the image to pixels of the output."""
        left, top, width, height = self._window(frame)
        sx, sy = self.size / width, self.size / height
        # Pixel centres lie at halves.
        x, y = (0.5 - left) * sx - 0.5, (0.5 - top) * sy - 0.5
        return np.array([[sx, 0, x], [0, sy, y]])

    def to_image(self, parts: np.ndarray, frame: Frame) -> np.ndarray:
        """Convert fractions [..., 2] of the output to pixels of the image.

        0 and 1 are the edges of the output.
        """
        left, top, width, height = self._window(frame)
        return np.array([left, top]) + parts * np.array([width, height]) - 0.5

    def _window(self, frame: Frame) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the frame without its margin."""
        width, height = frame.width / (1 + self.margin), frame.height / (1 + self.margin)
        return frame.x - width / 2, frame.y - height / 2, width, height


def halving(frame: Frame, target: float) -> int:
    """Return the factor by which an image may be shrunk first: 1, 2, 4 or 8.

    Args:
      frame: on the image before it is shrunk.
      target: pixels of output that the frame's side fills.
    """
    times = int(min(frame.width, frame.height) / target)
    return 1 if times < 2 else min(1 << times.bit_length() - 1, 8)


def cut_to_reach(
    image: np.ndarray, landmarks: np.ndarray | None, frame: Frame, params: Params, target: float
) -> tuple[np.ndarray, np.ndarray | None, Frame]:
    """Cut away what no draw can show; shrink the rest to 1.3 x output resolution.

    Args:
      image, landmarks, frame: of the decoded image; the frame touches it.
      params: bounds of the augmentation.
      target: pixels of output that the frame's side fills.

    Returns:
      image, landmarks and frame in the new coordinates; a copy, for keeping.
    """
    # A turned square reaches further by cos + sin of its angle; zooming out and moving add to it.
    turn = math.radians(min(abs(params.rotation), 45.0))
    room = 1 + 2 * params.translation
    reach = (math.cos(turn) + math.sin(turn)) * room / (1 - params.scale) / 2
    height, width = image.shape[:2]
    left = max(math.floor(frame.x - reach * frame.width) - 1, 0)
    top = max(math.floor(frame.y - reach * frame.height) - 1, 0)
    right = min(math.ceil(frame.x + reach * frame.width) + 1, width)
    bottom = min(math.ceil(frame.y + reach * frame.height) + 1, height)
    cut = image[top:bottom, left:right]
    zoom = _KEPT_RESOLUTION * target / min(frame.width, frame.height)
    size = (right - left, bottom - top)
    if zoom < 1:
        size = tuple(max(round(zoom * n), 1) for n in size)
        cut = cv2.resize(cut, size, interpolation=cv2.INTER_AREA)
    else:
        cut = cut.copy()
    sx, sy = size[0] / (right - left), size[1] / (bottom - top)
    frame = Frame((frame.x - left) * sx, (frame.y - top) * sy, frame.width * sx, frame.height * sy)
    if landmarks is not None:
        landmarks = (landmarks + 0.5 - [left, top]) * [sx, sy] - 0.5
    return cut, landmarks, frame
