"""Light on the skin: a height field of the face, lit in face coordinates and carried to the image.

The field lives on a coarse grid over a canonical face. A picture's pixels find their place on it by
fixed-point iteration through the projection (as in parallax mapping), so shading turns with the
head.
"""

import dataclasses
import functools
import math

import cv2
import numpy as np

from data_pipelines.rendering import geometry
from data_pipelines.rendering.expressions import Muscles
from data_pipelines.rendering.geometry import Camera, Levels
from data_pipelines.rendering.identity import Person

GRID = 64
_X = np.linspace(-92.0, 92.0, GRID)
_Y = np.linspace(-125.0, 135.0, GRID)
_DX, _DY = float(_X[1] - _X[0]), float(_Y[1] - _Y[0])
_GX, _GY = np.meshgrid(_X, _Y)
# Heights of the features on the canonical face; those of a person are mapped to them.
_CANONICAL_LEVELS = np.array([-125.0, 0.0, 50.0, 71.0, 109.0, 135.0])


def _blob(x: float, y: float, sx: float, sy: float, side: int = 0) -> np.ndarray:
    """Gaussian bump at (x, y); `side` -1 or 1 draws one of a pair, 0 both."""
    signs = (1,) if x == 0 else (-1, 1) if side == 0 else (side,)
    return sum(np.exp(-0.5 * (((_GX - s * x) / sx) ** 2 + ((_GY - y) / sy) ** 2)) for s in signs)


def _ridge() -> np.ndarray:
    """The nose: a ridge that grows from the bridge to the tip, with wings."""
    t = np.clip(_GY / 42.0, -0.2, 1.0)
    width = np.interp(t, [-0.2, 0.2, 0.6, 1.0], [9.0, 5.5, 6.5, 8.5])
    height = np.interp(t, [-0.2, 0.0, 0.85, 1.0], [3.0, 6.0, 22.0, 24.0])
    fall = np.where(_GY > 43.0, np.exp(-0.5 * ((_GY - 43.0) / 4.5) ** 2), 1.0)
    rise = np.where(_GY < -8.0, np.exp(-0.5 * ((_GY + 8.0) / 14.0) ** 2), 1.0)
    ridge = height * fall * rise * np.exp(-0.5 * (_GX / width) ** 2)
    return ridge + 5.0 * _blob(13.0, 46.0, 4.5, 4.5)


def _beard() -> np.ndarray:
    """Where a beard grows: chin, jaw and upper lip, up to the sideburns, not the lips."""
    border = 64.0 - 1.6 * np.maximum(np.abs(_GX) - 42.0, 0.0) + 14.0 * _blob(26.0, 62.0, 10.0, 20.0)
    region = 1.0 / (1.0 + np.exp(-(_GY - border) / 3.0))
    lips = np.clip(1.5 * _blob(0.0, 72.0, 17.0, 6.0), 0.0, 1.0)
    neck = 1.0 / (1.0 + np.exp(-(_GY - 116.0) / 2.5))
    return region * (1.0 - lips) * (1.0 - neck)


