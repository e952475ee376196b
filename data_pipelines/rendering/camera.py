"""Camera effects: focus, sensor, compression, and a second camera."""

import dataclasses
import functools

import cv2
import numpy as np

from data_pipelines.rendering import hashing


@dataclasses.dataclass(frozen=True)
class Sensor:
    """Settings of the camera for one image; lengths are for 128 pixels, 0 is off."""

    blur: float
    noise: float
    jpeg_quality: int
    gains: tuple[float, float, float]
    offset: float
    shrink: float


@functools.cache
def _noise_tile() -> np.ndarray:
    """Return 128 + 32 x unit normal noise, uint8 [256, 256, 3], to cut from."""
    values = hashing.to_normals(hashing.uniforms(hashing.fold(np.arange(512), 77), 384))
    return np.clip(np.round(128 + 32 * values), 0, 255).astype(np.uint8).reshape(256, 256, 3)


def draw(u: list[float], shifted: bool) -> Sensor:
    """Return sensor settings from 8 uniform numbers; `shifted` is the second camera."""
    if not shifted:
        return Sensor(
            blur=max(0.0, 1.1 * u[0] - 0.45),
            noise=1.0 + 5.0 * u[1] ** 2,
            jpeg_quality=int(35 + 60 * u[3]) if u[2] < 0.3 else 0,
            gains=(1.0 + 0.06 * (u[4] - 0.5), 1.0, 1.0 + 0.06 * (u[5] - 0.5)),
            offset=0.0,
            shrink=1.0,
        )
    return Sensor(
        blur=0.4 + 0.6 * u[0],
        noise=5.0 + 9.0 * u[1],
        jpeg_quality=int(22 + 30 * u[3]),
        gains=(0.80 + 0.08 * u[4], 0.92, 1.0 + 0.1 * u[5]),
        offset=10.0 + 12.0 * u[6],
        shrink=0.5 + 0.25 * u[7],
    )


def expose(image: np.ndarray, sensor: Sensor, grain_x: float, grain_y: float) -> np.ndarray:
    """Return the image after lens, sensor and compression: uint8 [H, W, 3].

    `grain_x` and `grain_y` in (0, 1) choose the frame's noise.
    """
    size = image.shape[0]
    if sensor.shrink < 1.0:
        small = max(8, int(size * sensor.shrink))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    if sensor.blur > 0.05:
        image = cv2.GaussianBlur(image, (0, 0), sensor.blur * size / 128)
    if sensor.offset or sensor.gains != (1.0, 1.0, 1.0):
        (red, green, blue), offset = sensor.gains, sensor.offset
        matrix = [(red, 0, 0, offset), (0, green, 0, offset), (0, 0, blue, offset)]
        image = cv2.transform(image, np.array(matrix, np.float32))
    if sensor.noise > 0:
        tile = _noise_tile()
        if size > 256:
            tile = np.tile(tile, (size // 256 + 1, size // 256 + 1, 1))
        room_y, room_x = tile.shape[0] - size, tile.shape[1] - size
        top, left = int(grain_y * (room_y + 1)), int(grain_x * (room_x + 1))
        grain = tile[top : top + size, left : left + size]
        strength = sensor.noise / 32.0
        image = cv2.addWeighted(image, 1.0, grain, strength, -128.0 * strength)
    if sensor.jpeg_quality:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image
