"""Resampling of a part of an image: anti-aliased, exact to fractions of a pixel.

The filter is linear. Where the image is shrunk, it is as wide as an output pixel; otherwise it is
bilinear interpolation. Its form is the same at every ratio, so an image that is one pixel larger
gives nearly the same output. Pillow computes it in integers: the same bytes on every machine, in
every thread, for a grey image and for its RGB copy.
"""

import math

import cv2
import numpy as np
from PIL import Image

# Shrinking by more than this is done in two steps, whole pixels first. At 4 the result differs
# from one step by 1 or 2 levels at edges, and a photo of 12 megapixels takes half the time.
_GAP = 4.0
_EDGE = 1e-6  # of a pixel: rounding of a frame that ends with the image


def resample(
    image: np.ndarray, left: float, top: float, width: float, height: float, size: int
) -> np.ndarray:
    """Return a rectangle of an image, scaled to a square.

    Pixels outside the image are black. An output pixel that is partly outside is darkened by the
    fraction outside.

    Args:
      image: uint8 [H, W, 3] or, for a grey image, [H, W].
      left, top, width, height: the rectangle in pixels, edges of the first pixel at 0 and 1.
      size: side of the output.

    Returns:
      uint8 [size, size, 3].
    """
    columns = _Axis(left, width, image.shape[1], size)
    rows = _Axis(top, height, image.shape[0], size)
    out = np.zeros((size, size, 3), np.uint8)
    if columns.empty or rows.empty:
        return out
    cut = image[rows.start : rows.stop, columns.start : columns.stop]
    if any((*rows.pad, *columns.pad)):
        # The edge is repeated, not black: black would darken a whole filter's width.
        cut = cv2.copyMakeBorder(cut, *rows.pad, *columns.pad, cv2.BORDER_REPLICATE)
    part = np.asarray(
        Image.fromarray(cut).resize(
            (columns.last - columns.first, rows.last - rows.first),
            Image.Resampling.BILINEAR,
            box=(columns.low, rows.low, columns.high, rows.high),
            reducing_gap=_GAP,
        )
    )
    if rows.covered is not None or columns.covered is not None:
        share = np.multiply.outer(
            np.ones(len(part), np.float32) if rows.covered is None else rows.covered,
            np.ones(part.shape[1], np.float32) if columns.covered is None else columns.covered,
        )
        part = np.rint(part * (share if part.ndim == 2 else share[..., None])).astype(np.uint8)
    if part.ndim == 2:
        part = cv2.cvtColor(part, cv2.COLOR_GRAY2RGB)
    out[rows.first : rows.last, columns.first : columns.last] = part
    return out


class _Axis:
    """What one axis of the output shows of n pixels.

    Attributes:
      empty: nothing.
      first, last: output pixels that show some of them, last exclusive.
      covered: float32, the fraction of each of these that does; None where all is covered.
      start, stop: input pixels needed.
      pad: how many more to make up on either side.
      low, high: edges of the output pixels `first` to `last`, on the input cut and padded.
    """

    def __init__(self, origin: float, extent: float, n: int, size: int):
        step = extent / size
        edges = origin + step * np.arange(size + 1)
        inside = np.minimum(edges[1:], n) - np.maximum(edges[:-1], 0.0)
        seen = np.flatnonzero(inside > _EDGE * step)
        self.empty = not len(seen)
        if self.empty:
            return
        self.first, self.last = int(seen[0]), int(seen[-1]) + 1
        shares = inside[self.first : self.last] / step
        whole = shares.min() > 1 - _EDGE
        self.covered = None if whole else np.minimum(shares, 1.0).astype(np.float32)
        low, high = float(edges[self.first]), float(edges[self.last])
        if step > n:  # the image is less than an output pixel, or shared by two: pad little
            middle = n / 2 if len(seen) == 1 else float(edges[self.first + 1])
            low, high = middle - n * len(seen) / 2, middle + n * len(seen) / 2
            step = n
        # Pixels of the rectangle alone, as if the image were cropped to it.
        tiny = _EDGE * step
        self.start = min(max(math.floor(low + tiny), 0), n - 1)
        self.stop = max(min(math.ceil(high - tiny), n), self.start + 1)
        self.pad = (max(math.ceil(-low - tiny), 0), max(math.ceil(high - n - tiny), 0))
        shift, length = self.pad[0] - self.start, sum(self.pad) + self.stop - self.start
        self.low, self.high = max(low + shift, 0.0), min(high + shift, float(length))
