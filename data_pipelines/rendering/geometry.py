"""The posed 3-D face: 68 landmarks in iBUG order and the curves drawn through them.

Face coordinates are millimetres: x to the right of the image, y down, z towards the camera, the
origin between the eyes. The landmarks are control points of the drawn curves, so they lie exactly
on the features that a picture shows.
"""

import dataclasses
import functools

import numpy as np

from data_pipelines.rendering.expressions import AU
from data_pipelines.rendering.identity import Person

MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)
SIDES = np.array([-1.0, 1.0])
PIVOT = np.array([0.0, 20.0, -80.0])

_JAW = np.array(  # from the ear to the chin, image right
    [
        (71.0, -2.0, -78.0),
        (70.5, 17.0, -74.0),
        (68.5, 36.0, -66.0),
        (64.5, 54.0, -55.0),
        (57.0, 72.0, -40.0),
        (46.5, 88.0, -24.0),
        (33.0, 99.5, -8.0),
        (17.0, 106.5, 2.0),
        (0.0, 109.0, 5.0),
    ]
)
_JAW_OPEN = np.array([0.0, 0.0, 0.05, 0.2, 0.45, 0.75, 0.93, 1.0, 1.0])
_BROW = np.array(  # from the nose outwards
    [
        (13.0, -20.5, 9.0),
        (23.0, -25.0, 8.0),
        (34.0, -27.5, 4.0),
        (45.0, -26.0, -3.0),
        (54.5, -19.0, -14.0),
    ]
)
_MOUTH_T = np.array([0.0, 0.27, 0.64])


@functools.cache
def spline(controls: int, per_segment: int) -> np.ndarray:
    """Matrix [samples, controls] of an open Catmull-Rom curve through all its control points."""
    rows = []
    for segment in range(controls - 1):
        for step in range(per_segment):
            t = step / per_segment
            weights = 0.5 * np.array(
                [
                    -t + 2 * t**2 - t**3,
                    2 - 5 * t**2 + 3 * t**3,
                    t + 4 * t**2 - 3 * t**3,
                    -(t**2) + t**3,
                ]
            )
            row = np.zeros(controls + 2)
            row[segment : segment + 4] = weights
            # Ghost points beyond the ends continue the first and the last segment.
            row[1] += 2 * row[0]
            row[2] -= row[0]
            row[-2] += 2 * row[-1]
            row[-3] -= row[-1]
            rows.append(row[1:-1])
    rows.append(np.eye(controls)[-1])
    return np.array(rows)