_BASE = (
    geometry.surface(_GX, _GY)
    + 5.0 * _blob(27.0, -19.0, 16.0, 6.0)  # brow ridge
    - 8.0 * _blob(29.0, 0.0, 13.0, 8.0)  # eye sockets
    + 4.5 * _blob(31.0, 1.0, 9.0, 6.0)  # eyeballs
    + 4.0 * _blob(46.0, 24.0, 13.0, 11.0)  # cheekbones
    - 4.0 * _blob(50.0, 60.0, 11.0, 16.0)  # hollow of the cheek
    + 6.5 * _blob(0.0, 71.0, 22.0, 11.0)  # mouth
    + 3.0 * _blob(0.0, 78.0, 12.0, 4.0)
    - 1.6 * _blob(0.0, 60.0, 2.5, 6.0)  # groove above the lip
    - 3.5 * _blob(0.0, 87.0, 14.0, 4.0)
    + 7.0 * _blob(0.0, 103.0, 15.0, 9.0)  # chin
).astype(np.float32)
_BUMPS = (
    np.stack(
        [
            _ridge(),
            *(_blob(36.0, 30.0, 12.0, 8.0, s) for s in (-1, 1)),  # raised cheek
            *(_blob(31.0, 52.0, 7.0, 12.0, s) for s in (-1, 1)),  # pouch beside the nasolabial fold
            *(_blob(28.0, 68.0, 5.0, 8.0, s) for s in (-1, 1)),  # corner of the mouth drawn in
            _blob(8.0, -20.0, 4.5, 8.0),  # frown
            _blob(0.0, 98.0, 13.0, 7.0),  # chin boss
            _blob(9.0, 20.0, 6.0, 9.0),  # wrinkled nose
        ]
    )
    .reshape(10, -1)
    .astype(np.float32)
)
# Arithmetic on denormal numbers is many times slower.
_BUMPS[np.abs(_BUMPS) < 1e-20] = 0.0
_BEARD = cv2.merge([_beard().astype(np.float32)] * 3)
# Cheeks and the tip of the nose reflect less green and blue.
_BLUSH = np.clip(_blob(44.0, 36.0, 13.0, 11.0) + 0.8 * _blob(0.0, 42.0, 10.0, 7.0), 0, 1)
_BLUSHED = (1.0 - _BLUSH[..., None] * [0.0, 0.09, 0.07]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Light:
    """`key` is a unit vector towards the light in camera coordinates, colours are RGB near 1."""

    key: np.ndarray
    colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    strength: float
    gloss: float


def _weights(person: Person, muscles: Muscles) -> np.ndarray:
    """Heights of the bumps in millimetres, in the order of `_BUMPS`."""
    halves, mean = (muscles.left, muscles.right), muscles.mean
    return np.array(
        [
            person.nose_height,
            *(6.5 * m[6] + 4.0 * m[12] + person.cheek for m in halves),
            *(4.0 * m[12] + 4.5 * m[10] + 3.0 * m[9] + 1.5 * person.wrinkles for m in halves),
            *(-6.0 * m[14] - 1.5 * m[12] for m in halves),
            5.0 * mean[4] + 3.0 * mean[9],
            5.0 * mean[17],
            3.5 * mean[9],
        ],
        np.float32,
    )


def _sample(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def skin(
    person: Person, muscles: Muscles, level: Levels, camera: Camera, light: Light, size: int
) -> np.ndarray:
    """Brightness of the head on a coarse picture, uint8 [size / 2, size / 2, 4]; 128 = albedo.

    The last channel means nothing: OpenCV resamples four channels faster than three.
    """
    height = _BASE + (_weights(person, muscles) @ _BUMPS).reshape(GRID, GRID)
    height = _at_own_levels(height, level)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * _DX))
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * _DY))
    x, y, z = light.key.tolist()
    length = math.sqrt(x * x + y * y + (z + 1.0) * (z + 1.0))
    towards = np.array([(x, y, z), (x / length, y / length, (z + 1.0) / length)])
    (lx, ly, lz), (hx, hy, hz) = (towards @ camera.rotation).tolist()
    rim = slope_x * slope_x
    rim += slope_y * slope_y
    rim += 1.0
    cv2.pow(rim, -0.5, rim)
    facing = lz - lx * slope_x - ly * slope_y
    facing *= rim
    gleam = hz - hx * slope_x - hy * slope_y
    gleam *= rim
    cv2.max(gleam, 0.01, gleam)  # above 0: nothing gleams less, and no number gets denormal
    cv2.pow(gleam, 16, gleam)
    # Wrapped diffuse light: skin scatters, so its shadows begin late and are soft.
    facing *= 0.72
    facing += 0.28
    cv2.max(facing, 0.0, facing)
    gloss = light.gloss * 130.0 / max(60.0, sum(person.skin) / 3)
    mixing = np.array(
        [
            (light.strength * c, gloss * c, 0.40 * a, 0.60 * a)
            for c, a in zip(light.colour, light.ambient, strict=True)
        ],
        np.float32,
    )
    field = cv2.transform(cv2.merge([facing, gleam, rim]), mixing)
    cv2.multiply(field, _BLUSHED, field)
    if person.beard > 0:
        parts = [
            0.9 * person.beard * (1.0 - 0.6 * h / max(s, 40.0))
            for h, s in zip(person.hair, person.skin, strict=True)
        ]
        kept = np.column_stack([np.diag(parts), [-1.0] * 3]).astype(np.float32)
        cv2.multiply(field, cv2.transform(_BEARD, -kept), field)
    field = cv2.cvtColor(cv2.convertScaleAbs(field, alpha=128), cv2.COLOR_RGB2RGBA)
    return _sample(field, *_face_coordinates(person, camera, height, size))


