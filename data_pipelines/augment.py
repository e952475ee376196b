"""Augmentation: one affine warp and one colour matrix a picture, then degradations in place.

Framing (crop, resize), rotation, scale, translation, random crop and mirror are composed into one
2x3 matrix and one `cv2.warpAffine`; landmarks go through the same matrix and change sides with the
mirror. Brightness, contrast, saturation, hue and grey are one 3x4 matrix. Every random choice is a
pure function of (seed, epoch, index): a counter-based generator, no state.

Contact sheet of a preset:
  python -m data_pipelines.augment --preset arbex_heavy --output sheet.png [IMAGE...]
"""

import argparse
import dataclasses
import difflib
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

from data_pipelines.example import FLIP_INDEX, DataError


@dataclasses.dataclass(frozen=True)
class Params:
    """What may happen to a picture. All zeros: it is only framed and resized.

    Framing, in training and evaluation alike:
      box_scale: side of the square crop / mean side of the face box (of the landmarks, or given).
      fit: without a box, `cover` (the largest centred square), `contain` (the whole picture on
        black) or `stretch` (sides scaled apart).
      margin: the crop is resized to (1 + margin) x the output and a window of the output's size is
        cut from it: anywhere with `random_crop`, else (and in evaluation) in the middle.
    Geometry, drawn uniformly:
      rotation: up to this many degrees either way.
      scale: factor in [1 - scale, 1 + scale].
      translation: up to this share of the output's side, each way in x and y.
      flip: probability of a mirror.
    Colour, drawn uniformly:
      brightness, contrast, saturation: factors in [1 - x, 1 + x]; contrast turns about mid-grey.
      hue: rotation about the grey axis, up to this share of a full turn either way.
      grey: probability of losing all colour.
    Degradations, each with a probability:
      blur, blur_sigma: Gaussian of up to so many pixels.
      noise, noise_std: Gaussian of up to so many grey levels.
      jpeg, jpeg_quality: artefacts of a quality from so much to 95.
      erase, erase_area: one rectangle of 2 % up to this share of the picture, of one random grey.
    """

    box_scale: float = 1.5
    fit: str = "cover"
    margin: float = 0.0
    random_crop: bool = True
    rotation: float = 0.0
    scale: float = 0.0
    translation: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: float = 2.0
    noise: float = 0.0
    noise_std: float = 12.0
    jpeg: float = 0.0
    jpeg_quality: float = 30.0
    erase: float = 0.0
    erase_area: float = 0.2

    def framing_only(self) -> "Params":
        """The same crop without any randomness, for evaluation."""
        return Params(self.box_scale, self.fit, self.margin, random_crop=False)


PRESETS: dict[str, Params] = {
    "none": Params(),
    # EmoFAN's crop of a landmark box: 200/220 of width plus height, that is 1.82 x the mean side.
    "emofan": Params(box_scale=20 / 11, rotation=18, scale=0.15, translation=0.05, flip=0.5),
    # ARBEx's list: resize, scale, rotation, pad, flip, crop of 224 from 256, colour, noise.
    "arbex_heavy": Params(
        margin=32 / 224,
        rotation=15,
        scale=0.15,
        translation=0.04,
        flip=0.5,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.05,
        grey=0.1,
        noise=0.2,
        erase=0.5,
    ),
    "poster": Params(flip=0.5, erase=0.5, erase_area=0.1),
    "vit": Params(
        margin=32 / 224,
        rotation=10,
        scale=0.1,
        flip=0.5,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
    ),
}


def resolve(preset: str, overrides: Mapping[str, Any] | None = None) -> Params:
    """Parameters of a preset with some of them replaced; an override of None is passed over.

    Raises:
      DataError: the preset, a parameter or its value is not known.
    """
    if preset not in PRESETS:
        raise DataError(f"data.augment is {preset!r}; known: {', '.join(PRESETS)}")
    changes = {k: v for k, v in dict(overrides or {}).items() if v is not None}
    names = [f.name for f in dataclasses.fields(Params)]
    for name in changes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
            raise DataError(f"data.augment_overrides has no {name!r}{hint}")
    params = dataclasses.replace(PRESETS[preset], **changes)
    if params.fit not in ("cover", "contain", "stretch"):
        raise DataError(f"augmentation: fit is {params.fit!r}; known: cover, contain, stretch")
    if not 0 <= params.scale < 1 or params.box_scale <= 0 or params.margin < 0:
        raise DataError("augmentation: scale in [0, 1), box_scale > 0 and margin >= 0 are needed")
    return params


