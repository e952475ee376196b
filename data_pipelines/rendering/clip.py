"""Course of a video: expression, head movement, camera, light, background.

`u` and `n` are the uniform and the normal random numbers of the video (`NUMBERS` of each); `time`
is in videos' own units, so that a frame differs little from the next.
"""

import dataclasses
import math

import cv2
import numpy as np

from data_pipelines.rendering import expressions
from data_pipelines.rendering.fine_expressions import Mixtures
from data_pipelines.rendering.geometry import Camera
from data_pipelines.rendering.identity import Person
from data_pipelines.rendering.shading import Light

NUMBERS = (48, 48)
BLOBS = 100
FRAME_TIME = 0.35
_OBSTACLE_SHARE = 0.06
_BLEND_SHARE = 0.15
# A blob is brighter or darker (its last number), and a little coloured (the others).
_BLOB_COLOURS = np.array([(0.45, 0, 0, 0), (0, 0.45, 0, 0), (0, 0, 0.45, 0), (1, 1, 1, 0)])
_UNITS = len(expressions.ACTION_UNITS)
# Standard deviation of each unit of a fine expression over videos.
_SCATTER = 0.05
# Head movements of a fine expression at full strength, in degrees.
_HEAD_UP, _HEAD_DOWN, _HEAD_TILT = 9.0, 9.0, 12.0


def _wave(phase: float) -> float:
    return math.sin(2.0 * math.pi * phase)


def _clip(x: float, low: float, high: float) -> float:
    return min(high, max(low, x))


def expression(
    category: int, person: Person, u: list[float], n: list[float], jitter: list[float], time: float
) -> tuple[expressions.Muscles, np.ndarray]:
    """Return the action units and valence-arousal (float32 [2]) of one frame.

    The intensity swings over the video; a person moves each unit a little more or less than the
    prototype, some units idle, and one video in seven blends a second expression in. Valence and
    arousal follow the intensity, with a rater's noise for the video and for the frame (`jitter`).
    """
    swing = _wave(u[1] + 0.5 * time * (0.5 + u[2]))
    strength = _clip(0.62 + 0.38 * u[0] + 0.13 * swing, 0.45, 1.1) * person.expressiveness
    side = int(u[4] < 0.5)
    full, offset = expressions.activations(category, u[3], side)
    au = _moved(full, person, n, strength, swing)
    valence, arousal = (strength * x for x in expressions.circumplex(category, offset))
    if u[5] < _BLEND_SHARE:
        second = int(u[6] * len(expressions.CLASS_NAMES))
        extra, more = expressions.activations(second, u[7], side)
        part = (0.12 + 0.16 * u[8]) * strength
        au += extra * part
        other = expressions.circumplex(second, more)
        valence += part * (other[0] - 0.4 * valence)
        arousal += part * (other[1] - 0.4 * arousal)
    return _muscles(au), _rated(valence, arousal, n, jitter)


@dataclasses.dataclass(frozen=True)
class Head:
    """Movements of the head that belong to an expression, in radians."""

    pitch: float
    roll: float


STILL = Head(0.0, 0.0)


def fine_expression(
    mixture: Mixtures,
    person: Person,
    u: list[float],
    n: list[float],
    jitter: list[float],
    time: float,
) -> tuple[expressions.Muscles, Head, np.ndarray]:
    """Return action units, head movement and valence-arousal (float32 [2]) of one frame.

    It shows the one mixture of fine expressions in `mixture`. The intensity belongs to the classes,
    so it varies less than in `expression`, and nothing else is blended in.
    """
    swing = _wave(u[1] + 0.5 * time * (0.5 + u[2]))
    strength = (0.80 + 0.25 * u[0] + 0.06 * swing) * person.expressiveness
    side = int(u[4] < 0.5)
    full, affect = mixture.shown(side)
    scatter = _SCATTER * np.array(n[_UNITS : 2 * _UNITS])[:, None]
    au = _moved(full[:_UNITS] + scatter, person, n, strength, swing)
    up, down, tilt = (strength * full[_UNITS:, 0]).tolist()
    head = Head(
        pitch=math.radians(_HEAD_UP * up - _HEAD_DOWN * down),
        roll=math.radians(_HEAD_TILT * tilt * (1 - 2 * side)),
    )
    valence, arousal = (strength * affect).tolist()
    return _muscles(au), head, _rated(valence, arousal, n, jitter)