def _at_own_levels(height: np.ndarray, level: Levels) -> np.ndarray:
    """The canonical height field with its rows moved to the levels of a face."""
    mouth = level.mouth + 0.4 * level.jaw_drop
    own = [-125.0, 0.0, level.nose, mouth, level.chin, level.chin + 26.0]
    rows = (np.interp(_Y, own, _CANONICAL_LEVELS) - _Y[0]) / _DY
    above = np.minimum(rows.astype(int), GRID - 2)
    part = (rows - above).astype(np.float32)[:, None]
    upper, lower = height[above], height[above + 1]
    lower -= upper
    lower *= part
    return cv2.add(upper, lower)


@functools.lru_cache(maxsize=16)
def _pixels(count: int, size: int) -> np.ndarray:
    """(1, x, y) of `count` by `count` coarse pixels, in pixels of the picture: float32 [3, n]."""
    step = size / count
    ticks = step * np.arange(count) + (step - 1) / 2
    x, y = np.meshgrid(ticks, ticks)
    return np.stack([np.ones_like(x), x, y]).reshape(3, -1).astype(np.float32)


def _face_coordinates(
    person: Person, camera: Camera, height: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of the coarse picture lie on the grid of the height field.

    A pixel's ray meets the face at grid place `depth * slope + start` in x and in y, if the skin
    there has that depth; so look the depth up at the place, and again at the place it gives.
    """
    (r00, r01, r02), (r10, r11, r12), (_, _, r22) = camera.rotation.tolist()
    _, py, pz = geometry.PIVOT.tolist()
    # From pixels (1, x, y) to places on the grid: at the depth of the origin, without perspective.
    determinant = r00 * r11 - r01 * r10
    wide, tall = determinant * person.head_width * _DX, determinant * _DY
    inverse = np.array([(r11 / wide, -r01 / wide), (-r10 / tall, r00 / tall)])
    (centre_x, centre_y), scale = camera.centre, camera.scale
    places = inverse @ [
        (-centre_x / scale, 1.0 / scale, 0.0),
        (geometry.LOOK_AT - centre_y / scale, 0.0, 1.0 / scale),
    ]
    # Perspective: a ray's distance from the axis shrinks by near * depth + far.
    near, far = -r22 / camera.distance, 1.0 - (pz - r22 * pz) / camera.distance
    slide = -(inverse @ (r02, r12))
    slopes, starts = near * places, far * places
    slopes[:, 0] += slide
    starts[:, 0] += (0.0, py / _DY) - slide * pz - inverse[:, 1] * py - (_X[0] / _DX, _Y[0] / _DY)
    planes = np.concatenate([slopes, starts]).astype(np.float32)

    def rays(count: int) -> np.ndarray:
        """Slope in x and y, start in x and y: float32 [4, count, count]."""
        return (planes @ _pixels(count, size)).reshape(4, count, count)

    slope_x, slope_y, start_x, start_y = rays(size // 4)
    depth = _sample(height, start_x - 10.0 * slope_x, start_y - 10.0 * slope_y)
    for _ in range(2):
        found = _sample(height, depth * slope_x + start_x, depth * slope_y + start_y)
        depth = cv2.addWeighted(depth, 0.35, found, 0.65, 0.0)
    slope_x, slope_y, start_x, start_y = rays(size // 2)
    depth = cv2.resize(depth, start_x.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return depth * slope_x + start_x, depth * slope_y + start_y
