"""The posed 3-D face: 68 landmarks (iBUG order) and the curves through them.

Face coordinates are millimetres: x to the right of the image, y down, z towards the camera, the
origin between the eyes. The landmarks are control points of the drawn curves, so they lie exactly
on the features that an image shows.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from data_pipelines.rendering.expressions import Muscles, Units
from data_pipelines.rendering.identity import Person

PIVOT = np.array([0.0, 20.0, -80.0])
LOOK_AT = 22.0  # this height of the face lies at the camera's centre

_JAW = (  # from the ear to the chin, image right
    *((71.0, -2.0, -78.0), (70.5, 17.0, -74.0), (68.5, 36.0, -66.0), (64.5, 54.0, -55.0)),
    *((57.0, 72.0, -40.0), (46.5, 88.0, -24.0), (33.0, 99.5, -8.0), (17.0, 106.5, 2.0)),
    (0.0, 109.0, 5.0),
)
# How far down the jaw and the chin a point lies.
_AT_JAW = [min(1.0, max(0.0, (y - 17.0) / 55.0)) for _, y, _ in _JAW]
_AT_CHIN = [min(1.0, max(0.0, (y - 88.0) / 18.0)) for _, y, _ in _JAW]
_JAW_OPEN = (0.0, 0.0, 0.05, 0.2, 0.45, 0.75, 0.93, 1.0, 1.0)
_BROW = (  # from the nose outwards
    *((13.0, -22.5, 6.0), (23.0, -25.0, 5.0), (34.0, -26.0, 1.0)),
    *((45.0, -25.0, -7.0), (54.0, -19.5, -18.0)),
)


@functools.cache
def spline(controls: int, per_segment: int) -> np.ndarray:
    """Return the [samples, controls] matrix of an open Catmull-Rom curve."""
    rows = []
    for segment in range(controls - 1):
        for step in range(per_segment):
            t = step / per_segment
            outer = (-t + 2 * t**2 - t**3, -(t**2) + t**3)
            inner = (2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3)
            row = np.zeros(controls + 2)
            row[segment : segment + 4] = 0.5 * np.array([outer[0], *inner, outer[1]])
            # Ghost points beyond the ends continue the first and the last segment.
            row[1] += 2 * row[0]
            row[2] -= row[0]
            row[-2] += 2 * row[-1]
            row[-3] -= row[-1]
            rows.append(row[1:-1])
    rows.append(np.eye(controls)[-1])
    return np.array(rows)


def surface(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the depth of the smooth head without features, in millimetres."""
    below = np.where(y > 5.0, 250.0, 118.0)
    inside = 1.0 - (x / 79.0) ** 2 - ((y - 5.0) / below) ** 2
    return -96.0 + 98.0 * np.sqrt(np.maximum(inside, 0.02))


Places = dict[str, tuple[slice, tuple[int, ...] | None]]


def places(parts: Mapping[str, np.ndarray], start: int = 0) -> Places:
    """Return where named arrays lie in their `stack`: first row and shape [k, n, -1].

    The shape of an array [n, d] is None: its rows have it already.
    """
    found = {}
    for name, part in parts.items():
        stop = start + part.size // part.shape[-1]
        found[name] = (slice(start, stop), None if part.ndim == 2 else (*part.shape[:-1], -1))
        start = stop
    return found


