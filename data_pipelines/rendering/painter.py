"""Draws one posed face: flat colours first, then light, then what shines."""

import cv2
import numpy as np

from data_pipelines.rendering import geometry, shading
from data_pipelines.rendering.expressions import AU
from data_pipelines.rendering.geometry import Camera, spline
from data_pipelines.rendering.identity import Person
from data_pipelines.rendering.shading import Light

_SHIFT = 4
_ONE = 1 << _SHIFT

_ANGLES = np.linspace(0.0, 2.0 * np.pi, 13)[:-1]
_BALL = np.concatenate(
    [
        np.stack(
            [np.cos(_ANGLES) * np.cos(b), np.full(12, np.sin(b)), np.sin(_ANGLES) * np.cos(b)],
            axis=1,
        )
        for b in (-1.3, -0.9, -0.5, -0.1, 0.35)
    ]
)
_SKULL_CENTRE, _SKULL_RADII = np.array([0.0, -26.0, -86.0]), np.array([76.0, 86.0, 96.0])
_HAIRLINE = np.array(
    [
        (-69.0, 4.0, -76.0),
        (-68.0, -22.0, -66.0),
        (-62.0, -42.0, -52.0),
        (-48.0, -58.0, -37.0),
        (-25.0, -66.0, -23.0),
        (0.0, -68.0, -18.0),
        (25.0, -66.0, -23.0),
        (48.0, -58.0, -37.0),
        (62.0, -42.0, -52.0),
        (68.0, -22.0, -66.0),
        (69.0, 4.0, -76.0),
    ]
)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * _ONE).astype(np.int32)


def _colour(rgb: np.ndarray) -> tuple[float, float, float]:
    return tuple(np.clip(rgb, 0, 255).tolist())


def _fill(image: np.ndarray, points: np.ndarray, rgb: np.ndarray | float) -> None:
    colour = _colour(rgb) if image.ndim == 3 else float(rgb)
    cv2.fillPoly(image, [_fixed(points)], colour, cv2.LINE_AA, _SHIFT)


def _stroke(
    image: np.ndarray,
    points: np.ndarray,
    rgb: np.ndarray | float,
    width: int = 1,
    closed: bool = False,
) -> None:
    colour = _colour(rgb) if image.ndim == 3 else float(rgb)
    cv2.polylines(image, [_fixed(points)], closed, colour, width, cv2.LINE_AA, _SHIFT)


def _disc(image: np.ndarray, centre: np.ndarray, radius: float, rgb: np.ndarray) -> None:
    x, y = np.round(centre * _ONE).astype(int).tolist()
    cv2.circle(image, (x, y), max(1, round(radius * _ONE)), _colour(rgb), -1, cv2.LINE_AA, _SHIFT)


def _hull(points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0]


