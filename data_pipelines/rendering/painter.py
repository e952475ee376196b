"""Draw one posed face: flat colours, then light, then highlights."""

import dataclasses
import math

import cv2
import numpy as np

from data_pipelines.rendering import canvas, geometry, head, outlines, shading
from data_pipelines.rendering.canvas import Colour, mix, shade
from data_pipelines.rendering.expressions import Muscles
from data_pipelines.rendering.geometry import Camera, spline
from data_pipelines.rendering.identity import Person
from data_pipelines.rendering.outlines import LIDS
from data_pipelines.rendering.shading import Light

_LID_SHADOW = (150.0, 138.0, 132.0)
_WHITE: Colour = (222.0, 217.0, 212.0)
_TEETH: Colour = (228.0, 222.0, 210.0)
_GUMS: Colour = (48.0, 16.0, 18.0)
_TONGUE: Colour = (136.0, 60.0, 62.0)
_PARTED = 1.4  # lips further apart than this, in millimetres, show what is behind them
_OPENINGS = ((37, 40), (44, 47))  # landmarks of the upper and the lower lid
_TEETH_ARC = 1.0 - np.abs(np.linspace(-1.0, 1.0, 17))[:, None] ** 5


@dataclasses.dataclass(eq=False)
class Painter:
    """One image in the making: `paint` draws it; `landmarks` are its 68 points.

    Attributes:
      person, muscles, camera, light: what is drawn and how it is seen.
      points: float64 [68, 3] landmarks in face coordinates.
      image: the background, uint8 [size, size, 4] with a last channel of 0; is drawn over.
      u: 10 uniform numbers for what belongs to the clip (gaze, clothes, obstacle).
      obstacle: whether something hides an edge of the face.
    """

    person: Person
    muscles: Muscles
    points: np.ndarray
    camera: Camera
    light: Light
    image: np.ndarray
    u: list[float]
    obstacle: bool

    def __post_init__(self) -> None:
        self.size, self.mm = self.image.shape[0], self.camera.scale
        # Fine and broad shadows, 128 = none; they darken the skin when it is lit.
        self.detail = np.full((self.size, self.size), 128, np.uint8)
        self.soft = np.full((self.size // 2, self.size // 2), 128, np.uint8)
        self.level = geometry.levels(self.person, self.muscles)
        traced = outlines.trace(self.person, self.muscles, self.points, self.camera, self.u[:2])
        self.flat, self.ink, self.down = traced.flat, traced.ink, traced.down
        self.landmarks = self.flat["landmarks"]

    def paint(self) -> np.ndarray:
        """Return the image, uint8 [size, size, 3]."""
        head.paint_behind(
            self.image, self.soft, self.person, self.flat, self.ink, self.mm, self.u[2:5]
        )
        self._folds()
        self._nose()
        self._mouth()
        self._eyes()
        self._brows()
        head.paint_hair_in_front(self.image, self.detail, self.person, self.flat, self.ink)
        self._light_up()
        self._shine()
        if self.person.glasses:
            brightness = 0.4 + 0.6 * self.light.strength
            head.paint_spectacles(self.image, self.person, self.ink, self.mm, brightness)
        if self.obstacle:
            head.paint_obstacle(self.image, self.landmarks[:17], self.person, self.mm, self.u[5:10])
        return self.image

    def _width(self, millimetres: float) -> int:
        return max(1, round(millimetres * self.mm))

    def _folds(self) -> None:
        p, m, ink = self.person, self.muscles, self.ink
        for line, soft, half in zip(
            ink["smile"], ink["soft_smile"], (m.left, m.right), strict=True
        ):
            deep = 0.30 * p.wrinkles + 0.75 * max(half[12], 0.9 * half[10]) + 0.35 * half[9]
            canvas.stroke(self.detail, line, 128 - 50 * min(1.0, deep), self._width(1.3))
            canvas.stroke(self.soft, soft, 128 - 26 * min(1.0, deep), self._width(1.5))
        across = min(1.0, 0.35 * p.wrinkles + 0.45 * (m.mean[1] + m.mean[2]))
        if across > 0.12:
            count = 3 if m.mean[2] > 0.3 or p.wrinkles > 0.4 else 2
            # The inner brow alone folds the middle only.
            part = slice(2, -2) if m.mean[2] < 0.45 * m.mean[1] else slice(None)
            furrows, ridges = (ink[f"forehead_{x}"][:count, part] for x in ("lines", "ridges"))
            canvas.stroke(self.detail, furrows, 128 - 42 * across, self._width(1.0))
            canvas.stroke(self.detail, ridges, 128 + 14 * across)
        frown = min(1.0, 0.25 * p.wrinkles + m.mean[4] + 0.4 * m.mean[9])
        if frown > 0.15:
            canvas.stroke(self.detail, ink["frown"], 128 - 62 * frown, self._width(1.3))
        if m.mean[9] > 0.15:
            lines = spline(3, 3) @ self.flat["bunny"]
            canvas.stroke(self.detail, lines, 128 - 50 * min(1.0, m.mean[9]), self._width(1.1))
        crow = m.mean[6] * (0.35 + 0.65 * p.age)
        if crow > 0.15:
            feet = ink["folds"][6:].reshape(6, 2, 2)
            canvas.stroke(self.detail, feet, 128 - 38 * min(1.0, crow))

    def _nose(self) -> None:
        p, ink = self.person, self.ink
        canvas.fill(self.image, ink["holes"], shade(p.skin, 0.34))
        canvas.fill(self.soft, ink["soft_under_nose"], 98)
        canvas.stroke(self.detail, ink["wings"], 84, self._width(1.1))
        if p.moustache > 0:
            hair = mix(p.skin, shade(p.hair, 0.8), 0.75 * p.moustache)
            canvas.fill(self.image, ink["moustache"], hair)

    def _mouth(self) -> None:
        m, lips, points, ink = self.muscles, self.person.lip_colour, self.landmarks, self.ink
        canvas.fill(self.image, ink["upper_lip"], shade(lips, 0.84))
        canvas.fill(self.image, ink["lower_lip"], lips)
        gap = math.dist(points[66], points[62]) / self.mm
        if gap > _PARTED:
            self._cavity(gap)
        else:
            canvas.stroke(self.image, ink["parting"], shade(lips, 0.42), self._width(1.2))
        canvas.stroke(self.detail, ink["glint"], 142, self._width(1.5))
        canvas.stroke(self.soft, ink["soft_under_lip"], 104, self._width(2.2))
        # A shadow at each corner, and the pit that a dimpler makes next to it.
        for line, half in zip(ink["pits"], (m.left, m.right), strict=True):
            deep = min(1.0, 0.28 + 0.8 * half[14] + 0.25 * half[12])
            canvas.stroke(self.detail, line, 128 - 64 * deep, self._width(1.5))
        if m.mean[17] > 0.25:  # the chin's pitted boss
            deep = min(1.0, m.mean[17])
            canvas.stroke(self.detail, ink["chin"], 128 - 40 * deep, self._width(1.2))

    def _cavity(self, gap: float) -> None:
        """Draw teeth, tongue and darkness between parted lips, `gap` millimetres apart."""
        outline = self.ink["opening"]
        box = canvas.window(outline, self.size)
        if box is None:
            return
        patch, down = canvas.patch(box, _GUMS), self.down
        top, bottom = self.flat["inner_edges"] - box[:2]
        if gap > 8:
            tongue = np.concatenate([bottom[3:-3], bottom[-4:2:-1] - 0.26 * gap * down])
            canvas.fill(patch, tongue, _TONGUE)
        teeth = shade(_TEETH, 1.0 - 0.14 * self.person.age)
        # The row of teeth is an arc: it does not follow the lip all the way up to its corners.
        row = top.copy()
        row[:, 1] += 0.35 * (sum(top[:, 1].tolist()) / len(top) - top[:, 1])
        both = self.muscles.mean
        raised = max(both[12], both[10], both[20])
        row += min(0.72 * gap, 1.5 + 6.5 * raised) * _TEETH_ARC * down
        canvas.fill(patch, np.concatenate([top - 3.0 * down, row[::-1]]), teeth)
        bared = min(1.0, both[20] + both[16])
        if bared > 0.4 and gap > 3.5:
            low = bottom - min(0.40 * gap, 5.5) * bared * _TEETH_ARC * down
            canvas.fill(patch, np.concatenate([bottom + 3.0 * down, low[::-1]]), shade(teeth, 0.86))
            canvas.stroke(patch, 0.5 * (row + low)[2:-2], shade(teeth, 0.4))
        canvas.stroke(patch, top + 0.4 * down, shade(teeth, 0.55), self._width(1.2))
        canvas.blend(self.image, patch, box, canvas.within(outline, box))

    def _eyes(self) -> None:
        p, ink, m = self.person, self.ink, self.muscles
        lid_colour = mix(shade(p.skin, 0.84), (92.0, 70.0, 84.0), 0.3 * p.make_up)
        canvas.fill(self.image, ink["lids"], lid_colour)
        canvas.stroke(self.detail, ink["crease"], 82, self._width(1.0))
        self._eyeballs()
        rings = ink["eyes"]
        lashes = mix(shade(p.skin, 0.2), (14.0, 10.0, 10.0), 0.5)
        canvas.stroke(self.image, rings[:, :LIDS], lashes, self._width(1.4 + 0.8 * p.make_up))
        canvas.stroke(self.image, rings[:, LIDS - 1 :], shade(p.skin, 0.58))
        for bag, half in zip(ink["bags"], (m.left, m.right), strict=True):
            deep = min(1.0, 0.25 + 0.5 * p.wrinkles + 0.7 * max(half[6], half[7]))
            canvas.stroke(self.detail, bag, 128 - 40 * deep, self._width(1.0))

    def _eyeballs(self) -> None:
        box = canvas.window(self.ink["eyes"], self.size)
        if box is None:
            return
        p, mm = self.person, self.mm
        patch, rings = canvas.patch(box, _WHITE), canvas.within(self.ink["eyes"], box)
        shadows = self.flat["eyes"][:, :LIDS] + (0.5 * self.down - box[:2])
        canvas.stroke(patch, shadows, _LID_SHADOW, self._width(2.0))
        rim = shade(p.iris, 0.5)
        for x, y in (self.flat["irises"] - box[:2]).tolist():
            canvas.disc(patch, (x, y), 6.3 * mm, rim)
            canvas.disc(patch, (x, y), 5.2 * mm, p.iris)
            canvas.disc(patch, (x, y), 2.6 * mm, (10.0, 8.0, 8.0))
        canvas.blend(self.image, patch, box, rings[:, :-1])

    def _brows(self) -> None:
        hair = mix(self.person.brow_colour, self.person.skin, 0.12)
        canvas.fill(self.image, self.ink["brows"], hair)
        canvas.stroke(self.image, self.ink["strands"], shade(hair, 0.75))

    def _light_up(self) -> None:
        """Multiply the flat colours by the light on the head and by the folds' shadows."""
        bright = shading.skin(
            self.person, self.muscles, self.level, self.camera, self.light, self.size
        )
        soft = cv2.GaussianBlur(self.soft, (5, 5), 0)
        cv2.multiply(bright, cv2.merge([soft] * 4), bright, scale=1 / 128)
        bright = cv2.resize(bright, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        bright = cv2.cvtColor(bright, cv2.COLOR_RGBA2RGB)
        image = cv2.cvtColor(self.image, cv2.COLOR_RGBA2RGB)
        mask = cv2.extractChannel(self.image, 3)
        folds = cv2.multiply(cv2.GaussianBlur(self.detail, (3, 3), 0), mask, scale=1 / 255)
        cv2.multiply(bright, cv2.cvtColor(folds, cv2.COLOR_GRAY2RGB), bright, scale=1 / 128)
        # Outside the head the background keeps its own colours (128 = unchanged).
        rest = cv2.convertScaleAbs(mask, alpha=-128 / 255, beta=128)
        cv2.add(bright, cv2.cvtColor(rest, cv2.COLOR_GRAY2RGB), bright)
        self.image = cv2.multiply(image, bright, image, scale=1 / 128)

    def _shine(self) -> None:
        """Draw catchlights in open eyes, on the side of the light."""
        shift_x, shift_y = 2.0 * float(self.light.key[0]) * self.mm, -1.8 * self.mm
        heights = self.landmarks[:, 1]
        for (x, y), (upper, lower) in zip(self.flat["irises"].tolist(), _OPENINGS, strict=True):
            if heights[lower] - heights[upper] > 6.0 * self.mm:
                at = (x + shift_x, y + shift_y)
                canvas.disc(self.image, at, self.mm, (240.0, 240.0, 240.0))
