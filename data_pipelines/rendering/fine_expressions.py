"""The 33 fine expressions of FG-Emotions as positions in the space of action units.

Each fine class is a point: strengths of action units, a movement of the head, valence and arousal.
The points of a coarse expression share its main units and differ in the strength of some others.
The main units follow the published EMFACS-like prototypes (see `expressions`). Love follows the
display that Gonzaga, Keltner, Londahl and Smith describe (JPSP 2001): a soft smile and a tilted
head; the lowered lids are a choice of this project. Pride with the head back follows Tracy and
Robins (2004), embarrassment with a controlled smile and the head down Keltner (1995). All numbers
are choices of this project.

An ambiguous face shows a mixture: a fine class, its two nearest neighbours in the same coarse
expression and, rarely, the nearest class of another one.
"""

import dataclasses
import functools
from typing import Self

import numpy as np

from data_pipelines.rendering.expressions import ACTION_UNITS, ONE_SIDED, Units

# Movements of the head by their FACS codes: up, down, and tilted to one side.
HEAD_UNITS = (53, 54, 55)
_ALL_UNITS = (*ACTION_UNITS, *HEAD_UNITS)

Point = tuple[tuple[float, float], Units]  # (valence, arousal), action units
# Coarse expression -> fine class -> its point. Valence and arousal of enthrall, cheerful, pleasure,
# relief, thrill, astonish, sorrow and suffering have the direction of delighted, happy, pleased,
# calm, excited, astonished, sad and miserable in Russell (1980); the others are chosen here.
# fmt: off
POINTS: dict[str, dict[str, Point]] = {
    "fear": {
        "anxiety": ((-0.45, 0.55), {1: 0.9, 2: 0.3, 4: 0.6, 5: 0.7, 20: 0.5, 24: 0.5}),
        "worry": ((-0.5, 0.35), {1: 1.0, 2: 0.2, 4: 0.9, 5: 0.35, 7: 0.3, 17: 0.3, 20: 0.45}),
        "panic": ((-0.6, 0.9), {1: 1.0, 2: 0.5, 4: 0.7, 5: 1.1, 16: 0.5, 20: 1.1, 25: 1.0,
                                26: 0.3}),
        "terror": ((-0.75, 0.8), {1: 1.1, 2: 0.7, 4: 0.8, 5: 1.2, 20: 1.0, 25: 1.0, 26: 0.7}),
        "nervous": ((-0.3, 0.65), {1: 0.7, 2: 0.5, 4: 0.3, 5: 0.6, 14: 0.3, 20: 1.0, 25: 0.3}),
    },
    "sadness": {
        "depression": ((-0.7, -0.6), {1: 0.7, 4: 0.2, 15: 0.8, 43: 0.7, 54: 0.8}),
        "embarrass": ((-0.45, 0.25), {1: 0.7, 2: 0.2, 12: 0.3, 14: 0.5, 15: 0.7, 24: 0.5, 43: 0.4,
                                      54: 1.0}),
        "gloom": ((-0.6, -0.35), {1: 0.7, 4: 0.7, 15: 0.9, 17: 0.4, 43: 0.4, 54: 0.4}),
        "guilt": ((-0.6, 0.05), {1: 0.9, 4: 0.4, 15: 0.6, 17: 0.3, 24: 0.8, 43: 0.4, 54: 0.7}),
        "remorse": ((-0.65, -0.1), {1: 1.1, 4: 0.6, 15: 0.7, 17: 0.9, 20: 0.3, 43: 0.2, 54: 0.6}),
        "sorrow": ((-0.75, -0.39), {1: 1.1, 4: 0.6, 15: 1.2, 17: 0.8, 43: 0.2, 54: 0.2}),
        "suffering": ((-0.84, -0.13), {1: 1.0, 4: 0.9, 6: 0.5, 7: 0.4, 15: 1.0, 20: 0.5, 25: 0.6,
                                       43: 0.5}),
    },
    "anger": {
        "anger": ((-0.6, 0.65), {4: 1.0, 5: 0.5, 7: 0.7, 23: 1.0}),
        "contempt": ((-0.5, 0.2), {4: 0.6, 7: 0.6, 10: 0.4, 12: 0.7, 14: 1.1, 23: 0.3, 53: 0.5}),
        "disgust": ((-0.7, 0.35), {4: 0.7, 7: 0.7, 9: 1.0, 10: 0.5, 17: 0.5, 23: 0.3}),
        "frustrate": ((-0.6, 0.45), {4: 0.9, 7: 0.5, 14: 0.3, 17: 0.9, 24: 0.9}),
        "hate": ((-0.75, 0.6), {4: 1.1, 5: 0.2, 7: 1.0, 9: 0.5, 10: 0.3, 23: 0.4, 24: 0.7}),
        "irritate": ((-0.4, 0.45), {4: 0.7, 7: 0.5, 23: 0.5, 24: 0.4}),
        "loathing": ((-0.8, 0.4), {4: 0.9, 7: 0.8, 9: 1.1, 10: 1.0, 15: 0.3, 25: 0.5}),
        "torment": ((-0.85, 0.5), {4: 1.1, 7: 1.0, 9: 0.5, 16: 0.4, 20: 0.5, 25: 0.6, 43: 0.5}),
        "wrath": ((-0.7, 0.9), {4: 1.1, 5: 0.7, 7: 0.8, 10: 0.6, 16: 0.7, 23: 0.4, 25: 1.0,
                                26: 0.4}),
    },
    "surprise": {
        "amaze": ((0.5, 0.7), {1: 1.0, 2: 1.0, 5: 0.7, 6: 0.3, 12: 0.5, 25: 0.8, 26: 0.8}),
        "astonish": ((0.33, 0.89), {1: 1.2, 2: 1.2, 5: 1.1, 25: 0.9, 26: 1.2}),
        "surprise": ((0.2, 0.75), {1: 1.0, 2: 1.0, 5: 0.8, 25: 0.5, 26: 0.5}),
    },
    "happiness": {
        "cheerful": ((0.89, 0.12), {6: 1.0, 12: 1.1, 25: 0.9, 26: 0.4}),
        "enthrall": ((0.77, 0.36), {1: 0.5, 2: 0.5, 5: 0.4, 6: 0.7, 12: 1.0, 25: 0.8, 26: 0.4}),
        "optimism": ((0.65, 0.3), {1: 0.2, 2: 0.5, 6: 0.5, 12: 0.9, 25: 0.3, 53: 0.3}),
        "pleasure": ((0.79, -0.09), {6: 1.0, 12: 1.0, 43: 0.5}),
        "pride": ((0.7, 0.4), {6: 0.4, 12: 0.85, 14: 0.4, 24: 0.5, 53: 1.0}),
        "relief": ((0.51, -0.48), {1: 0.3, 6: 0.6, 12: 0.8, 25: 0.7, 26: 0.5, 43: 0.5}),
    },
    "love": {
        "thrill": ((0.6, 0.68), {1: 0.6, 2: 0.5, 6: 0.3, 12: 0.5, 25: 0.8, 26: 0.4, 43: 0.3,
                                 55: 1.0}),
        "affection": ((0.8, 0.2), {1: 0.6, 6: 0.4, 12: 0.55, 43: 0.45, 54: 0.3, 55: 1.1}),
        "lust": ((0.55, 0.5), {1: 0.3, 7: 0.4, 12: 0.25, 25: 0.7, 26: 0.3, 43: 0.6, 53: 0.4,
                               55: 0.9}),
    },
}
# fmt: on

