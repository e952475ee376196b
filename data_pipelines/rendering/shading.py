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
_COLUMNS = np.tile(np.arange(GRID, dtype=np.float32), (GRID, 1))
_BEARD = _beard().astype(np.float32)
# Cheeks and the tip of the nose reflect less green and blue.
_BLUSH = np.clip(_blob(44.0, 36.0, 13.0, 11.0) + 0.8 * _blob(0.0, 42.0, 10.0, 7.0), 0, 1)
_BLUSHED = (1.0 - _BLUSH[..., None] * [0.0, 0.09, 0.07, 0.0]).astype(np.float32)


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

    The last channel means nothing: OpenCV moves four channels faster than three.
    """
    height = _BASE + (_weights(person, muscles) @ _BUMPS).reshape(GRID, GRID)
    height = _sample(height, _COLUMNS, _own_rows(level))
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
    mixing = np.zeros((4, 4), np.float32)
    mixing[:3] = [
        (light.strength * c, gloss * c, 0.40 * a, 0.60 * a)
        for c, a in zip(light.colour, light.ambient, strict=True)
    ]
    field = cv2.transform(cv2.merge([facing, gleam, rim]), mixing)
    cv2.multiply(field, _BLUSHED, field)
    if person.beard > 0:
        parts = [
            0.9 * person.beard * (1.0 - 0.6 * h / max(s, 40.0))
            for h, s in zip(person.hair, person.skin, strict=True)
        ]
        kept = np.array([(-part, 1.0) for part in (*parts, 0.0)], np.float32)
        cv2.multiply(field, cv2.transform(_BEARD, kept), field)
    field = cv2.convertScaleAbs(field, alpha=128)
    return _sample(field, *_face_coordinates(person, camera, height, size))


def _own_rows(level: Levels) -> np.ndarray:
    """Canonical row for each row of a face with these levels, float32 [GRID, GRID]."""
    mouth = level.mouth + 0.4 * level.jaw_drop
    own = [-125.0, 0.0, level.nose, mouth, level.chin, level.chin + 26.0]
    rows = (np.interp(_Y, own, _CANONICAL_LEVELS) - _Y[0]) / _DY
    return np.repeat(rows.astype(np.float32)[:, None], GRID, axis=1)


@functools.cache
def _ticks(count: int, size: int) -> np.ndarray:
    """Centres of `count` coarse pixels across the picture, in its pixels: float32 [count]."""
    step = size / count
    return (step * np.arange(count) + (step - 1) / 2).astype(np.float32)


def _face_coordinates(
    person: Person, camera: Camera, height: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of the coarse picture lie on the grid of the height field.

    A pixel's ray meets the face at grid place `depth * slope + start` in x and in y, if the skin
    there has that depth; so look the depth up at the place, and again at the place it gives.
    """
    (r00, r01, r02), (r10, r11, r12), (_, _, r22) = camera.rotation.tolist()
    _, py, pz = geometry.PIVOT.tolist()
    # (a, b, c, d): inverse of the rotation's upper left block, in grid steps.
    determinant = r00 * r11 - r01 * r10
    wide, tall = determinant * person.head_width * _DX, determinant * _DY
    a, b, c, d = r11 / wide, -r01 / wide, -r10 / tall, r00 / tall
    # Perspective: a ray's distance from the axis shrinks by near * depth + far.
    near, far = -r22 / camera.distance, 1.0 - (pz - r22 * pz) / camera.distance
    slide_x, slide_y = -(a * r02 + b * r12), -(c * r02 + d * r12)
    shift_x = -slide_x * pz - b * py - float(_X[0]) / _DX
    shift_y = -slide_y * pz - d * py + (py - float(_Y[0])) / _DY

    # Columns: slope and start in x, slope and start in y; rows: per millimetre, and at the axis.
    along_x = np.array(
        [(near * a, far * a, near * c, far * c), (slide_x, shift_x, slide_y, shift_y)], np.float32
    )
    along_y = np.array([near * b, far * b, near * d, far * d], np.float32)

    def rays(count: int) -> np.ndarray:
        """Slope and start in x, slope and start in y, float32 [4, count, count]."""
        ticks = _ticks(count, size)
        qx = (ticks - camera.centre[0]) / camera.scale
        qy = (ticks - camera.centre[1]) / camera.scale + geometry.LOOK_AT
        across = np.multiply.outer(along_x[0], qx) + along_x[1][:, None]
        return across[:, None] + np.multiply.outer(along_y, qy)[..., None]

    slope_x, start_x, slope_y, start_y = rays(size // 4)
    depth = _sample(height, start_x - 10.0 * slope_x, start_y - 10.0 * slope_y)
    for _ in range(2):
        found = _sample(height, depth * slope_x + start_x, depth * slope_y + start_y)
        depth = cv2.addWeighted(depth, 0.35, found, 0.65, 0.0)
    slope_x, start_x, slope_y, start_y = rays(size // 2)
    depth = cv2.resize(depth, start_x.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return depth * slope_x + start_x, depth * slope_y + start_y
