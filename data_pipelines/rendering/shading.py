"""Light on the skin: a height field of the face, lit and mapped to the image.

The field lives on a coarse grid over a canonical face. An image's pixels find their place on it by
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
_INDEX = np.arange(GRID, dtype=np.float32)
# Heights of the features on the canonical face; a person's are mapped to them.
_CANONICAL_LEVELS = np.array([-125.0, 0.0, 50.0, 71.0, 109.0, 135.0])


def _profile(at: np.ndarray, centre: float, spread: float) -> np.ndarray:
    return np.exp(-0.5 * ((at - centre) / spread) ** 2)


def _pair(x: float, spread: float, side: int = 0) -> np.ndarray:
    """Return the profile of a bump at x and its mirror; one if `side` is -1 or 1."""
    signs = (1,) if x == 0 else (-1, 1) if side == 0 else (side,)
    return np.sum([_profile(_X, sign * x, spread) for sign in signs], axis=0)


def _blob(x: float, y: float, sx: float, sy: float) -> np.ndarray:
    """Return a Gaussian bump at (x, y) and its mirror image."""
    return np.outer(_profile(_Y, y, sy), _pair(x, sx))


def _ridge() -> np.ndarray:
    """Return the nose: a ridge that grows from the bridge to the tip, with wings."""
    t = np.clip(_GY / 42.0, -0.2, 1.0)
    width = np.interp(t, [-0.2, 0.2, 0.6, 1.0], [9.0, 5.5, 6.5, 8.5])
    height = np.interp(t, [-0.2, 0.0, 0.85, 1.0], [3.0, 6.0, 22.0, 24.0])
    fall = np.where(_GY > 43.0, np.exp(-0.5 * ((_GY - 43.0) / 4.5) ** 2), 1.0)
    rise = np.where(_GY < -8.0, np.exp(-0.5 * ((_GY + 8.0) / 14.0) ** 2), 1.0)
    ridge = height * fall * rise * np.exp(-0.5 * (_GX / width) ** 2)
    return ridge + 5.0 * _blob(13.0, 46.0, 4.5, 4.5)


def _beard() -> np.ndarray:
    """Return where a beard grows: chin, jaw and upper lip up to the sideburns."""
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
_NOSE = _ridge().astype(np.float32)
# What muscles raise or lower by `_weights`, as arguments of `_blob`.
_BUMPS = (
    *((36.0, 30.0, 12.0, 8.0, s) for s in (-1, 1)),  # raised cheek
    *((31.0, 52.0, 7.0, 12.0, s) for s in (-1, 1)),  # pouch at the nasolabial fold
    *((28.0, 68.0, 5.0, 8.0, s) for s in (-1, 1)),  # corner of the mouth drawn in
    (8.0, -20.0, 4.5, 8.0, 0),  # frown
    (0.0, 98.0, 13.0, 7.0, 0),  # chin boss
    (9.0, 20.0, 6.0, 9.0, 0),  # wrinkled nose
)
# A blob is a profile down [rows, bumps] times a profile across [bumps, columns].
_DOWN = np.stack([_profile(_Y, y, sy) for _, y, _, sy, _ in _BUMPS], axis=1).astype(np.float32)
_ACROSS = np.stack([_pair(x, sx, side) for x, _, sx, _, side in _BUMPS]).astype(np.float32)
# Arithmetic on denormal numbers is many times slower.
for _field, _least in ((_NOSE, 1e-20), (_DOWN, 1e-10), (_ACROSS, 1e-10)):
    _field[np.abs(_field) < _least] = 0.0
_BEARD = _beard().astype(np.float32)
# Cheeks and the tip of the nose reflect less green and blue.
_BLUSH = np.clip(_blob(44.0, 36.0, 13.0, 11.0) + 0.8 * _blob(0.0, 42.0, 10.0, 7.0), 0, 1)
_BLUSHED = (1.0 - _BLUSH.reshape(-1, 1) * [0.0, 0.09, 0.07, 0.0]).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Light:
    """A lamp: `key` is a unit vector to it in camera coordinates, with its colours.

    Colours are RGB near 1.
    """

    key: np.ndarray
    colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    strength: float
    gloss: float


def _weights(person: Person, muscles: Muscles) -> np.ndarray:
    """Return the heights of the bumps in millimetres, in the order of `_BUMPS`."""
    halves, mean = (muscles.left, muscles.right), muscles.mean
    return np.array(
        [
            *(6.5 * m[6] + 4.0 * m[12] + person.cheek for m in halves),
            *(4.0 * m[12] + 4.5 * m[10] + 3.0 * m[9] + 1.5 * person.wrinkles for m in halves),
            *(-6.0 * m[14] - 1.5 * m[12] for m in halves),
            5.0 * mean[4] + 3.0 * mean[9],
            5.0 * mean[17],
            3.5 * mean[9],
        ],
        np.float32,
    )


def _sample(field: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sample a field at places [2, n, n] (x, then y); edges repeat outwards."""
    x, y = places
    return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def skin(
    person: Person, muscles: Muscles, level: Levels, camera: Camera, light: Light, size: int
) -> np.ndarray:
    """Return the light on the head, uint8 [size / 2, size / 2, 4]; 128 = albedo.

    The last channel means nothing: OpenCV resamples four channels faster than three.
    """
    height = _NOSE * person.nose_height
    height += _BASE
    height += (_DOWN * _weights(person, muscles)) @ _ACROSS
    height = _to_own_levels(level) @ height
    slopes = np.empty((3, GRID, GRID), np.float32)
    slopes[2] = 1.0
    # Sobel's operators.
    edged = cv2.copyMakeBorder(height, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
    across, down = edged[:, 2:] - edged[:, :-2], edged[2:] - edged[:-2]
    across *= 1 / (8 * _DX)
    down *= 1 / (8 * _DY)
    np.add(across[:-2], across[2:], out=slopes[0])
    np.add(down[:, :-2], down[:, 2:], out=slopes[1])
    slopes[0] += 2.0 * across[1:-1]
    slopes[1] += 2.0 * down[:, 1:-1]
    # Diffuse light, gleam, light from around, and ambient light.
    lights = np.empty((4, GRID, GRID), np.float32)
    lights[3] = 1.0
    diffuse, gleam, rim, _ = lights
    np.matmul(_facing(camera, light), slopes.reshape(3, -1), out=lights[:2].reshape(2, -1))
    np.multiply(slopes[:2], slopes[:2], out=slopes[:2])
    np.add(slopes[0], slopes[1], out=rim)
    rim += 1.0
    cv2.pow(rim, -0.5, rim)
    lights[:2] *= rim
    # Wrapped diffuse light: skin scatters, so its shadows begin late and are soft.
    diffuse *= 0.72
    diffuse += 0.28
    np.maximum(diffuse, 0.0, out=diffuse)
    np.maximum(gleam, 0.01, out=gleam)  # nothing gleams less: no number gets denormal
    cv2.pow(gleam, 16, gleam)
    gloss = light.gloss * 130.0 / max(60.0, sum(person.skin) / 3)
    mixing = np.array(
        [
            (light.strength * c, gloss * c, 0.40 * a, 0.60 * a)
            for c, a in zip((*light.colour, 0.0), (*light.ambient, 0.0), strict=True)
        ],
        np.float32,
    )
    field = lights.reshape(4, -1).T @ mixing.T
    field *= _BLUSHED
    field = field.reshape(GRID, GRID, 4)
    if person.beard > 0:
        kept = [
            (-0.9 * person.beard * (1.0 - 0.6 * h / max(s, 40.0)), 1.0)
            for h, s in zip((*person.hair, 0.0), (*person.skin, 0.0), strict=True)
        ]
        cv2.multiply(field, cv2.transform(_BEARD, np.array(kept, np.float32)), field)
    light_map = cv2.convertScaleAbs(field, alpha=128)
    # OpenCV samples much faster what lies inside: keep places there, with one more row and column.
    places = _face_coordinates(person, camera, height, size)
    np.maximum(places, 0.0, out=places)
    np.minimum(places, GRID - 1.0, out=places)
    return _sample(cv2.copyMakeBorder(light_map, 0, 1, 0, 1, cv2.BORDER_REPLICATE), places)


def _facing(camera: Camera, light: Light) -> np.ndarray:
    """Return weights [2, 3] of the slopes in x and y and of 1.

    They give how far the skin faces the light, and the direction halfway to the camera.
    """
    x, y, z = light.key.tolist()
    length = math.sqrt(x * x + y * y + (z + 1.0) * (z + 1.0))
    towards = np.array([(x, y, z), (x / length, y / length, (z + 1.0) / length)])
    return (towards @ camera.rotation * (-1.0, -1.0, 1.0)).astype(np.float32)


def _to_own_levels(level: Levels) -> np.ndarray:
    """Return the [rows, rows] matrix from the canonical height field to a face."""
    mouth = level.mouth + 0.4 * level.jaw_drop
    own = [-125.0, 0.0, level.nose, mouth, level.chin, level.chin + 26.0]
    rows = (np.interp(_Y, own, _CANONICAL_LEVELS) - _Y[0]) / _DY
    # Between two rows linearly: weights fall to 0 at a distance of one row.
    weights = rows.astype(np.float32)[:, None] - _INDEX
    np.abs(weights, out=weights)
    np.subtract(1.0, weights, out=weights)
    return np.maximum(weights, 0.0, out=weights)


@functools.lru_cache(maxsize=16)
def _pixels(count: int, size: int) -> np.ndarray:
    """Return (1, x, y) of count x count coarse pixels in the image, float32 [3, n]."""
    step = size / count
    ticks = step * np.arange(count) + (step - 1) / 2
    x, y = np.meshgrid(ticks, ticks)
    return np.stack([np.ones_like(x), x, y]).reshape(3, -1).astype(np.float32)


def _face_coordinates(person: Person, camera: Camera, height: np.ndarray, size: int) -> np.ndarray:
    """Return the places of the coarse image's pixels on the height field, [2, n, n].

    A pixel's ray meets the face at grid place `depth * slope + start` in x and in y, if the skin
    there has that depth; so look the depth up at the place, and again at the place it gives.
    """
    (r00, r01, r02), (r10, r11, r12), (_, _, r22) = camera.rotation.tolist()
    _, py, pz = geometry.PIVOT.tolist()
    (centre_x, centre_y), scale = camera.centre, camera.scale
    # Perspective: a ray's distance from the axis shrinks by near * depth + far.
    near, far = -r22 / camera.distance, 1.0 - (pz - r22 * pz) / camera.distance
    determinant = r00 * r11 - r01 * r10
    wide, tall = determinant * person.head_width * _DX, determinant * _DY
    slopes, starts = [], []
    for to_x, to_y, origin in (
        (r11 / wide, -r01 / wide, _X[0] / _DX),
        (-r10 / tall, r00 / tall, (_Y[0] - py) / _DY),
    ):
        # From pixels (1, x, y) to the grid: at the depth of the origin, without perspective.
        fixed = to_y * geometry.LOOK_AT - (to_x * centre_x + to_y * centre_y) / scale
        per_x, per_y = to_x / scale, to_y / scale
        slide = -(to_x * r02 + to_y * r12)
        slopes.append((near * fixed + slide, near * per_x, near * per_y))
        starts.append((far * fixed - slide * pz - to_y * py - origin, far * per_x, far * per_y))
    planes = np.array(slopes + starts, np.float32)

    def rays(count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return slopes and starts of x and y: float32 [2, count, count] each."""
        found = (planes @ _pixels(count, size)).reshape(4, count, count)
        return found[:2], found[2:]

    slope, start = rays(size // 4)
    depth = _sample(height, start - 10.0 * slope)
    for _ in range(2):
        found = _sample(height, depth * slope + start)
        depth = cv2.addWeighted(depth, 0.35, found, 0.65, 0.0)
    slope, start = rays(size // 2)
    depth = cv2.resize(depth, slope.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
    slope *= depth
    slope += start
    return slope