COARSE_NAMES = tuple(POINTS)
CLASS_NAMES = tuple(fine for points in POINTS.values() for fine in points)
COARSE_OF = tuple(COARSE_NAMES.index(name) for name, points in POINTS.items() for _ in points)
_UNILATERAL = CLASS_NAMES.index("contempt")
# Part of the way that a class is moved to the mean of its coarse expression, so that neighbours
# overlap.
_TOGETHER = 0.2
_LARGEST_PART = 0.6  # of the neighbours, at full ambiguity
_OUTSIDE_SHARE = 0.1  # of the mixtures, that hold a class of another coarse expression


@functools.cache
def positions(side: int) -> np.ndarray:
    """Return what the classes show, float64 [33, units, 2] (image left, image right).

    The strengths of `POINTS`, moved a part of the way to the mean of their coarse expression. The
    units are `ACTION_UNITS`, then `HEAD_UNITS`; `side` is the stronger half of contempt.
    """
    found = np.zeros((len(CLASS_NAMES), len(_ALL_UNITS), 2))
    points = (point for points in POINTS.values() for point in points.values())
    for row, (_, units) in zip(found, points, strict=True):
        for unit, level in units.items():
            row[_ALL_UNITS.index(unit)] = level
    for unit in ONE_SIDED:
        found[_UNILATERAL, _ALL_UNITS.index(unit), 1 - side] = 0.0
    for coarse in range(len(COARSE_NAMES)):
        rows = found[np.equal(COARSE_OF, coarse)]
        found[np.equal(COARSE_OF, coarse)] = rows + _TOGETHER * (rows.mean(axis=0) - rows)
    found.flags.writeable = False
    return found


