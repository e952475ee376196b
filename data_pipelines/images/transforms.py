"""Augmentation: one affine warp and one colour matrix per image, then noise etc.

Framing (crop, resize), rotation, scale, translation, random crop and mirror are composed into one
2x3 matrix and one `cv2.warpAffine`; landmarks go through the same matrix and change sides with the
mirror. Brightness, contrast, saturation, hue and grey are one 3x4 matrix. Every random choice is a
pure function of (seed, epoch, index): a counter-based generator, no state.
"""

import functools
import math

import cv2
import numpy as np
import simplejpeg
from numpy.typing import ArrayLike

from data_pipelines.images.framing import Frame, Framing
from data_pipelines.images.landmarks import move_landmarks
from data_pipelines.images.presets import Params

_DRAWS = (
    *("rotation", "scale", "shift_x", "shift_y", "crop_x", "crop_y", "flip"),
    *("brightness", "contrast", "saturation", "hue", "grey"),
    *("blur", "blur_sigma", "noise", "noise_std", "noise_at", "jpeg", "jpeg_quality"),
    *("erase", "erase_area", "erase_aspect", "erase_x", "erase_y", "erase_level"),
)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_GREY = np.tile(_LUMA, (3, 1))
_CHROMA = np.eye(3) - _TO_GREY
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# A quarter turn of the chroma plane (I, Q), carried over to RGB.
_QUARTER = np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ
_NOISE_STD = 32  # of the bank, in levels about 128
_NOISE_LENGTH = 1 << 20