class Painter:
    """One picture in the making; `paint` runs the whole sequence and returns it."""

    def __init__(
        self,
        person: Person,
        au: np.ndarray,
        points: np.ndarray,
        camera: Camera,
        light: Light,
        size: int,
        background: np.ndarray,
        u: list[float],
    ) -> None:
        self.person, self.au, self.camera, self.light, self.size = person, au, camera, light, size
        self.image = background
        self.mask = np.zeros((size, size), np.uint8)
        self.points = points
        self.flat = camera.project(points)
        self.mm = camera.scale
        self.u = u
        self.level = geometry.levels(person, au)

    def project(self, points: np.ndarray) -> np.ndarray:
        return self.camera.project(points)

    def curve(self, indices: list[int], per_segment: int = 4) -> np.ndarray:
        """Image points of the smooth curve through some landmarks."""
        return spline(len(indices), per_segment) @ self.flat[indices]

    def width(self, millimetres: float) -> int:
        return max(1, round(millimetres * self.mm))

    def paint(self) -> np.ndarray:
        self.detail = np.full((self.size, self.size), 128, np.uint8)
        self.soft = np.full((self.size // 2, self.size // 2), 128, np.uint8)
        self.head()
        self.folds()
        self.nose()
        self.mouth()
        self.eyes()
        self.brows()
        self.lit()
        self.shine()
        if self.person.glasses:
            self.spectacles()
        return self.image

    def head(self) -> None:
        p = self.person
        skull = _SKULL_CENTRE + _BALL * _SKULL_RADII * [p.head_width, 1.0, 1.0]
        jaw, centre = self.flat[:17], self.flat[8]
        volume = 1.0 if p.style == "bald" else 1.0 + (0.02 if p.style == "buzz" else p.hair_volume)
        if p.style == "curly":
            volume += 0.08
        outline = _SKULL_CENTRE + (skull - _SKULL_CENTRE) * volume
        cap = _hull(self.project(outline))
        neck_top = np.array([(-46.0, 62.0, -60.0), (46.0, 62.0, -60.0)])
        body = np.array(
            [
                (52.0, 175.0, -60.0),
                (150.0, 205.0, -70.0),
                (150.0, 320.0, -70.0),
                (-150.0, 320.0, -70.0),
                (-150.0, 205.0, -70.0),
                (-52.0, 175.0, -60.0),
            ]
        )
        if p.style in ("long", "long_fringe"):
            low = np.array(
                [
                    (-84.0, 130.0, -95.0),
                    (84.0, 130.0, -95.0),
                    (-70.0, 175.0, -95.0),
                    (70.0, 175.0, -95.0),
                ]
            )
            _fill(self.image, _hull(np.concatenate([self.project(low), cap])), p.hair * 0.75)
        top = self.project(neck_top)
        shoulders = self.camera.flatten(body)
        neck = np.concatenate([top, shoulders[[0, 5]]])
        cloth = np.array([40 + 170 * self.u[k] for k in (0, 1, 2)])
        _fill(self.image, shoulders, cloth)
        for target, colour in ((self.image, p.skin * 0.72), (self.mask, 255)):
            _fill(target, neck, colour)
        ears = np.array(
            [
                (s * 73.0 * p.head_width, y, z)
                for s in (-1, 1)
                for y, z in (
                    (-14.0, -84.0),
                    (-8.0, -92.0),
                    (14.0, -92.0),
                    (26.0, -82.0),
                    (16.0, -78.0),
                )
            ]
        )
        flat_ears = self.project(ears)
        out = np.array([-1.0, 1.0])[:, None] * np.array([3.0, 8.0, 7.0, 2.0, 0.0]) * self.mm
        flat_ears[:, 0] += out.reshape(-1)
        skull_colour = p.skin if p.style == "bald" else p.hair
        _fill(self.image, cap, skull_colour)
        _fill(self.mask, cap, 255)
        if p.style not in ("long", "long_fringe"):
            for ear in (flat_ears[:5], flat_ears[5:]):
                _fill(self.image, ear, p.skin * 0.93)
                _fill(self.mask, ear, 255)
        hairline = _HAIRLINE * [p.head_width, 1.0, 1.0]
        hairline[2:-2, 1] -= p.hairline
        if p.style == "bald":
            hairline[2:-2, 1] -= 20.0
        front = self.project(hairline)
        face = np.concatenate([spline(17, 2) @ jaw, (spline(11, 3) @ front)[::-1]])
        inner = _hull(np.concatenate([jaw, front[[1, 2, 8, 9]]]))
        for target, colour in ((self.image, p.skin), (self.mask, 255)):
            _fill(target, face, colour)
            _fill(target, inner, colour)
        if p.style in ("fringe", "long_fringe"):
            tips = np.array(
                [
                    (-58.0, -34.0, -30.0),
                    (-36.0, -40.0, -12.0),
                    (-10.0, -38.0, -6.0),
                    (16.0, -40.0, -8.0),
                    (38.0, -38.0, -14.0),
                    (60.0, -30.0, -32.0),
                ]
            )
            fringe = np.concatenate([front[2:9], (spline(6, 3) @ self.project(tips))[::-1]])
            _fill(self.image, fringe, p.hair)

    def folds(self) -> None:
        p, au = self.person, self.au
        strength = (
            0.25 * p.wrinkles
            + 0.9 * np.maximum(au[AU[12]], 0.8 * au[AU[10]]) * 0.8
            + 0.35 * au[AU[9]]
        )
        for side, sign in enumerate(geometry.SIDES):
            corner = self.points[48 if side == 0 else 54]
            wing = self.points[31 if side == 0 else 35]
            fold = np.stack(
                [
                    wing + [sign * 3, -2, -2],
                    0.5 * (wing + corner) + [sign * 8, -4, -2],
                    corner + [sign * 7, 2, -6],
                ]
            )
            line = spline(3, 4) @ self.project(fold)
            _stroke(self.detail, line, 128 - 52 * min(1.0, strength[side]), self.width(1.2))
        raise_ = 0.5 * (au[AU[1]].mean() + au[AU[2]].mean())
        level = min(1.0, 0.3 * p.wrinkles + 0.8 * raise_)
        if level > 0.12:
            for row, y in enumerate((-42.0, -50.0, -57.0)):
                y = y - 4 * raise_
                x = np.array([-34.0, -17.0, 0.0, 17.0, 34.0]) * (1 - 0.08 * row)
                line = np.stack(
                    [
                        x,
                        y + np.array([1.0, -1.5, 0.5, -1.5, 1.0]),
                        geometry.surface(x, np.full(5, y)),
                    ],
                    axis=1,
                )
                _stroke(
                    self.detail,
                    spline(5, 2) @ self.project(line),
                    128 - 40 * level,
                    self.width(1.0),
                )
        frown = min(1.0, 0.2 * p.wrinkles + au[AU[4]].mean())
        if frown > 0.15:
            lines = np.array([[(s * 5.0, -30.0, 6.0), (s * 4.0, -14.0, 9.0)] for s in (-1.0, 1.0)])
            for line in self.project(lines):
                _stroke(self.detail, line, 128 - 55 * frown, self.width(1.2))
        wrinkle = au[AU[9]].mean()
        if wrinkle > 0.15:
            for y in (2.0, 8.0, 14.0):
                line = np.array([(-9.0, y + 4, 6.0), (0.0, y, 12.0), (9.0, y + 4, 6.0)])
                _stroke(
                    self.detail,
                    spline(3, 3) @ self.project(line),
                    128 - 50 * wrinkle,
                    self.width(1.0),
                )

    def nose(self) -> None:
        p = self.person
        base = self.flat[31:36]
        left, right = base[0], base[4]
        axis = (right - left) / (np.linalg.norm(right - left) + 1e-6)
        down = np.array([-axis[1], axis[0]])
        for centre in (0.5 * (base[1] + base[2]), 0.5 * (base[3] + base[2])):
            at = centre + (centre - base[2]) * 0.6 - down * 0.8 * self.mm
            offsets = np.array([(-1.0, 0.2), (0.0, -0.55), (1.0, 0.2), (0.0, 0.45)]) * [
                3.2 * self.mm,
                2.6 * self.mm,
            ]
            _fill(self.image, at + offsets[:, :1] * axis + offsets[:, 1:] * down, p.skin * 0.36)
        under = np.concatenate(
            [self.curve([31, 32, 33, 34, 35], 3), (base[[4, 2, 0]] + down * 4.0 * self.mm)]
        )
        _fill(self.soft, under / 2, 104)
        for side, sign in ((0, -1.0), (4, 1.0)):
            wing = np.stack(
                [
                    base[side] + axis * sign * 0.5 * self.mm - down * 8 * self.mm,
                    base[side] + axis * sign * 2.6 * self.mm - down * 3 * self.mm,
                    base[side] + down * 0.8 * self.mm,
                ]
            )
            _stroke(self.detail, spline(3, 3) @ wing, 88, self.width(1.0))

    def mouth(self) -> None:
        p = self.person
        upper, lower = [48, 49, 50, 51, 52, 53, 54], [54, 55, 56, 57, 58, 59, 48]
        top, bottom = self.curve(upper), self.curve(lower)
        inner_top = self.curve([48, 60, 61, 62, 63, 64, 54], 3)
        inner_bottom = self.curve([54, 64, 65, 66, 67, 60, 48], 3)
        _fill(self.image, np.concatenate([top, inner_top[::-1]]), p.lip_colour * 0.86)
        _fill(self.image, np.concatenate([bottom, inner_bottom[::-1]]), p.lip_colour)
        gap = np.linalg.norm(self.flat[66] - self.flat[62]) / self.mm
        if gap > 1.2:
            self.cavity(np.concatenate([inner_top, inner_bottom[1:-1]]), gap)
        else:
            _stroke(self.image, inner_top, p.lip_colour * 0.45, self.width(1.0))
        under = self.flat[[59, 58, 57, 56, 55]]
        down = (self.flat[8] - self.flat[57]) / (
            np.linalg.norm(self.flat[8] - self.flat[57]) + 1e-6
        )
        _stroke(self.soft, (spline(5, 3) @ under + down * 3.0 * self.mm) / 2, 108, self.width(2.0))
        for index, sign in ((48, -1), (54, 1)):
            dimple = float(self.au[AU[14], 0 if index == 48 else 1])
            self_depth = 128 - 24 - 46 * dimple
            corner = self.flat[index]
            _stroke(
                self.detail,
                corner
                + np.array([(0.0, -1.5 - 4 * dimple), (sign * 1.5, 0.0), (0.0, 1.5 + 4 * dimple)])
                * self.mm,
                self_depth,
                self.width(1.4),
            )

    def cavity(self, outline: np.ndarray, gap: float) -> None:
        low = np.maximum(np.floor(outline.min(0)).astype(int) - 2, 0)
        high = np.minimum(np.ceil(outline.max(0)).astype(int) + 3, self.size)
        if (high - low < 3).any():
            return
        area = self.image[low[1] : high[1], low[0] : high[0]]
        patch = np.empty_like(area)
        patch[:] = (58, 20, 22)
        top = self.curve([60, 61, 62, 63, 64], 3) - low
        bottom = self.curve([60, 67, 66, 65, 64], 3) - low
        down = self.flat[66] - self.flat[62]
        down = down / (np.linalg.norm(down) + 1e-6)
        if gap > 9:
            middle = bottom[4:-4] - down * 0.32 * gap * self.mm
            _fill(patch, np.concatenate([bottom[3:-3], middle[::-1]]), np.array([150, 70, 72]))
        teeth = np.array([226.0, 220.0, 208.0]) * (1 - 0.12 * self.person.age)
        height = min(0.75 * gap, 8.5)
        _fill(
            patch,
            np.concatenate([top[2:-2] - down * 2, (top[2:-2] + down * height * self.mm)[::-1]]),
            teeth,
        )
        stretch = float(self.au[AU[20]].mean() + self.au[AU[16]].mean())
        if stretch > 0.4 and gap > 3:
            low_height = min(0.4 * gap, 6.0) * min(1.0, stretch)
            _fill(
                patch,
                np.concatenate(
                    [bottom[2:-2] + down * 2, (bottom[2:-2] - down * low_height * self.mm)[::-1]]
                ),
                teeth * 0.88,
            )
        self.blend(area, patch, outline - low)

    def blend(self, area: np.ndarray, patch: np.ndarray, outline: np.ndarray) -> None:
        """Put the patch into the image within an outline."""
        mask = np.zeros(area.shape[:2], np.uint8)
        _fill(mask, outline, 255)
        alpha = mask[..., None].astype(np.float32) * np.float32(1 / 255)
        area[:] = area + (patch.astype(np.float32) - area) * alpha + 0.5

    def eyes(self) -> None:
        p, au, mm = self.person, self.au, self.mm
        gaze = (np.array(self.u[3:5]) - 0.5) * [7.0, 3.0]
        for side, (ring, sign) in enumerate(
            (([36, 37, 38, 39, 40, 41], -1.0), ([45, 44, 43, 42, 47, 46], 1.0))
        ):
            upper, lower = self.curve(ring[:4]), self.curve([ring[3], ring[4], ring[5], ring[0]])
            outline = np.concatenate([upper, lower[1:-1]])
            low = np.maximum(np.floor(outline.min(0)).astype(int) - 2, 0)
            high = np.minimum(np.ceil(outline.max(0)).astype(int) + 3, self.size)
            if (high - low < 3).any():
                continue
            lid = p.skin * 0.80
            up = np.array([0.0, -1.0]) @ self.camera.rotation[:2, :2].T
            crease = upper + up * (2.6 + 1.0 * (1 - p.hood)) * mm
            _fill(self.image, np.concatenate([upper, crease[::-1]]), lid * (1 - 0.15 * p.make_up))
            _stroke(self.detail, crease, 86, self.width(0.9))
            area = self.image[low[1] : high[1], low[0] : high[0]]
            patch = np.empty_like(area)
            patch[:] = (218, 212, 206)
            middle = self.points[ring].mean(0)
            middle = np.array([sign * (31.5 + p.eye_spacing) * p.head_width, 0.4, middle[2] + 4.0])
            middle[:2] += gaze
            iris = self.project(middle)
            self.irises = getattr(self, "irises", []) + [iris]
            _stroke(
                patch, upper - low + [0.0, 0.6 * mm], np.array([150, 138, 132]), self.width(2.0)
            )
            _disc(patch, iris - low, 6.2 * mm, p.iris * 0.55)
            _disc(patch, iris - low, 5.2 * mm, p.iris)
            _disc(patch, iris - low, 2.5 * mm, np.array([10, 8, 8]))
            self.blend(area, patch, outline - low)
            _stroke(self.image, upper, p.skin * 0.16 + 8, self.width(1.3 + 0.8 * p.make_up))
            _stroke(self.image, lower, p.skin * 0.62, 1)
            bag = (
                lower
                + np.array([0.0, 1.0])
                @ self.camera.rotation[:2, :2].T
                * (4.0 - 1.5 * au[AU[6], side])
                * mm
            )
            depth = 0.25 + 0.5 * p.wrinkles + 0.6 * max(au[AU[6], side], au[AU[7], side])
            _stroke(self.detail, bag[1:-1], 128 - 32 * min(1.0, depth), 1)
            if au[AU[6], side] > 0.3:
                outer = self.points[ring[0]]
                for k in (-1.0, 0.2, 1.4):
                    foot = self.project(
                        np.array([outer + [sign * 3, k, -2], outer + [sign * 11, 4 * k, -8]])
                    )
                    _stroke(self.detail, foot, 128 - 34 * au[AU[6], side] * (0.5 + 0.5 * p.age), 1)

    def brows(self) -> None:
        p = self.person
        up = np.array([0.0, -1.0]) @ self.camera.rotation[:2, :2].T
        thick = p.brow_thickness * np.array([0.75, 1.0, 1.0, 0.8, 0.25])
        for indices in ([21, 20, 19, 18, 17], [22, 23, 24, 25, 26]):
            middle = self.flat[indices]
            half = 0.5 * thick[:, None] * self.mm * up
            weights = spline(5, 3)
            _fill(
                self.image,
                np.concatenate([weights @ (middle + half), (weights @ (middle - half))[::-1]]),
                0.75 * p.brow_colour + 0.25 * p.skin,
            )
            _fill(
                self.image,
                np.concatenate(
                    [weights @ (middle + 0.4 * half), (weights @ (middle - 0.6 * half))[::-1]]
                ),
                p.brow_colour,
            )

    def lit(self) -> None:
        shade = shading.skin(self.person, self.au, self.level, self.camera, self.light, self.size)
        soft = cv2.GaussianBlur(self.soft, (5, 5), 0)
        shade *= soft[..., None].astype(np.float32) * np.float32(1 / 128)
        shade = np.clip(shade * 128, 0, 255).astype(np.uint8)
        shade = cv2.resize(shade, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        plain = np.full_like(shade, 128)
        cv2.copyTo(shade, self.mask, plain)
        detail = cv2.GaussianBlur(self.detail, (3, 3), 0)
        plain = cv2.multiply(plain, cv2.cvtColor(detail, cv2.COLOR_GRAY2RGB), scale=1 / 128)
        self.image = cv2.multiply(self.image, plain, scale=1 / 128)

    def shine(self) -> None:
        """Catchlights, on the side of the light."""
        key = self.light.key
        for iris in self.irises:
            at = iris + np.array([2.0 * key[0], -1.8]) * self.mm
            x, y = np.round(at).astype(int).tolist()
            if (
                0 <= x < self.size
                and 0 <= y < self.size
                and min(self.flat[41, 1] - self.flat[37, 1], self.flat[46, 1] - self.flat[44, 1])
                > 2.2
            ):
                _disc(self.image, at, 1.0 * self.mm, np.array([235, 235, 235]))

    def spectacles(self) -> None:
        p = self.person
        square = 2.0 + 3.0 * p.glasses_shape
        angle = np.linspace(0, 2 * np.pi, 21)[:-1]
        x = 23.0 * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / square)
        y = 17.0 * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / square) + 3.0
        for sign in (-1.0, 1.0):
            rim = np.stack([sign * 33.0 + x, y, np.full(20, 10.0) - 0.1 * np.abs(x * 0.5)], axis=1)
            _stroke(self.image, self.project(rim), p.glasses_colour, self.width(1.8), True)
            arm = np.array([(sign * 56.0, 0.0, 6.0), (sign * 74.0, -4.0, -70.0)])
            _stroke(self.image, self.project(arm), p.glasses_colour, self.width(1.6))
        bridge = np.array([(-10.5, 1.0, 10.0), (0.0, -2.0, 12.0), (10.5, 1.0, 10.0)])
        _stroke(self.image, self.project(bridge), p.glasses_colour, self.width(1.8))