@functools.cache
def circumplex() -> np.ndarray:
    """Return valence and arousal of the classes, float64 [33, 2]."""
    found = np.array([affect for points in POINTS.values() for affect, _ in points.values()])
    found.flags.writeable = False
    return found


@functools.cache
def distances() -> np.ndarray:
    """Return the distances of the classes in the space of units, float64 [33, 33].

    Rounded, so that equal distances are equal on every machine.
    """
    flat = positions(0).reshape(len(CLASS_NAMES), -1)
    squares = np.square(flat[:, None] - flat).sum(axis=2) / 2  # of the mean of both halves
    return np.sqrt(np.round(squares, 9))


@functools.cache
def neighbours() -> np.ndarray:
    """Return, by class, its two nearest ones inside and the nearest one outside.

    int64 [33, 3]; inside and outside its coarse expression.
    """
    coarse = np.array(COARSE_OF)
    same = coarse[:, None] == coarse
    others = ~np.eye(len(coarse), dtype=bool)
    inside = np.where(same & others, distances(), np.inf)
    outside = np.where(same, np.inf, distances())
    nearest = [np.argsort(table, axis=1, kind="stable") for table in (inside, outside)]
    return np.concatenate([nearest[0][:, :2], nearest[1][:, :1]], axis=1)


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """What n faces show.

    Attributes:
      members: int64 [n, 3], fine classes; the first one has the largest weight.
      weights: float64 [n, 3], theirs; they sum to 1.
    """

    members: np.ndarray
    weights: np.ndarray

    def of(self, row: int) -> Self:
        """Return the mixture of one face, n = 1."""
        return dataclasses.replace(
            self, members=self.members[row : row + 1], weights=self.weights[row : row + 1]
        )

    def dense(self) -> np.ndarray:
        """Return the weights of all classes, float32 [n, 33]."""
        found = np.zeros((len(self.members), len(CLASS_NAMES)), np.float32)
        np.put_along_axis(found, self.members, self.weights.astype(np.float32), axis=1)
        return found

    def draw(self, u: np.ndarray) -> np.ndarray:
        """Return a class drawn from each mixture, int64 [n], by uniform numbers [n]."""
        place = (u[:, None] > np.cumsum(self.weights, axis=1)[:, :-1]).sum(axis=1)
        return np.take_along_axis(self.members, place[:, None], axis=1)[:, 0]

    def shown(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the only face shows, the weighted means of its classes.

        Returns:
          float64 [units, 2] as `positions`, and float64 [2], valence and arousal.
        """
        members, weights = self.members[0], self.weights[0]
        levels = np.tensordot(weights, positions(side)[members], axes=1)
        return levels, weights @ circumplex()[members]


def mixtures(classes: np.ndarray, u: np.ndarray, ambiguity: float) -> Mixtures:
    """Draw what faces show.

    The nearest class and another neighbour share at most 0.6 times `ambiguity`.

    Args:
      classes: int [n], the class that each face shows most.
      u: uniform numbers [n, 3].
      ambiguity: in [0, 1]; 0: a face shows its class alone.
    """
    nearest, second, outside = neighbours()[classes].T
    third = np.where(u[:, 2] < _OUTSIDE_SHARE, outside, second)
    # The nearest gets 1/3 to 2/3 of the part: no neighbour can weigh more than the class itself.
    part = _LARGEST_PART * ambiguity * np.sqrt(u[:, 0])
    first = part * (1.0 + u[:, 1]) / 3.0
    weights = np.stack([1.0 - part, first, part - first], axis=1)
    return Mixtures(np.stack([classes, nearest, third], axis=1), weights)
