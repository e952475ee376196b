"""Draws one posed face: flat colours first, then light, then what shines."""

import math

import cv2
import numpy as np

from data_pipelines.rendering import canvas, geometry, head, shading
from data_pipelines.rendering.canvas import Colour, mix, shade
from data_pipelines.rendering.expressions import Muscles
from data_pipelines.rendering.geometry import Camera, spline
from data_pipelines.rendering.identity import Person
from data_pipelines.rendering.shading import Light

_ACROSS = np.array([-34.0, -17.0, 0.0, 17.0, 34.0])
_FOREHEAD = np.array(
    [
        np.stack([x, y, geometry.surface(x, y) + 1.0], axis=1)
        for x, y in (
            (_ACROSS * (1.0 - 0.08 * row), height + np.array([1.0, -1.5, 0.5, -1.5, 1.0]))
            for row, height in enumerate((-40.0, -48.0, -55.5))
        )
    ]
)
_BUNNY = np.array(
    [[(-10.0, y + 5.0, 4.0), (0.0, y, 13.0), (10.0, y + 5.0, 4.0)] for y in (1.0, 7.5, 14.0)]
)
_BONES = np.array(
    [(s * x, y, z) for s in (-1, 1) for x, y, z in ((57, 24, -26), (52, -30, -20), (50, 2, -19))],
    float,
)
_LID_SHADOW = (150.0, 138.0, 132.0)
_WHITE: Colour = (222.0, 217.0, 212.0)
_TEETH: Colour = (228.0, 222.0, 210.0)
_GUMS: Colour = (48.0, 16.0, 18.0)
_TONGUE: Colour = (136.0, 60.0, 62.0)
_PARTED = 1.4  # lips further apart than this, in millimetres, show what is behind them
_TEETH_ARC = 1.0 - np.abs(np.linspace(-1.0, 1.0, 17))[:, None] ** 5
# From the outer corner over the upper lid to the inner corner and back.
_RINGS = ([36, 37, 38, 39, 40, 41], [45, 44, 43, 42, 47, 46])
_LIDS = 13  # points of an upper lid


def _folds_by_landmarks() -> tuple[np.ndarray, np.ndarray]:
    """Weights [n, 68] and offsets [n, 3]: smile lines [2, 3], then crow's feet [6, 2]."""
    one, smile, feet = np.eye(68), [], []
    for wing, corner, outer, sign in ((31, 48, 36, -1.0), (35, 54, 45, 1.0)):
        start, end = np.array([sign * 3.0, -3.0, -2.0]), np.array([sign * 6.5, 1.0, -6.0])
        bulge = 0.5 * (start + end) + (sign * 4.5, -3.0, 1.0)
        middle = 0.5 * (one[wing] + one[corner])
        smile += [(one[wing], start), (middle, bulge), (one[corner], end)]
        for k in (-1.6, 0.2, 2.0):
            feet += [
                (one[outer], (sign * 4.0, k, -3.0)),
                (one[outer], (sign * 12.0, 3.5 * k, -9.0)),
            ]
    weights, offsets = zip(*smile, *feet, strict=True)
    return np.array(weights), np.array(offsets)


