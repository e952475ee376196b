"""Expressions as combinations of action units, and their valence and arousal.

The combinations follow the published EMFACS-like prototypes (Ekman and Friesen, 1983; Du, Tao and
Martinez, PNAS 2014); the variants of a category and their strengths are choices of this project.
"""

import bisect
import functools
import itertools

import numpy as np

CLASS_NAMES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
ACTION_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 16, 17, 20, 23, 24, 25, 26, 43)
AU = {unit: row for row, unit in enumerate(ACTION_UNITS)}

Units = dict[int, float]  # strength of action units by their number
# Each category: variants of (probability, action units, arousal offset at full intensity).
PROTOTYPES: tuple[tuple[tuple[float, Units, float], ...], ...] = (
    ((1.0, {}, 0.0),),
    (
        (0.40, {6: 0.9, 12: 1.0, 25: 0.7}, 0.0),
        (0.30, {6: 0.8, 12: 0.95}, -0.12),
        (0.30, {6: 1.0, 12: 1.0, 25: 0.8, 26: 0.4}, 0.15),
    ),
    (
        (0.4, {1: 1.0, 4: 0.55, 15: 1.0, 17: 0.5, 43: 0.25}, 0.0),
        (0.3, {1: 1.0, 4: 0.5, 15: 0.9, 43: 0.4}, -0.12),
        (0.3, {1: 1.0, 4: 0.7, 15: 1.0, 17: 0.9, 7: 0.3}, 0.12),
    ),
    (
        (0.6, {1: 1.0, 2: 1.0, 5: 0.9, 25: 0.6, 26: 1.0}, 0.05),
        (0.4, {1: 1.0, 2: 1.0, 5: 0.75, 25: 0.5, 26: 0.8}, -0.1),
    ),
    (
        (0.5, {1: 1.0, 2: 0.5, 4: 0.75, 5: 1.0, 7: 0.3, 20: 1.0, 25: 0.8, 26: 0.35}, 0.0),
        (0.3, {1: 1.0, 2: 0.45, 4: 0.8, 5: 1.0, 20: 1.0, 25: 0.6}, -0.08),
        (0.2, {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 20: 0.9, 25: 0.9, 26: 0.45}, 0.08),
    ),
    (
        (0.4, {9: 1.0, 10: 0.8, 17: 0.5, 4: 0.3, 7: 0.4}, 0.0),
        (0.3, {9: 1.0, 15: 0.7, 16: 0.9, 25: 0.5, 7: 0.3}, 0.05),
        (0.3, {9: 1.0, 10: 1.0, 25: 0.6, 43: 0.2}, 0.1),
    ),
    (
        (0.4, {4: 1.0, 5: 0.6, 7: 0.7, 23: 1.0}, 0.0),
        (0.3, {4: 1.0, 5: 0.3, 7: 0.9, 24: 1.0, 17: 0.5}, -0.08),
        (0.3, {4: 1.0, 5: 0.7, 7: 0.7, 10: 0.5, 16: 0.6, 23: 0.5, 25: 1.0}, 0.1),
    ),
    (
        (0.5, {12: 1.1, 14: 1.1, 7: 0.2}, 0.0),
        (0.3, {12: 1.0, 14: 1.1, 10: 0.6, 7: 0.2}, 0.05),
        (0.2, {12: 1.05, 14: 1.1, 43: 0.2}, -0.05),
    ),
)
# Where on the unit interval each variant but the last ends.
_EDGES = [
    list(itertools.accumulate(probability for probability, _, _ in variants[:-1]))
    for variants in PROTOTYPES
]
UNILATERAL = CLASS_NAMES.index("contempt")
ONE_SIDED = (10, 12, 14)  # units that contempt moves on one side only

# Valence and arousal of each category at full intensity (after Russell's circumplex, 1980).
CIRCUMPLEX = (
    *((0.0, 0.0), (0.85, 0.40), (-0.72, -0.42), (0.22, 0.85)),
    *((-0.55, 0.80), (-0.78, 0.35), (-0.62, 0.66), (-0.50, 0.12)),
)


def circumplex(category: int, offset: float) -> tuple[float, float]:
    """Return valence and arousal of a category's variant at full intensity."""
    valence, arousal = CIRCUMPLEX[category]
    return valence, arousal + offset


def activations(category: int, choice: float, side: int) -> tuple[np.ndarray, float]:
    """Return the action units of a category at full intensity.

    `choice` in (0, 1) picks the variant, `side` the stronger half of a one-sided expression.
    Returns float64 [units, 2] (image left, image right) and the variant's arousal offset.
    """
    chosen = bisect.bisect(_EDGES[category], choice)
    return _levels(category, chosen, side), PROTOTYPES[category][chosen][2]


@functools.cache
def _levels(category: int, variant: int, side: int) -> np.ndarray:
    levels = np.zeros((len(ACTION_UNITS), 2))
    for unit, level in PROTOTYPES[category][variant][1].items():
        levels[AU[unit]] = level
    if category == UNILATERAL:
        for unit in ONE_SIDED:
            levels[AU[unit], 1 - side] = 0.0
    levels.flags.writeable = False
    return levels


class Muscles:
    """The action units of a frame: of its `left` and `right` half, and their `mean`."""

    def __init__(self, levels: np.ndarray) -> None:
        left, right = levels.T.tolist()
        self.left: Units = dict(zip(ACTION_UNITS, left, strict=True))
        self.right: Units = dict(zip(ACTION_UNITS, right, strict=True))
        mean = [0.5 * (a + b) for a, b in zip(left, right, strict=True)]
        self.mean: Units = dict(zip(ACTION_UNITS, mean, strict=True))