def _mix(x: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 finalizer (Steele, Lea and Flood, 2014) of uint64 arrays."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, epoch: ArrayLike, index: ArrayLike, count: int) -> np.ndarray:
    """Return numbers in [0, 1) that depend on nothing but seed, epoch and index.

    Args:
      seed: any non-negative integer.
      epoch, index: int [n], or one number.
      count: how many for each.

    Returns:
      float64 [n, count]; a larger count keeps the first ones.
    """
    words = np.atleast_1d(np.asarray(epoch)), np.atleast_1d(np.asarray(index))
    state: np.ndarray = np.full(1, seed & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for word in words:
        state = _mix(state + _GOLDEN) ^ word.astype(np.uint64)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(_mix(state + _GOLDEN)[:, None] + steps[None])
    return (bits >> np.uint64(11)) * 2.0**-53


class Draws:
    """The random choices for n images, drawn together (a few microseconds each).

    Args:
      params: what may happen.
      size: side of the output in pixels.
      seed, epoch, index: see `uniforms`.
    """

    def __init__(self, params: Params, size: int, seed: int, epoch: np.ndarray, index: np.ndarray):
        self.params, self.size = params, size
        u = uniforms(seed, epoch, index, len(_DRAWS))
        self._u = {name: u[:, k] for k, name in enumerate(_DRAWS)}
        p, span = params, {name: 2 * v - 1 for name, v in self._u.items()}
        angle = np.deg2rad(p.rotation * span["rotation"])
        zoom = (1 + p.margin) * (1 + p.scale * span["scale"])
        self._cos, self._sin = (zoom * np.cos(angle)).tolist(), (zoom * np.sin(angle)).tolist()
        room = p.margin / 2 if p.random_crop else 0.0
        self._dx = (size * (p.translation * span["shift_x"] + room * span["crop_x"])).tolist()
        self._dy = (size * (p.translation * span["shift_y"] + room * span["crop_y"])).tolist()
        self.flip = (self._u["flip"] < p.flip).tolist()
        self.colour = self._colour_matrices(span)
        if self.colour is not None:
            # Rows add up to the same gain: a grey pixel stays grey, and one table does for it.
            levels = self.colour[:, 0, :3].sum(1)[:, None] * np.arange(256) + self.colour[:, 0, 3:]
            self._grey_table = levels.round().clip(0, 255).astype(np.uint8)

    def _colour_matrices(self, span: dict[str, np.ndarray]) -> np.ndarray | None:
        """Return float32 [n, 3, 4] on RGB levels, or None where colours stay."""
        p = self.params
        if not (p.brightness or p.contrast or p.saturation or p.hue or p.grey):
            return None
        saturation = (1 + p.saturation * span["saturation"]) * (self._u["grey"] >= p.grey)
        turn = 2 * np.pi * p.hue * span["hue"]
        contrast = 1 + p.contrast * span["contrast"]
        gain = contrast * (1 + p.brightness * span["brightness"])
        a, b = saturation * np.cos(turn), saturation * np.sin(turn)
        linear = _TO_GREY + a[:, None, None] * _CHROMA + b[:, None, None] * _QUARTER
        matrix = np.empty((len(gain), 3, 4), np.float32)
        matrix[:, :, :3] = gain[:, None, None] * linear
        matrix[:, :, 3] = (127.5 * (1 - contrast))[:, None]
        return matrix

    def matrix(self, k: int, frame: Frame) -> np.ndarray:
        """Return the float64 [2, 3] map from pixels of image k to pixels of the output."""
        size, c, s = self.size, self._cos[k], self._sin[k]
        sx, sy = size / frame.width, size / frame.height
        a, b, d, e = c * sx, -s * sy, s * sx, c * sy
        # Pixel centres lie at halves: shift there, turn about the frame's centre, shift back.
        px, py = frame.x - 0.5, frame.y - 0.5
        x = size / 2 - 0.5 + self._dx[k] - a * px - b * py
        y = size / 2 - 0.5 + self._dy[k] - d * px - e * py
        if self.flip[k]:
            a, b, x = -a, -b, size - 1 - x
        return np.array([[a, b, x], [d, e, y]])

    def apply(self, k: int, image: np.ndarray, frame: Frame, out: np.ndarray) -> np.ndarray:
        """Warp image k into `out` and alter it as drawn.

        Args:
          k: which of the n draws.
          image: uint8 [H, W, 3] or, for a grey image, [H, W].
          frame: the part of it to take.
          out: uint8 [size, size, 3], contiguous; is overwritten.

        Returns:
          the 2x3 matrix, for `move_landmarks`.
        """
        matrix = self.matrix(k, frame)
        shape = (self.size, self.size)
        if image.ndim == 2:
            plane = cv2.warpAffine(image, matrix, shape)
            if self.colour is not None:
                cv2.LUT(plane, self._grey_table[k], dst=plane)
            self._degrade(k, plane)
            cv2.cvtColor(plane, cv2.COLOR_GRAY2RGB, dst=out)
        else:
            cv2.warpAffine(image, matrix, shape, dst=out)
            if self.colour is not None:
                cv2.transform(out, self.colour[k], dst=out)
            self._degrade(k, out)
        return matrix

    def _degrade(self, k: int, out: np.ndarray) -> None:
        p, u = self.params, self._u
        if p.blur and u["blur"][k] < p.blur:
            sigma = 0.3 + max(p.blur_sigma - 0.3, 0.0) * u["blur_sigma"][k]
            side = 2 * math.ceil(2 * sigma) + 1  # two sigma each way
            cv2.GaussianBlur(out, (side, side), sigma, dst=out)
        if p.jpeg and u["jpeg"][k] < p.jpeg:
            quality = round(p.jpeg_quality + (95 - p.jpeg_quality) * u["jpeg_quality"][k])
            space = "RGB" if out.ndim == 3 else "GRAY"
            data = simplejpeg.encode_jpeg(np.atleast_3d(out), quality, space, fastdct=True)
            out[:] = simplejpeg.decode_jpeg(data, space, fastdct=True).reshape(out.shape)
        if p.noise and u["noise"][k] < p.noise:
            _add_noise(out, p.noise_std * u["noise_std"][k], u["noise_at"][k])
        if p.erase and u["erase"][k] < p.erase:
            area, aspect, x, y, level = (u[name][k] for name in _DRAWS[-5:])
            _erase(out, p.erase_area, area, aspect, x, y, level)


@functools.cache
def _noise_bank(length: int) -> np.ndarray:
    normals = np.random.Generator(np.random.Philox(key=1)).standard_normal(length, np.float32)
    return (128.5 + _NOISE_STD * normals).clip(1, 255).astype(np.uint8)


def _add_noise(out: np.ndarray, std: float, at: float) -> None:
    """Add Gaussian noise cut from a fixed bank; drawing it would take 1 ms an image."""
    bank = _noise_bank(max(_NOISE_LENGTH, 2 * out.size))
    start = int(at * (len(bank) - out.size))
    noise = bank[start : start + out.size].reshape(out.shape)
    share = std / _NOISE_STD
    cv2.addWeighted(out, 1.0, noise, share, -128 * share, dst=out)


def _erase(
    out: np.ndarray, largest: float, area: float, aspect: float, x: float, y: float, level: float
) -> None:
    """Fill a rectangle of 2 % to `largest` of the image with grey.

    The position, shape and grey level are drawn uniformly.
    """
    size = out.shape[0]
    side = size * math.sqrt(0.02 + max(largest - 0.02, 0.0) * area)
    stretch = 3.0 ** (aspect - 0.5)  # sides from 1:3 to 3:1
    width = min(max(round(side * stretch), 1), size)
    height = min(max(round(side / stretch), 1), size)
    left, top = int(x * (size - width + 1)), int(y * (size - height + 1))
    out[top : top + height, left : left + width] = int(256 * level)


def augment(
    image: np.ndarray,
    landmarks: np.ndarray | None = None,
    box: np.ndarray | None = None,
    *,
    params: Params,
    size: int,
    seed: int = 0,
    epoch: int = 0,
    index: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Augment one image as the pipeline does; only frame it if `params` draws nothing.

    Args:
      image: uint8 [H, W, 3] or [H, W].
      landmarks: float32 [68, 2] pixels, or None.
      box: float32 [4] x0, y0, x1, y1, or None.
      params, size: as of `Draws`; seed, epoch and index: as of `uniforms`.

    Returns:
      uint8 [size, size, 3] and the landmarks on it (None where none were given).
    """
    framing = Framing.of(params, size)
    height, width = image.shape[:2]
    frame = framing.frame(height, width, landmarks, box)
    if params.fixed:
        out, matrix, flipped = framing.pixels(image, frame), framing.matrix(frame), False
    else:
        draws = Draws(params, size, seed, np.array([epoch]), np.array([index]))
        out = np.empty((size, size, 3), np.uint8)
        matrix, flipped = draws.apply(0, image, frame, out), draws.flip[0]
    if landmarks is None:
        return out, None
    return out, move_landmarks(landmarks, matrix, flipped)