def _curves() -> dict[str, np.ndarray]:
    """Weights [..., 81] of the drawn curves: of 68 landmarks, the 11 points of the hairline, and a
    millimetre to the right and down in the plane of the face, all in pixels."""
    one = np.eye(81)
    points, hairline, axes = one[:68], one[68:79], one[79:]
    down = axes[1]

    def curve(indices: list[int], per_segment: int = 4) -> np.ndarray:
        return spline(len(indices), per_segment) @ points[indices]

    def about(centre: np.ndarray, offsets: list[tuple[float, float]], sign: int = 1) -> np.ndarray:
        return centre + np.array(offsets) * (sign, 1.0) @ axes

    base, jaw = points[31:36], spline(17, 2) @ points[:17]
    top, bottom = curve([48, 49, 50, 51, 52, 53, 54]), curve([54, 55, 56, 57, 58, 59, 48])
    inner_top = curve([48, 60, 61, 62, 63, 64, 54], 3)
    inner_bottom = curve([54, 64, 65, 66, 67, 60, 48], 3)
    hole = [(-3.2, -0.3), (0.0, -2.6), (3.2, -0.3), (0.0, 0.4)]
    wing = [(0.5, -8.5), (2.8, -3.5), (0.0, 0.8)]
    chin = [(-11.0, 3.0), (-6.0, -3.5), (0.0, -5.5), (6.0, -3.5), (11.0, 3.0)]
    rim = points[[59, 58, 57, 56, 55]]
    beard = curve([48, 49, 50, 51, 52, 53, 54], 3)[1:-1] - 0.8 * down
    under_nose = beard[14:1:-3] + 0.45 * (base[::-1] - beard[14:1:-3])
    hair = spline(11, 3) @ hairline
    return {
        "face": np.concatenate([jaw, hair[::-1]]),
        "hairline": hair,
        "holes": np.stack([about(0.8 * base[k] + 0.2 * base[2], hole) for k in (1, 3)]),
        "under_nose": np.concatenate([spline(5, 3) @ base, base[[4, 2, 0]] + 5.0 * down]),
        "wings": np.stack([spline(3, 3) @ about(base[k], wing, s) for k, s in ((0, -1), (4, 1))]),
        "moustache": np.concatenate([beard, under_nose]),
        "upper_lip": np.concatenate([top, inner_top[::-1]]),
        "lower_lip": np.concatenate([bottom, inner_bottom[::-1]]),
        "parting": inner_top,
        "opening": np.concatenate([inner_top, inner_bottom[1:-1]]),
        "upper_edge": curve([60, 61, 62, 63, 64]),
        "lower_edge": curve([60, 67, 66, 65, 64]),
        "glint": 0.5 * (points[[67, 66, 65]] + rim[1:4]),
        "under_lip": rim + 3.4 * down,
        "chin": spline(5, 2) @ about(0.45 * points[57] + 0.55 * points[8], chin),
        "eyes": np.stack(
            [np.concatenate([curve(r[:4]), curve([*r[3:], r[0]])[1:]]) for r in _RINGS]
        ),
        "brows": np.stack([curve(r, 3) for r in ([21, 20, 19, 18, 17], [22, 23, 24, 25, 26])]),
    }


_FOLD_WEIGHTS, _FOLD_OFFSETS = _folds_by_landmarks()
_CURVES = geometry.Table(_curves())
_BROW_TAPER = spline(5, 3) @ [[0.8], [1.0], [0.95], [0.75], [0.2]]