def surface(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Depth of the smooth head without features, in millimetres."""
    below = np.where(y > 5.0, 175.0, 118.0)
    inside = 1.0 - (x / 79.0) ** 2 - ((y - 5.0) / below) ** 2
    return -96.0 + 98.0 * np.sqrt(np.maximum(inside, 0.02))


@dataclasses.dataclass(frozen=True)
class Levels:
    """Heights of the person's features on this frame, in millimetres below the eyes."""

    nose: float
    mouth: float
    chin: float
    jaw_drop: float


def levels(person: Person, au: np.ndarray) -> Levels:
    jaw_drop = 17.0 * float(au[AU[26]].mean())
    nose = 50.0 + person.nose_length
    mouth = nose + 21.0 + person.mouth_drop
    return Levels(nose, mouth, mouth + 38.0 + person.chin + jaw_drop, jaw_drop)


def _brows(person: Person, au: np.ndarray) -> np.ndarray:
    """[2, 5, 3] from the nose outwards, image left and image right."""
    brow = np.repeat(_BROW[None], 2, axis=0)
    inner, outer, lower = au[AU[1], :, None], au[AU[2], :, None], au[AU[4], :, None]
    wrinkle = au[AU[9], :, None]
    brow[..., 1] += (
        person.brow_height
        - person.brow_arch * np.array([0.0, 1.0, 2.0, 1.5, 0.0])
        + person.brow_tilt * np.array([1.0, 0.5, 0.0, -0.5, -1.0])
        - inner * np.array([10.5, 8.5, 4.0, 0.5, 0.0])
        - outer * np.array([0.5, 2.0, 6.5, 10.0, 9.0])
        + lower * np.array([8.0, 7.5, 5.5, 3.0, 1.0])
        + wrinkle * np.array([4.5, 3.5, 1.5, 0.0, 0.0])
    )
    brow[..., 0] -= lower * np.array([4.5, 4.0, 2.5, 1.0, 0.0]) + wrinkle * np.array(
        [2.0, 1.5, 0.5, 0.0, 0.0]
    )
    brow[..., 0] *= SIDES[:, None] * person.head_width
    return brow


def _eyes(person: Person, au: np.ndarray) -> np.ndarray:
    """[2, 6, 3]: outer corner, upper lid outer and inner, inner corner, lower lid inner, outer."""
    half = 14.0 * person.eye_width
    centre = 31.5 + person.eye_spacing
    squint = au[AU[43]]
    upper = person.eye_size * (
        6.0 + 4.2 * au[AU[5]] - 1.5 * au[AU[7]] - 0.8 * au[AU[6]] - 1.2 * au[AU[9]]
    )
    lower = person.eye_size * (
        4.6 + 0.5 * au[AU[5]] - 2.4 * au[AU[7]] - 2.2 * au[AU[6]] - 1.6 * au[AU[9]]
    )
    upper = upper - squint * (upper + 0.7 * lower)
    opening = np.maximum(upper + lower, 1.2)
    upper = opening - lower
    eye = np.empty((2, 6, 3))
    eye[..., 0] = centre + half * np.array([1.0, 0.36, -0.34, -1.0, -0.32, 0.36])
    # The curve through two lid points rises about a tenth above them.
    eye[:, 0, 1] = -0.5 - person.eye_tilt
    eye[:, 3, 1] = 2.2 + 0.4 * person.eye_tilt
    eye[:, 1, 1] = -0.92 * upper - 0.5 * person.eye_tilt
    eye[:, 2, 1] = -0.98 * upper + 0.3 * person.eye_tilt
    eye[:, 4, 1] = 0.95 * lower + 0.8
    eye[:, 5, 1] = lower
    eye[..., 2] = np.array([-13.0, -4.0, -3.0, -6.0, -4.0, -5.5])
    eye[..., 0] *= SIDES[:, None] * person.head_width
    return eye


def _nose(person: Person, au: np.ndarray, nose: float) -> np.ndarray:
    """[9, 3]: four points down the bridge, then five along the base from image left."""
    stretch = (nose + 1.0) / 51.0
    lift = 3.0 * au[AU[9]] + 1.5 * au[AU[10]]
    widen = person.nose_width * (1.0 + 0.10 * au[AU[9]] + 0.08 * au[AU[12]] + 0.06 * au[AU[10]])
    points = np.zeros((9, 3))
    points[:4, 1] = np.array([-2.0, 11.0, 24.0, 37.0]) * stretch
    points[:4, 2] = 8.0 + np.array([0.0, 7.0, 14.0, 21.0]) * person.nose_height
    points[4:, 0] = np.array([-15.0, -8.0, 0.0, 8.0, 15.0]) * widen[[0, 0, 0, 1, 1]]
    points[4:, 1] = nose + np.array([-4.0, -0.5, 1.0, -0.5, -4.0])
    points[4:, 2] = np.array([9.0, 15.0, 18.5, 15.0, 9.0])
    points[3, 1] -= 0.5 * lift.mean()
    points[4:, 1] -= lift[[0, 0, 0, 1, 1]] * np.array([1.0, 0.8, 0.6, 0.8, 1.0])
    return points


def _mouth(person: Person, au: np.ndarray, level: Levels) -> np.ndarray:
    """[20, 3] in iBUG order (48 to 67)."""
    pull, down, stretch, dimple = (au[AU[k]] for k in (12, 15, 20, 14))
    tight, press, chin, raised, drop = (au[AU[k]] for k in (23, 24, 17, 10, 16))
    part, jaw = au[AU[25]], au[AU[26]]
    middle = {k: float(au[AU[k]].mean()) for k in (10, 12, 15, 16, 17, 20, 23, 24, 25, 26)}

    corner_x = person.mouth_width * (
        24.5
        + 7.0 * pull
        + 6.5 * stretch
        + 4.0 * dimple
        + 1.0 * down
        - 2.5 * tight
        - 3.0 * jaw
        - 1.0 * press
    )
    corner_y = (
        level.mouth
        - 10.0 * pull
        + 7.5 * down
        + 2.5 * stretch
        - 3.5 * dimple
        - 1.0 * chin
        - 0.5 * raised
        + 0.30 * level.jaw_drop
    )
    centre = level.mouth + 1.5 * middle[12] - 3.5 * middle[17] - 1.5 * middle[15] - 1.0 * middle[10]
    thin = 1.0 - 0.45 * np.maximum(tight, press) - 0.15 * pull - 0.18 * stretch
    upper = person.upper_lip * thin * (1.0 - 0.15 * part)
    lower = person.lower_lip * thin * (1.0 + 0.12 * chin)
    gap_up = 2.5 * part + 5.5 * np.maximum(raised, 0.0) * (0.4 + 0.6 * part) * np.minimum(
        1.0, 2 * part
    )
    rise = 4.0 * raised * (1.0 - 0.8 * np.minimum(1.0, 2 * part))
    gap_low = (
        4.5 * part
        + 0.92 * level.jaw_drop
        + 4.5 * drop * np.minimum(1.0, 2 * part)
        + 1.5 * stretch * part
    )
    depth = 16.0

    def line(side: int, t: np.ndarray) -> np.ndarray:
        bend = 1.7 if corner_y[side] < centre else 2.2
        return centre + (corner_y[side] - centre) * t**bend

    def opening(t: np.ndarray) -> np.ndarray:
        return np.maximum(1.0 - t**2, 0.0) ** 0.75

    halves = []
    for side in (0, 1):
        t = _MOUTH_T
        y = line(side, t)
        inner_t = np.array([0.0, 0.36])
        inner_y = line(side, inner_t)
        top = (
            y
            - gap_up[side] * opening(t)
            - rise[side] * (1 - t)
            - upper[side] * np.array([0.80, 1.0, 0.68])
        )
        bottom = y + gap_low[side] * opening(t) + lower[side] * np.array([1.0, 0.96, 0.62])
        inner_top = inner_y - gap_up[side] * opening(inner_t)
        inner_bottom = inner_y + gap_low[side] * opening(inner_t) + 0.3
        halves.append(
            (t * corner_x[side], top, bottom, inner_t * corner_x[side], inner_top, inner_bottom)
        )

    def z(x: np.ndarray) -> np.ndarray:
        return depth - 0.016 * np.square(x) - 0.25 * middle[26]

    points = np.zeros((20, 3))
    for side, order in ((0, (0, 1, 2, 3, 11, 10, 9)), (1, (6, 5, 4, 3, 7, 8, 9))):
        x, top, bottom, inner_x, inner_top, inner_bottom = halves[side]
        corner, o1, o2, mid, l1, l2, lmid = order
        sign = SIDES[side]
        points[corner, :2] = sign * corner_x[side], corner_y[side]
        points[o1, :2] = sign * x[2], top[2]
        points[o2, :2] = sign * x[1], top[1]
        points[mid, :2] += 0.0, 0.5 * top[0]
        points[l1, :2] = sign * x[2], bottom[2]
        points[l2, :2] = sign * x[1], bottom[1]
        points[lmid, :2] += 0.0, 0.5 * bottom[0]
        i_corner, i_top, i_bottom = ((12, 13, 19), (16, 15, 17))[side]
        points[i_corner, :2] = sign * 0.9 * corner_x[side], line(side, np.array(0.9))
        points[i_top, :2] = sign * inner_x[1], inner_top[1]
        points[i_bottom, :2] = sign * inner_x[1], inner_bottom[1]
        points[14, :2] += 0.0, 0.5 * inner_top[0]
        points[18, :2] += 0.0, 0.5 * inner_bottom[0]
    points[:, 2] = z(points[:, 0])
    points[12:, 2] -= 1.5
    return points


def _jaw(person: Person, au: np.ndarray, level: Levels) -> np.ndarray:
    """[17, 3] from the ear at image left to the ear at image right."""
    half = _JAW.copy()
    half[:, 0] *= person.head_width * np.interp(half[:, 1], [17.0, 72.0], [1.0, person.jaw_width])
    half[:, 0] *= np.interp(half[:, 1], [88.0, 106.0], [1.0, person.chin_width])
    neutral_chin = level.chin - level.jaw_drop
    half[:, 1] = np.where(half[:, 1] > 0, half[:, 1] * neutral_chin / 109.0, half[:, 1])
    half[:, 1] += _JAW_OPEN * level.jaw_drop
    half[:, 2] -= 0.35 * _JAW_OPEN * level.jaw_drop
    half[7:, 1] -= 2.5 * float(au[AU[17]].mean())
    left = half[:-1] * np.array([-1.0, 1.0, 1.0])
    return np.concatenate([left, half[::-1]])


def landmarks(person: Person, au: np.ndarray) -> np.ndarray:
    """The 68 landmarks, float64 [68, 3] in face coordinates, iBUG order.

    Args:
      person: the traits.
      au: float64 [units, 2], action units of the image-left and image-right half, about 0 to 1.
    """
    level = levels(person, au)
    brows, eyes = _brows(person, au), _eyes(person, au)
    return np.concatenate(
        [
            _jaw(person, au, level),
            brows[0, ::-1],
            brows[1],
            _nose(person, au, level.nose),
            eyes[0],
            eyes[1, [3, 2, 1, 0, 5, 4]],
            _mouth(person, au, level),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Camera:
    """Pose and projection: angles in radians, `scale` pixels per millimetre, `centre` in pixels."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]
    distance: float

    @functools.cached_property
    def rotation(self) -> np.ndarray:
        cy, sy = np.cos(self.yaw), np.sin(self.yaw)
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
        about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, -sp], [0.0, sp, cp]])
        about_z = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
        return about_z @ about_x @ about_y

    def turn(self, points: np.ndarray) -> np.ndarray:
        """Face coordinates [..., 3] to camera coordinates (still millimetres)."""
        return (points - PIVOT) @ self.rotation.T + PIVOT

    def flatten(self, turned: np.ndarray) -> np.ndarray:
        """Camera coordinates [..., 3] to pixels [..., 2]."""
        zoom = self.scale * self.distance / (self.distance - turned[..., 2:])
        return turned[..., :2] * zoom + (self.centre - np.array([0.0, 22.0]) * self.scale)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Face coordinates [..., 3] to pixels [..., 2]."""
        return self.flatten(self.turn(points))