# --- Random numbers -------------------------------------------------------------------------

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_DRAWS = (
    *("rotation", "scale", "shift_x", "shift_y", "crop_x", "crop_y", "flip"),
    *("brightness", "contrast", "saturation", "hue", "grey"),
    *("blur", "blur_sigma", "noise", "noise_std", "noise_at", "jpeg", "jpeg_quality"),
    *("erase", "erase_area", "erase_aspect", "erase_x", "erase_y", "erase_level"),
)


def _mix(x: np.ndarray) -> np.ndarray:
    """Finalizer of SplitMix64 (Steele, Lea and Flood, 2014) on uint64 arrays."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, epoch: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on nothing but seed, epoch and index.

    Args:
      seed: any non-negative integer.
      epoch, index: int [n].
      count: how many for each.

    Returns:
      float64 [n, count]; a larger count keeps the first ones.
    """
    words = np.atleast_1d(np.asarray(epoch)), np.atleast_1d(np.asarray(index))
    state = np.full(1, seed & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for word in words:
        state = _mix(state + _GOLDEN) ^ word.astype(np.uint64)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(_mix(state + _GOLDEN)[:, None] + steps[None])
    return (bits >> np.uint64(11)) * 2.0**-53


# --- Framing --------------------------------------------------------------------------------


_KEPT_RESOLUTION = 1.3


class Frame(NamedTuple):
    """The part of a picture that fills the output: centre and sides, pixel edges at integers."""

    x: float
    y: float
    width: float
    height: float

    def touches(self, height: int, width: int) -> bool:
        """Whether any part of a picture of this size is in the frame."""
        across = abs(2 * self.x - width) < self.width + width
        return across and abs(2 * self.y - height) < self.height + height


def frame_of(
    height: int,
    width: int,
    landmarks: np.ndarray | None,
    box: np.ndarray | None,
    params: Params,
    crop: str = "auto",
    crop_scale: float = 0.0,
) -> Frame:
    """The square around landmarks, box or picture.

    Args:
      height, width: of the picture.
      landmarks: float [68, 2] pixels or None; NaN = unknown.
      box: float [4] or None; NaN = unknown.
      params: `box_scale` and `fit` are used.
      crop: `auto` takes landmarks before the box before the whole picture; `landmarks` and `box`
        take only that, or the whole picture where it is missing; `whole`.
      crop_scale: overrides `params.box_scale` unless 0.

    Raises:
      DataError: `crop` is not known.
    """
    if crop not in ("auto", "landmarks", "box", "whole"):
        raise DataError(f"data.crop is {crop!r}; known: auto, landmarks, box, whole")
    edges = None
    if crop in ("auto", "landmarks") and landmarks is not None and np.isfinite(landmarks).any():
        low, high = np.nanmin(landmarks, 0) + 0.5, np.nanmax(landmarks, 0) + 0.5
        edges = (*low.tolist(), *high.tolist())
    elif crop in ("auto", "box") and box is not None and np.isfinite(box).all():
        edges = tuple(box.tolist())
    if edges is not None:
        side = (edges[2] - edges[0] + edges[3] - edges[1]) / 2 * (crop_scale or params.box_scale)
        if side > 0:
            return Frame((edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2, side, side)
    if params.fit == "stretch":
        return Frame(width / 2, height / 2, width, height)
    side = min(height, width) if params.fit == "cover" else max(height, width)
    return Frame(width / 2, height / 2, side, side)


def cut_to_reach(
    image: np.ndarray, landmarks: np.ndarray | None, frame: Frame, params: Params, target: float
) -> tuple[np.ndarray, np.ndarray | None, Frame]:
    """Cuts away what no draw can show and shrinks the rest to 1.3 x the output's resolution.

    Args:
      image, landmarks, frame: of the decoded picture; the frame touches it.
      params: bounds of the augmentation.
      target: pixels of output that the frame's side fills.

    Returns:
      picture, landmarks and frame in the new coordinates; a copy, for keeping.
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


# --- Composed transforms --------------------------------------------------------------------

_LUMA = np.array([0.299, 0.587, 0.114])
_TO_GREY = np.tile(_LUMA, (3, 1))
_CHROMA = np.eye(3) - _TO_GREY
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# A quarter turn of the chroma plane (I, Q), carried over to RGB.
_QUARTER = np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ


class Draws:
    """The random choices for n pictures, drawn together (a few microseconds each).

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
        """float32 [n, 3, 4] on RGB levels, or None where colours stay."""
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
        """float64 [2, 3] from pixels of picture k to pixels of the output."""
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
        """Warps picture k into `out` and alters it as drawn.

        Args:
          k: which of the n draws.
          image: uint8 [H, W, 3] or, for a grey picture, [H, W].
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


_NOISE_STD = 32  # of the bank, in levels about 128
_NOISE_LENGTH = 1 << 20


@functools.cache
def _noise_bank(length: int) -> np.ndarray:
    normals = np.random.Generator(np.random.Philox(key=1)).standard_normal(length, np.float32)
    return (128.5 + _NOISE_STD * normals).clip(1, 255).astype(np.uint8)


def _add_noise(out: np.ndarray, std: float, at: float) -> None:
    """Adds Gaussian noise cut from a fixed bank; drawing 150,000 normals takes a millisecond."""
    bank = _noise_bank(max(_NOISE_LENGTH, 2 * out.size))
    start = int(at * (len(bank) - out.size))
    noise = bank[start : start + out.size].reshape(out.shape)
    share = std / _NOISE_STD
    cv2.addWeighted(out, 1.0, noise, share, -128 * share, dst=out)


def _erase(out: np.ndarray, largest: float, area, aspect, x, y, level) -> None:
    size = out.shape[0]
    side = size * math.sqrt(0.02 + max(largest - 0.02, 0.0) * area)
    stretch = 3.0 ** (aspect - 0.5)  # sides from 1:3 to 3:1
    width = min(max(round(side * stretch), 1), size)
    height = min(max(round(side / stretch), 1), size)
    left, top = int(x * (size - width + 1)), int(y * (size - height + 1))
    out[top : top + height, left : left + width] = int(256 * level)


def move_landmarks(landmarks: np.ndarray, matrix: np.ndarray, flipped: bool) -> np.ndarray:
    """Landmarks under a 2x3 matrix; mirrored ones change sides (float32 [68, 2]).

    `matrix` is the whole transform, mirror included: x maps to W - 1 - x as the pixels do.
    """
    moved = landmarks.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return (moved[FLIP_INDEX] if flipped else moved).astype(np.float32)


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
    """One picture augmented; what the pipeline does for a batch.

    Args:
      image: uint8 [H, W, 3] or [H, W].
      landmarks: float32 [68, 2] pixels, or None.
      box: float32 [4] x0, y0, x1, y1, or None.
      params: see `resolve`.
      size: side of the output.
      seed, epoch, index: all that the random choices depend on.

    Returns:
      uint8 [size, size, 3] and the landmarks on it (None where none were given).
    """
    draws = Draws(params, size, seed, np.array([epoch]), np.array([index]))
    out = np.empty((size, size, 3), np.uint8)
    frame = frame_of(*image.shape[:2], landmarks, box, params)
    matrix = draws.apply(0, image, frame, out)
    if landmarks is None:
        return out, None
    return out, move_landmarks(landmarks, matrix, draws.flip[0])


# --- Contact sheet --------------------------------------------------------------------------


def contact_sheet(
    pictures: Sequence[tuple[np.ndarray, np.ndarray | None]], params: Params, size: int, draws: int
) -> np.ndarray:
    """One row a picture: the evaluation framing, then `draws` draws with their landmarks dotted.

    Args:
      pictures: (uint8 [H, W, 3], landmarks float32 [68, 2] or None).
      params: the augmentation to show.
      size: side of a cell in pixels.
      draws: cells after the first.

    Returns:
      uint8 [rows * size, (1 + draws) * size, 3].
    """
    rows = []
    for index, (image, landmarks) in enumerate(pictures):
        cells = []
        for epoch in range(draws + 1):
            shown = params if epoch else params.framing_only()
            cell, points = augment(
                image, landmarks, params=shown, size=size, epoch=epoch, index=index
            )
            for x, y in points if points is not None else ():
                cv2.circle(cell, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1)
            cells.append(cell)
        rows.append(np.concatenate(cells, 1))
    return np.concatenate(rows, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: writes the contact sheet of a preset."""
    from data_pipelines import decode

    parser = argparse.ArgumentParser("python -m data_pipelines.augment", description=__doc__)
    parser.add_argument("--preset", required=True, choices=sorted(PRESETS))
    parser.add_argument("--output", required=True, help="PNG file to write")
    parser.add_argument("--size", type=int, default=128, help="side of a cell in pixels")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("images", nargs="*", help="default: four synthetic faces")
    options = parser.parse_args(arguments)
    if options.images:
        files = [pathlib.Path(name) for name in options.images]
        pictures = [(decode.decode(file.read_bytes()), None) for file in files]
    else:
        from data_pipelines.synthetic import SyntheticFaces

        faces = SyntheticFaces(64, image_size=256)
        pictures = [(faces[i]["image"], faces[i]["landmarks"]) for i in range(0, 64, 16)]
    sheet = contact_sheet(pictures, PRESETS[options.preset], options.size, options.draws)
    if not cv2.imwrite(options.output, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        parser.error(f"cannot write {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