class Painter:
    """One picture in the making: `paint` draws it, `landmarks` are its 68 points in pixels.

    Args:
      person, muscles, camera, light: what is drawn and how it is seen.
      points: float64 [68, 3] landmarks in face coordinates.
      background: uint8 [size, size, 4] with a last channel of 0, drawn over.
      u: 10 uniform numbers for what belongs to the clip (gaze, clothes, obstacle).
      obstacle: whether something hides an edge of the face.
    """

    def __init__(
        self,
        person: Person,
        muscles: Muscles,
        points: np.ndarray,
        camera: Camera,
        light: Light,
        background: np.ndarray,
        u: list[float],
        obstacle: bool,
    ) -> None:
        self.person, self.muscles, self.camera, self.light = person, muscles, camera, light
        self.points, self.image, self.u, self.obstacle = points, background, u, obstacle
        self.size, self.mm = background.shape[0], camera.scale
        # Fine and broad shadows, 128 = none; they darken the skin when it is lit.
        self.detail = np.full((self.size, self.size), 128, np.uint8)
        self.soft = np.full((self.size // 2, self.size // 2), 128, np.uint8)
        self.level = geometry.levels(person, muscles)
        # A millimetre to the right and down in the plane of the face, in pixels.
        self.axes = camera.rotation[:2, :2].T * camera.scale
        self.flat = self._project_all()
        self.landmarks = self.flat["landmarks"]
        corners = np.concatenate([self.landmarks, self.flat["hairline"], self.axes])
        self.curves = _CURVES.split(_CURVES.rows @ corners)

    def paint(self) -> np.ndarray:
        """The picture, uint8 [size, size, 3]."""
        head.paint_behind(
            self.image, self.soft, self.person, self.flat, self.curves["face"], self.mm, self.u[2:5]
        )
        self._folds()
        self._nose()
        self._mouth()
        self._eyes()
        self._brows()
        head.paint_hair_in_front(
            self.image, self.detail, self.person, self.flat, self.curves["hairline"]
        )
        self._light_up()
        self._shine()
        if self.person.glasses:
            brightness = 0.4 + 0.6 * self.light.strength
            head.paint_spectacles(self.image, self.person, self.flat, self.mm, brightness)
        if self.obstacle:
            head.paint_obstacle(self.image, self.flat, self.person, self.mm, self.u[5:10])
        return self.image

    def _project_all(self) -> dict[str, np.ndarray]:
        """All curves of the head in pixels; one projection for the lot."""
        m, camera = self.muscles, self.camera
        folds = _FOLD_WEIGHTS @ self.points + _FOLD_OFFSETS
        look_x, look_y = 5.0 * (self.u[0] - 0.5), 0.6 + 3.0 * (self.u[1] - 0.5)
        centre = (31.5 + self.person.eye_spacing) * self.person.head_width
        lower = m.mean[4] + m.mean[9]
        shapes = {
            "landmarks": self.points,
            "smile": folds[:6].reshape(2, 3, 3),
            "feet": folds[6:].reshape(6, 2, 3),
            # Lines that muscles and age draw into the skin.
            "forehead": _FOREHEAD - (0.0, 2.5 * (m.mean[1] + m.mean[2]), 0.0),
            "bones": _BONES * (self.person.head_width, 1.0, 1.0),
            "irises": np.array([(s * centre + look_x, look_y, -2.0) for s in (-1.0, 1.0)]),
            "frown": np.array(
                [
                    [(s * 6.0, -32.0 + 4.0 * lower, 5.0), (s * 4.2, -14.0 + lower, 8.0)]
                    for s in (-1.0, 1.0)
                ]
            ),
            "bunny": _BUNNY,
            **head.shapes(self.person),
        }
        table = geometry.Table(shapes)
        # The body does not turn with the head.
        turned = np.concatenate([camera.turn(table.rows), head.BODY])
        pixels = camera.flatten(turned)
        return {**table.split(pixels), "body": pixels[-len(head.BODY) :]}

    def _width(self, millimetres: float) -> int:
        return max(1, round(millimetres * self.mm))

    def _folds(self) -> None:
        p, m, flat = self.person, self.muscles, self.flat
        smile = spline(3, 4) @ flat["smile"]
        for line, half in zip(smile, (m.left, m.right), strict=True):
            deep = 0.30 * p.wrinkles + 0.75 * max(half[12], 0.9 * half[10]) + 0.35 * half[9]
            canvas.stroke(self.detail, line, 128 - 50 * min(1.0, deep), self._width(1.3))
            canvas.stroke(self.soft, line[2:] / 2, 128 - 26 * min(1.0, deep), self._width(1.5))
        across = min(1.0, 0.35 * p.wrinkles + 0.45 * (m.mean[1] + m.mean[2]))
        if across > 0.12:
            count = 3 if m.mean[2] > 0.3 or p.wrinkles > 0.4 else 2
            lines = spline(5, 2) @ flat["forehead"][:count]
            if m.mean[2] < 0.45 * m.mean[1]:  # the inner brow alone folds the middle only
                lines = lines[:, 2:-2]
            canvas.stroke(self.detail, lines, 128 - 42 * across, self._width(1.0))
            canvas.stroke(self.detail, lines - 2.0 * self.axes[1], 128 + 14 * across)
        frown = min(1.0, 0.25 * p.wrinkles + m.mean[4] + 0.4 * m.mean[9])
        if frown > 0.15:
            canvas.stroke(self.detail, flat["frown"], 128 - 62 * frown, self._width(1.3))
        if m.mean[9] > 0.15:
            lines = spline(3, 3) @ flat["bunny"]
            canvas.stroke(self.detail, lines, 128 - 50 * min(1.0, m.mean[9]), self._width(1.1))
        crow = m.mean[6] * (0.35 + 0.65 * p.age)
        if crow > 0.15:
            canvas.stroke(self.detail, flat["feet"], 128 - 38 * min(1.0, crow))

    def _nose(self) -> None:
        p, curves = self.person, self.curves
        canvas.fill(self.image, curves["holes"], shade(p.skin, 0.34))
        canvas.fill(self.soft, curves["under_nose"] / 2, 98)
        canvas.stroke(self.detail, curves["wings"], 84, self._width(1.1))
        if p.moustache > 0:
            hair = mix(p.skin, shade(p.hair, 0.8), 0.75 * p.moustache)
            canvas.fill(self.image, curves["moustache"], hair)

    def _mouth(self) -> None:
        m, lips, points, curves = self.muscles, self.person.lip_colour, self.landmarks, self.curves
        canvas.fill(self.image, curves["upper_lip"], shade(lips, 0.84))
        canvas.fill(self.image, curves["lower_lip"], lips)
        gap = math.dist(points[66], points[62]) / self.mm
        if gap > _PARTED:
            self._cavity(gap)
        else:
            canvas.stroke(self.image, curves["parting"], shade(lips, 0.42), self._width(1.2))
        canvas.stroke(self.detail, curves["glint"], 142, self._width(1.5))
        canvas.stroke(self.soft, curves["under_lip"] / 2, 104, self._width(2.2))
        # A shadow at each corner, and the pit that a dimpler makes beside it.
        halves = (m.left, m.right)
        pits = np.array(
            [
                [(s * 0.5, -reach), (s * (1.5 + 2.0 * half[14]), -0.2), (s * 1.0, reach)]
                for s, half, reach in zip(
                    (-1.0, 1.0), halves, [1.5 + 5.0 * half[14] for half in halves], strict=True
                )
            ]
        )
        lines = spline(3, 3) @ (points[48:55:6, None] + pits @ self.axes)
        for line, half in zip(lines, halves, strict=True):
            deep = min(1.0, 0.28 + 0.8 * half[14] + 0.25 * half[12])
            canvas.stroke(self.detail, line, 128 - 64 * deep, self._width(1.5))
        if m.mean[17] > 0.25:  # the chin's pitted boss
            deep = min(1.0, m.mean[17])
            canvas.stroke(self.detail, curves["chin"], 128 - 40 * deep, self._width(1.2))

    def _cavity(self, gap: float) -> None:
        """Teeth, tongue and darkness between parted lips, `gap` millimetres apart."""
        outline = self.curves["opening"]
        box = canvas.window(outline, self.size)
        if box is None:
            return
        x0, y0, _, _ = box
        patch = canvas.patch(box, _GUMS)
        top, bottom = self.curves["upper_edge"] - (x0, y0), self.curves["lower_edge"] - (x0, y0)
        down = self.axes[1]
        if gap > 8:
            canvas.fill(
                patch, np.concatenate([bottom[3:-3], bottom[-4:2:-1] - 0.26 * gap * down]), _TONGUE
            )
        teeth = shade(_TEETH, 1.0 - 0.14 * self.person.age)
        # The row of teeth is an arc: it does not follow the lip all the way up to its corners.
        row = top + 0.35 * (top.mean(0) - top) * [0.0, 1.0]
        both = self.muscles.mean
        raised = max(both[12], both[10], both[20])
        height = min(0.72 * gap, 1.5 + 6.5 * raised) * _TEETH_ARC
        canvas.fill(patch, np.concatenate([top - 3.0 * down, (row + height * down)[::-1]]), teeth)
        bared = min(1.0, both[20] + both[16])
        if bared > 0.4 and gap > 3.5:
            rise = min(0.40 * gap, 5.5) * bared * _TEETH_ARC
            low = np.concatenate([bottom + 3.0 * down, (bottom - rise * down)[::-1]])
            canvas.fill(patch, low, shade(teeth, 0.86))
            canvas.stroke(
                patch, 0.5 * (row + height * down + bottom - rise * down)[2:-2], shade(teeth, 0.4)
            )
        canvas.stroke(patch, top + 0.4 * down, shade(teeth, 0.55), self._width(1.2))
        canvas.blend(self.image, patch, box, outline)

    def _eyes(self) -> None:
        p, down, rings = self.person, self.axes[1], self.curves["eyes"]
        halves = (self.muscles.left, self.muscles.right)
        upper, lower = rings[:, :_LIDS], rings[:, _LIDS - 1 :]
        # A raised lid folds away behind its crease, a lowered one shows more of itself.
        lids = [max(0.8, 3.4 - 1.0 * p.hood - 2.2 * half[5] + 2.5 * half[43]) for half in halves]
        crease = upper - np.multiply.outer(lids, down)[:, None]
        lid_colour = mix(shade(p.skin, 0.84), (92.0, 70.0, 84.0), 0.3 * p.make_up)
        canvas.fill(self.image, np.concatenate([upper, crease[:, ::-1]], axis=1), lid_colour)
        canvas.stroke(self.detail, crease, 82, self._width(1.0))
        for ring, iris in zip(rings[:, :-1], self.flat["irises"], strict=True):
            self._eyeball(ring, iris)
        lashes = mix(shade(p.skin, 0.2), (14.0, 10.0, 10.0), 0.5)
        canvas.stroke(self.image, upper, lashes, self._width(1.4 + 0.8 * p.make_up))
        canvas.stroke(self.image, lower, shade(p.skin, 0.58))
        drops = [4.4 - 1.2 * half[6] - 0.8 * half[7] for half in halves]
        bags = lower[:, 1:-1] + np.multiply.outer(drops, down)[:, None]
        for bag, half in zip(bags, halves, strict=True):
            deep = min(1.0, 0.25 + 0.5 * p.wrinkles + 0.7 * max(half[6], half[7]))
            canvas.stroke(self.detail, bag, 128 - 40 * deep, self._width(1.0))

    def _eyeball(self, ring: np.ndarray, iris: np.ndarray) -> None:
        box = canvas.window(ring, self.size)
        if box is None:
            return
        x0, y0, _, _ = box
        p, mm = self.person, self.mm
        patch = canvas.patch(box, _WHITE)
        shadow = ring[:_LIDS] + (0.5 * self.axes[1] - (x0, y0))
        canvas.stroke(patch, shadow, _LID_SHADOW, self._width(2.0))
        iris = iris - (x0, y0)
        canvas.disc(patch, iris, 6.3 * mm, shade(p.iris, 0.5))
        canvas.disc(patch, iris, 5.2 * mm, p.iris)
        canvas.disc(patch, iris, 2.6 * mm, (10.0, 8.0, 8.0))
        canvas.blend(self.image, patch, box, ring)

    def _brows(self) -> None:
        p, middle = self.person, self.curves["brows"]
        hair = mix(p.brow_colour, p.skin, 0.12)
        half = _BROW_TAPER * (0.5 * p.brow_thickness * self.axes[1])
        top, low = middle - half, middle + half
        canvas.fill(self.image, np.concatenate([top, low[:, ::-1]], axis=1), hair)
        strands = np.concatenate([low[:, :-2], top[:, 2:]], axis=2)
        canvas.stroke(self.image, strands.reshape(-1, 2, 2), shade(hair, 0.75))

    def _light_up(self) -> None:
        """Multiply the flat colours by the light on the head and by the folds' shadows."""
        bright = shading.skin(
            self.person, self.muscles, self.level, self.camera, self.light, self.size
        )
        soft = cv2.GaussianBlur(self.soft, (5, 5), 0)
        cv2.multiply(bright, cv2.merge([soft] * 4), bright, scale=1 / 128)
        bright = cv2.resize(bright, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        bright = cv2.cvtColor(bright, cv2.COLOR_RGBA2RGB)
        image, mask = (
            cv2.cvtColor(self.image, cv2.COLOR_RGBA2RGB),
            cv2.extractChannel(self.image, 3),
        )
        folds = cv2.multiply(cv2.GaussianBlur(self.detail, (3, 3), 0), mask, scale=1 / 255)
        cv2.multiply(bright, cv2.cvtColor(folds, cv2.COLOR_GRAY2RGB), bright, scale=1 / 128)
        # Outside the head the background keeps its own colours (128 = unchanged).
        rest = cv2.convertScaleAbs(mask, alpha=-128 / 255, beta=128)
        cv2.add(bright, cv2.cvtColor(rest, cv2.COLOR_GRAY2RGB), bright)
        self.image = cv2.multiply(image, bright, image, scale=1 / 128)

    def _shine(self) -> None:
        """Catchlights in open eyes, on the side of the light."""
        shift = np.array([2.0 * self.light.key[0], -1.8]) * self.mm
        for iris, ring in zip(self.flat["irises"], _RINGS, strict=True):
            lids = self.landmarks[ring]
            if lids[4, 1] - lids[1, 1] > 6.0 * self.mm:
                canvas.disc(self.image, iris + shift, 1.0 * self.mm, (240.0, 240.0, 240.0))
