"""Light on the skin: a height field of the face, lit in face coordinates and carried to the image.

The field lives on a coarse grid over a canonical face. A picture's pixels find their place on it by
fixed-point iteration through the projection (as in parallax mapping), so shading turns with the head.
"""

import dataclasses

import cv2
import numpy as np

from data_pipelines.rendering import geometry
from data_pipelines.rendering.expressions import AU
from data_pipelines.rendering.geometry import Camera, Levels
from data_pipelines.rendering.identity import Person

GRID = 64
_X = np.linspace(-92.0, 92.0, GRID)
_Y = np.linspace(-125.0, 135.0, GRID)
_DX, _DY = _X[1] - _X[0], _Y[1] - _Y[0]
_GX, _GY = np.meshgrid(_X, _Y)
# Heights of the features on the canonical face; those of a person are mapped to them.
_CANONICAL_LEVELS = np.array([-125.0, 0.0, 50.0, 71.0, 109.0, 135.0])


def _blob(x: float, y: float, sx: float, sy: float, side: int = 0) -> np.ndarray:
    """Gaussian bump; `side` 0 draws it on both sides, else on image left (-1) or right (1)."""
    total = np.zeros_like(_GX)
    for sign in (-1, 1) if side == 0 and x > 0 else (side or 1,):
        total += np.exp(-0.5 * (((_GX - sign * x) / sx) ** 2 + ((_GY - y) / sy) ** 2))
    return total


def _ridge() -> np.ndarray:
    """The nose: a ridge that grows and widens from the bridge to the tip."""
    t = np.clip(_GY / 42.0, -0.2, 1.0)
    width = np.interp(t, [-0.2, 0.2, 1.0], [9.0, 6.0, 8.0])
    height = np.interp(t, [-0.2, 0.0, 0.9, 1.0], [2.0, 5.0, 18.0, 19.0])
    fall = np.where(_GY > 42.0, np.exp(-0.5 * ((_GY - 42.0) / 5.0) ** 2), 1.0)
    rise = np.where(_GY < -8.0, np.exp(-0.5 * ((_GY + 8.0) / 14.0) ** 2), 1.0)
    return height * fall * rise * np.exp(-0.5 * (_GX / width) ** 2)


# Rows: what scales each bump (see `_weights`).
_BASE = (
    geometry.surface(_GX, _GY)
    + 4.5 * _blob(28.0, -19.0, 16.0, 6.0)  # brow ridge
    - 7.5 * _blob(29.0, 0.0, 13.0, 8.0)  # eye sockets
    + 4.0 * _blob(31.0, 1.0, 9.0, 6.0)  # eyeballs
    + 3.0 * _blob(46.0, 26.0, 15.0, 12.0)  # cheekbones
    - 3.0 * _blob(52.0, 62.0, 12.0, 18.0)  # hollow of the cheek
    + 6.0 * _blob(0.0, 71.0, 22.0, 11.0)  # mouth
    + 2.5 * _blob(0.0, 78.0, 12.0, 4.0)
    - 3.0 * _blob(0.0, 87.0, 14.0, 4.0)
    + 7.0 * _blob(0.0, 103.0, 15.0, 9.0)  # chin
    + 4.0 * _blob(13.0, 46.0, 5.0, 5.0)  # wings of the nose
)
_BUMPS = np.stack(
    [
        _ridge(),
        *(_blob(36.0, 30.0, 12.0, 8.0, s) for s in (-1, 1)),  # raised cheek
        *(_blob(30.0, 52.0, 7.0, 12.0, s) for s in (-1, 1)),  # pouch beside the nasolabial fold
        *(_blob(27.0, 68.0, 6.0, 8.0, s) for s in (-1, 1)),  # corner of the mouth drawn in
        _blob(9.0, -20.0, 5.0, 8.0),  # frown
        _blob(0.0, 98.0, 13.0, 7.0),  # chin boss
        _blob(9.0, 20.0, 6.0, 9.0),  # wrinkled nose
    ]
).reshape(10, -1)
_BEARD = np.clip(
    1.25
    * np.exp(-0.5 * np.maximum(np.abs(_GX) - 62.0, 0) ** 2 / 60.0)
    * (
        1
        / (1 + np.exp(-(_GY - 62.0 + 0.35 * (np.abs(_GX) > 40) * (np.abs(_GX) - 40) * -2.2) / 3.5))
    ),
    0.0,
    1.0,
) * np.clip(1 - _blob(0.0, 71.0, 20.0, 7.0) * 1.25, 0, 1)
_BLUSH = np.clip(_blob(44.0, 36.0, 13.0, 11.0) + 0.8 * _blob(0.0, 42.0, 10.0, 7.0), 0, 1)


@dataclasses.dataclass(frozen=True)
class Light:
    """Directions are unit vectors towards the light in camera coordinates, colours RGB near 1."""

    key: np.ndarray
    colour: np.ndarray
    ambient: np.ndarray
    strength: float
    gloss: float