def stack(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Stack arrays [..., d] one below the other: [n, d]."""
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts.values()])


class Rows:
    """The rows of an array [n, d] by the names of the parts that they belong to."""

    def __init__(self, places: Places, values: np.ndarray) -> None:
        self._places, self._values = places, values

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a part: a view [..., d]."""
        rows, shape = self._places[name]
        part = self._values[rows]
        return part if shape is None else part.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Levels:
    """Heights of a frame's features, in millimetres below the eyes."""

    nose: float
    mouth: float
    chin: float
    jaw_drop: float


def levels(person: Person, muscles: Muscles) -> Levels:
    """Return the heights of nose base, mouth and chin, for a person and a jaw."""
    jaw_drop = 21.0 * muscles.mean[26]
    nose = 50.0 + person.nose_length
    mouth = nose + 21.0 + person.mouth_drop
    return Levels(nose, mouth, mouth + 38.0 + person.chin + jaw_drop, jaw_drop)


Points = list[tuple[float, float, float]]


def _brow(person: Person, m: Units, sign: float) -> Points:
    """Return five points from the nose outwards."""
    inner, outer, lower, wrinkle = m[1], m[2], m[4], m[9]
    points = []
    for k, (x, y, z) in enumerate(_BROW):
        y += (
            person.brow_height
            - person.brow_arch * (0.0, 0.8, 1.6, 1.2, 0.0)[k]
            + person.brow_tilt * (1.0, 0.5, 0.0, -0.5, -1.0)[k]
            - inner * (10.5, 8.5, 4.0, 0.5, 0.0)[k]
            - outer * (0.5, 2.0, 6.5, 10.0, 9.0)[k]
            + lower * (8.0, 7.5, 5.5, 3.0, 1.0)[k]
            + wrinkle * (4.5, 3.5, 1.5, 0.0, 0.0)[k]
        )
        x -= lower * (4.5, 4.0, 2.5, 1.0, 0.0)[k] + wrinkle * (2.0, 1.5, 0.5, 0.0, 0.0)[k]
        points.append((sign * person.head_width * x, y, z))
    return points


def _eye(person: Person, m: Units, sign: float) -> Points:
    """Return six points of an eye, from the outer corner over the upper lid.

    Outer corner, upper lid (outer, inner), inner corner, lower lid (inner, outer).
    """
    size, tilt = person.eye_size, person.eye_tilt
    upper = size * (6.0 + 4.2 * m[5] - 1.5 * m[7] - 0.8 * m[6] - 1.2 * m[9])
    lower = size * (4.6 + 0.5 * m[5] - 2.4 * m[7] - 2.2 * m[6] - 1.6 * m[9])
    opening = max(upper + lower - m[43] * (upper + 0.7 * lower), 1.2)
    upper = opening - lower
    lids = (-0.92 * upper - 0.5 * tilt, -0.98 * upper + 0.3 * tilt)
    heights = (-0.5 - tilt, *lids, 2.2 + 0.4 * tilt, 0.95 * lower + 0.8, lower)
    across = (1.0, 0.36, -0.34, -1.0, -0.32, 0.36)
    depths = (-16.0, -6.0, -3.5, -6.0, -4.0, -7.0)
    centre, half = 31.5 + person.eye_spacing, 14.0 * person.eye_width
    return [
        (sign * person.head_width * (centre + half * a), y, z)
        for a, y, z in zip(across, heights, depths, strict=True)
    ]


def _nose(person: Person, muscles: Muscles, nose: float) -> Points:
    """Return four points down the bridge, then five along the base from image left."""
    stretch = (nose + 1.0) / 51.0
    left, right, mean = muscles.left, muscles.right, muscles.mean
    lift = [3.0 * m[9] + 1.5 * m[10] for m in (left, mean, right)]
    wide = [
        person.nose_width * (1.0 + 0.10 * m[9] + 0.08 * m[12] + 0.06 * m[10]) for m in (left, right)
    ]
    bridge = [
        (0.0, y * stretch, 8.0 + rise * person.nose_height)
        for y, rise in ((-2.0, 0.0), (11.0, 7.0), (24.0, 14.0))
    ]
    tip = (0.0, 37.0 * stretch - 0.5 * lift[1], 8.0 + 21.0 * person.nose_height)
    base = [
        (-15.0 * wide[0], nose - 4.0 - lift[0], 9.0),
        (-8.0 * wide[0], nose - 0.5 - 0.8 * lift[0], 15.0),
        (0.0, nose + 1.0 - 0.6 * lift[1], 18.5),
        (8.0 * wide[1], nose - 0.5 - 0.8 * lift[2], 15.0),
        (15.0 * wide[1], nose - 4.0 - lift[2], 9.0),
    ]
    return [*bridge, tip, *base]


class _Lips(NamedTuple):
    """One half of the mouth: lip edges from the middle (t = 0) to the corner (1)."""

    corner_x: float
    corner_y: float
    centre: float
    upper: float
    lower: float
    gap_up: float
    gap_low: float
    rise: float
    roundness: float

    def line(self, t: float) -> float:
        bend = 1.7 if self.corner_y < self.centre else 2.2
        return self.centre + (self.corner_y - self.centre) * t**bend

    def heights(self, t: float, thick_up: float, thick_low: float) -> tuple[float, ...]:
        """Return the edges of the upper lip (outer, inner) and lower lip (inner, outer)."""
        line, opening = self.line(t), (1.0 - t * t) ** self.roundness
        top = line - self.gap_up * opening
        bottom = line + self.gap_low * opening
        outer = top - self.rise * (1 - t) - self.upper * thick_up
        return (outer, top, bottom + 0.3, bottom + self.lower * thick_low)


def _half_lips(person: Person, muscles: Muscles, m: Units, level: Levels) -> _Lips:
    both = muscles.mean
    parted = min(1.0, 2.0 * m[25])
    thin = 1.0 - 0.45 * max(m[23], m[24]) - 0.15 * m[12] - 0.18 * m[20]
    wide = 24.5 + 7.0 * m[12] + 6.5 * m[20] + 4.0 * m[14] + 1.0 * m[15] - 2.5 * m[23] - 1.0 * m[24]
    low = level.mouth - 10.0 * m[12] + 7.5 * m[15] + 2.5 * m[20] - 3.5 * m[14] - 1.0 * m[17]
    return _Lips(
        corner_x=person.mouth_width
        * (wide - 9.0 * m[26] * (1.0 - 0.8 * min(1.0, max(m[12], m[20])))),
        corner_y=low - 0.5 * m[10] + 0.5 * level.jaw_drop,
        centre=level.mouth + 1.5 * both[12] - 3.5 * both[17] - 1.5 * both[15] - 1.0 * both[10],
        upper=person.upper_lip * thin * (1.0 - 0.15 * m[25]),
        lower=person.lower_lip * thin * (1.0 + 0.12 * m[17]),
        gap_up=2.5 * m[25] + 5.5 * m[10] * (0.4 + 0.6 * m[25]) * parted,
        gap_low=4.5 * m[25] + 0.92 * level.jaw_drop + (4.5 * m[16] + 1.5 * m[20]) * parted,
        rise=4.0 * m[10] * (1.0 - 0.8 * parted),
        roundness=0.75 - 0.25 * min(1.0, m[26]),
    )


def _mouth(person: Person, muscles: Muscles, level: Levels) -> Points:
    """Return 20 points in iBUG order (48 to 67)."""
    points: Points = [(0.0, 0.0, 0.0)] * 20
    middles = []
    front = 12.0 - 0.25 * muscles.mean[26]

    def place(index: int, x: float, y: float, back: float = 0.0) -> None:
        points[index] = (x, y, front - back - 0.016 * x * x)

    for sign, m, outer, inner in (
        (-1.0, muscles.left, (0, 1, 2, 10, 11), (12, 13, 19)),
        (1.0, muscles.right, (6, 5, 4, 8, 7), (16, 15, 17)),
    ):
        lips = _half_lips(person, muscles, m, level)
        width = sign * lips.corner_x
        place(outer[0], width, lips.corner_y)
        top, _, _, bottom = lips.heights(0.64, 0.68, 0.62)
        place(outer[1], 0.64 * width, top)
        place(outer[4], 0.64 * width, bottom)
        top, _, _, bottom = lips.heights(0.27, 1.0, 0.96)
        place(outer[2], 0.27 * width, top)
        place(outer[3], 0.27 * width, bottom)
        _, top, bottom, _ = lips.heights(0.36, 1.0, 1.0)
        place(inner[0], 0.9 * width, lips.line(0.9), 1.5)
        place(inner[1], 0.36 * width, top, 1.5)
        place(inner[2], 0.36 * width, bottom, 1.5)
        middles.append(lips.heights(0.0, 0.8, 1.0))
    for index, back, left, right in zip((3, 14, 18, 9), (0, 1.5, 1.5, 0), *middles, strict=True):
        place(index, 0.0, 0.5 * (left + right), back)
    return points


def _jaw(person: Person, muscles: Muscles, level: Levels) -> Points:
    """Return 17 points from the ear at image left to the ear at image right."""
    stretch = (level.chin - level.jaw_drop) / 109.0
    half = []
    for k, (x, y, z) in enumerate(_JAW):
        wide = 1.0 + (person.jaw_width - 1.0) * _AT_JAW[k]
        wide *= 1.0 + (person.chin_width - 1.0) * _AT_CHIN[k]
        drop = _JAW_OPEN[k] * level.jaw_drop - (2.5 * muscles.mean[17] if k >= 7 else 0.0)
        y = y * (stretch if y > 0 else 1.0) + drop
        half.append((x * person.head_width * wide, y, z - 0.35 * drop))
    return [(-x, y, z) for x, y, z in half[:-1]] + half[::-1]


def landmarks(person: Person, muscles: Muscles) -> np.ndarray:
    """Return the 68 landmarks, float64 [68, 3] in face coordinates, iBUG order."""
    level = levels(person, muscles)
    left_eye, right_eye = (
        _eye(person, m, s) for m, s in ((muscles.left, -1.0), (muscles.right, 1.0))
    )
    return np.array(
        [
            *_jaw(person, muscles, level),
            *_brow(person, muscles.left, -1.0)[::-1],
            *_brow(person, muscles.right, 1.0),
            *_nose(person, muscles, level.nose),
            *left_eye,
            *(right_eye[k] for k in (3, 2, 1, 0, 5, 4)),
            *_mouth(person, muscles, level),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pose and projection: radians, pixels per millimetre, centre in pixels."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]
    distance: float

    @functools.cached_property
    def rotation(self) -> np.ndarray:
        """Rotation about y (yaw), then x (pitch), then z (roll)."""
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        return np.array(
            [
                (cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy),
                (sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy),
                (-cp * sy, sp, cp * cy),
            ]
        )

    def turn(self, points: np.ndarray) -> np.ndarray:
        """Convert face coordinates [3, n] to camera coordinates (still millimetres)."""
        return self.rotation @ (points - PIVOT[:, None]) + PIVOT[:, None]

    def flatten(self, turned: np.ndarray) -> np.ndarray:
        """Convert camera coordinates [3, n] to pixels [2, n]."""
        zoom = (self.scale * self.distance) / (self.distance - turned[2])
        x, y = self.centre
        flat = turned[:2] * zoom
        flat[0] += x
        flat[1] += y - LOOK_AT * self.scale
        return flat