def _moved(
    full: np.ndarray, person: Person, n: list[float], strength: float, swing: float
) -> np.ndarray:
    """Return the units [units, 2] of a person who shows `full` with some strength."""
    habits = np.array(n[: 2 * _UNITS])[:, None]
    au = full * (1.0 + 0.14 * habits[:_UNITS]) * (person.asymmetry * strength)
    au += np.maximum(0.0, (0.05 + 0.015 * swing) * habits[_UNITS:])
    return au


def _muscles(au: np.ndarray) -> expressions.Muscles:
    return expressions.Muscles(np.minimum(np.maximum(au, 0.0), 1.2))


def _rated(valence: float, arousal: float, n: list[float], jitter: list[float]) -> np.ndarray:
    """Return valence and arousal with a rater's noise, float32 [2]."""
    valence += 0.04 * n[40] + 0.03 * jitter[0]
    arousal += 0.04 * n[41] + 0.03 * jitter[1]
    return np.array([_clip(valence, -1.0, 1.0), _clip(arousal, -1.0, 1.0)], np.float32)


def camera(
    u: list[float], n: list[float], time: float, size: int, shifted: bool, head: Head = STILL
) -> Camera:
    """Return pose and projection of a frame; the second camera sees heads turned more.

    `head` is added to the pose.
    """
    spread = 1.35 if shifted else 1.0
    sway = [_wave(u[9 + k] + 0.4 * time * (0.5 + u[12 + k])) for k in range(3)]
    x, y = (0.5 + 0.10 * (u[16 + k] - 0.5) + 0.01 * sway[k] for k in range(2))
    return Camera(
        yaw=math.radians(spread * _clip(13.0 * n[42] + 4.0 * sway[0], -32.0, 32.0)),
        pitch=math.radians(_clip(6.0 * n[43] + 3.0 * sway[1], -16.0, 16.0)) + head.pitch,
        roll=math.radians(_clip(6.0 * n[44] + 2.5 * sway[2], -18.0, 18.0)) + head.roll,
        scale=(0.51 + 0.11 * u[15]) * size / 128,
        centre=(x * size - 0.5, y * size - 0.5),
        distance=600.0 + 800.0 * u[18],
    )


def light(u: list[float], n: list[float]) -> Light:
    """Return one lamp from above and the side, and ambient light, with their tints."""
    azimuth, height = 1.2 * (2.0 * u[19] - 1.0), 0.15 + 0.75 * u[20]
    warm, cool = 0.06 * n[45], 0.04 * n[46]
    ambient = 0.30 + 0.22 * u[21]
    flat = math.cos(height)
    return Light(
        key=np.array([math.sin(azimuth) * flat, -math.sin(height), math.cos(azimuth) * flat]),
        colour=(1.0 + warm, 1.0 + 0.1 * warm, 1.0 - warm),
        ambient=(ambient * (1.0 - cool), ambient, ambient * (1.0 + cool)),
        strength=0.62 + 0.30 * u[22],
        gloss=0.05 + 0.22 * u[23],
    )


def background(u: list[float], blobs: list[float], size: int) -> np.ndarray:
    """Draw something out of focus: uint8 [size, size, 4], the last channel 0.

    `blobs`: `BLOBS` further uniform numbers.
    """
    grey, contrast = 0.15 + 0.7 * u[24], 235.0 * (0.15 + 0.5 * u[28])
    tint = [235.0 * (grey + 0.25 * (u[25 + k] - 0.5)) + 10.0 for k in range(3)]
    field = (np.array(blobs).reshape(25, 4) - 0.5) @ (contrast * _BLOB_COLOURS) + [*tint, 0.0]
    coarse = np.minimum(np.maximum(field, 0.0), 255.0).astype(np.uint8).reshape(5, 5, 4)
    finer = cv2.resize(coarse, (20, 20), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(finer, (size, size), interpolation=cv2.INTER_LINEAR)


def sensor_numbers(u: list[float]) -> list[float]:
    """Return the 8 uniform numbers of the sensor."""
    return u[29:37]


def scene_numbers(u: list[float]) -> tuple[list[float], bool]:
    """Return the painter's numbers, and whether there is an obstacle."""
    return u[37:47], u[47] < _OBSTACLE_SHARE