def _weights(person: Person, au: np.ndarray) -> np.ndarray:
    cheek = 6.0 * au[AU[6]] + 4.0 * au[AU[12]] + person.cheek
    pouch = 3.5 * au[AU[12]] + 3.0 * au[AU[10]] + 2.5 * au[AU[9]] + 1.5 * person.wrinkles
    corner = -5.0 * au[AU[14]] - 1.5 * au[AU[12]]
    frown = 4.0 * au[AU[4]].mean() + 3.0 * au[AU[9]].mean()
    boss = 4.0 * au[AU[17]].mean()
    wrinkle = 3.0 * au[AU[9]].mean()
    return np.array([person.nose_height, *cheek, *pouch, *corner, frown, boss, wrinkle], np.float32)


_BASE32 = _BASE.astype(np.float32)
_BUMPS32 = _BUMPS.astype(np.float32)
_TEXTURE = np.stack([_BEARD, _BLUSH], axis=-1).astype(np.float32)


def skin(
    person: Person, au: np.ndarray, level: Levels, camera: Camera, light: Light, size: int
) -> np.ndarray:
    """Brightness of the head on a coarse picture: float32 [size / 2, size / 2, 3], 1 = the albedo."""
    height = _BASE32 + (_weights(person, au) @ _BUMPS32).reshape(GRID, GRID)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / (8 * _DX))
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / (8 * _DY))
    rotation = camera.rotation
    lx, ly, lz = (rotation.T @ light.key).tolist()
    hx, hy, hz = (rotation.T @ _half_way(light.key)).tolist()
    norm = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
    facing = (lz - lx * slope_x - ly * slope_y) * norm
    gleam = np.maximum((hz - hx * slope_x - hy * slope_y) * norm, 0.0)
    gleam *= gleam
    gleam *= gleam
    gleam *= gleam
    gleam *= gleam
    # Wrapped diffuse light: skin scatters, so its shadows begin late and are soft.
    facing = np.maximum(0.72 * facing + 0.28, 0.0)
    field = cv2.merge([facing, gleam, norm, *cv2.split(_TEXTURE)])

    map_x, map_y = _face_coordinates(person, level, camera, height, size)
    facing, gleam, rim, beard, blush = cv2.split(
        cv2.remap(field[..., :4], map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    ) + (cv2.remap(field[..., 4], map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),)
    gloss = light.gloss * 130.0 / max(60.0, float(person.skin.mean()))
    direct = light.strength * facing + gloss * gleam
    around = 0.62 + 0.38 * rim
    beard = beard * (0.9 * person.beard)
    tint = person.hair * 0.55 / np.maximum(person.skin, 40.0)
    redness = np.array([0.03, -0.10, -0.08]) * (0.7 + 0.5 * person.make_up)
    out = np.empty((*facing.shape, 3), np.float32)
    for c in range(3):
        shade = light.colour[c] * direct + light.ambient[c] * around
        out[..., c] = shade * (1.0 - beard * (1.0 - tint[c])) * (1.0 + redness[c] * blush)
    return out


def _half_way(key: np.ndarray) -> np.ndarray:
    half = key + np.array([0.0, 0.0, 1.0])
    return half / np.linalg.norm(half)


def _face_coordinates(
    person: Person, level: Levels, camera: Camera, height: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of the coarse picture lie on the grid of the height field."""
    coarse = size // 2
    rotation = camera.rotation.astype(np.float32)
    ticks = 2.0 * np.arange(coarse, dtype=np.float32) + 0.5
    px = (ticks - camera.centre[0]) / camera.scale
    py = (ticks - camera.centre[1]) / camera.scale + 22.0
    px, py = np.broadcast_arrays(px[None, :], py[:, None])
    inverse = np.linalg.inv(rotation[:2, :2])
    pivot = geometry.PIVOT.astype(np.float32)
    own = np.array(
        [-125.0, 0.0, level.nose, level.mouth + 0.4 * level.jaw_drop, level.chin, level.chin + 26.0]
    )
    # One line per grid row replaces an interpolation per pixel.
    table = np.interp(np.arange(-130.0, 170.0), own, _CANONICAL_LEVELS).astype(np.float32)
    table = np.tile((table - np.float32(_Y[0])) / np.float32(_DY), (3, 1))
    middle_row = np.ones((coarse, coarse), np.float32)
    z = np.float32(0.0)
    depth = np.full((coarse, coarse), -10.0, np.float32)
    scale_x = np.float32(1.0 / (person.head_width * _DX))
    for step in range(4):
        turned_z = rotation[2, 2] * (depth - pivot[2]) + pivot[2]
        shrink = (camera.distance - turned_z) / camera.distance
        rest = depth - pivot[2]
        qx = px * shrink - rotation[0, 2] * rest
        qy = py * shrink - pivot[1] - rotation[1, 2] * rest
        x = inverse[0, 0] * qx + inverse[0, 1] * qy
        y = inverse[1, 0] * qx + inverse[1, 1] * qy + (pivot[1] + 130.0)
        map_x = x * scale_x + np.float32(-_X[0] / _DX)
        map_y = cv2.remap(table, y, middle_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found = cv2.remap(height, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        depth = np.float32(0.35) * depth + np.float32(0.65) * found if step else found
    return map_x, map_y
