"""AffectNet's cleaning rule: a picture stays where its category agrees with its valence-arousal.

The rule of EmoFAN (Toisoul et al., 2021) applies to AffectNet's validation and test lists; for
training it is an option.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.schema import LABEL_ORDERS, DataError, canonical_name

# Source label of each of the five classes; label 6 (anger) becomes class 4.
FIVE_CLASSES = (0, 1, 2, 3, 6)
EIGHT_CLASSES = tuple(range(8))


def keep(expression: np.ndarray, valence: np.ndarray, arousal: np.ndarray) -> np.ndarray:
    """Whether category and valence-arousal agree.

    Args:
      expression: int [n] AffectNet labels; anything outside 0..7 is never kept.
      valence, arousal: float [n]; NaN or -2 (unknown) is never kept.

    Returns:
      bool [n].
    """
    label = np.asarray(expression)
    v, a = np.asarray(valence, np.float64), np.asarray(arousal, np.float64)
    # Some pairs lie on the threshold: the square root in float64 decides, as in the official rule.
    intensity = np.sqrt(v**2 + a**2)
    strong = intensity > 0.2
    agrees = np.select(
        [label == k for k in EIGHT_CLASSES],
        [
            intensity < 0.2,
            (v > 0) & strong,
            (v < 0) & strong,
            (a > 0) & strong,
            (a >= 0) & (v <= 0) & strong,
            (v < 0) & (intensity > 0.3),
            (a > 0) & strong,
            (v < 0) & strong,
        ],
        False,
    )
    return agrees & (np.abs(v) <= 1) & (np.abs(a) <= 1)


def to_classes(expression: np.ndarray, num_classes: int) -> np.ndarray:
    """AffectNet labels to ids of the 8-class or 5-class task; -1 where the task has no such class.

    Raises:
      DataError: `num_classes` is neither 5 nor 8.
    """
    tasks = {5: FIVE_CLASSES, 8: EIGHT_CLASSES}
    if num_classes not in tasks:
        raise DataError(f"AffectNet has tasks of 5 and 8 classes, not {num_classes}")
    label = np.asarray(expression)
    ids = np.full(label.shape, -1, np.int32)
    for k, source_label in enumerate(tasks[num_classes]):
        ids[label == source_label] = k
    return ids


def agrees(
    class_names: Sequence[str], labels: np.ndarray, valence_arousal: np.ndarray
) -> np.ndarray:
    """`keep` for a source with its own class ids (bool [n]).

    Raises:
      DataError: a class is none of AffectNet's eight.
    """
    order = {canonical_name(n): i for i, n in enumerate(LABEL_ORDERS["affectnet8"])}
    unknown = [n for n in class_names if canonical_name(n) not in order]
    if unknown:
        raise DataError(f"the cleaning rule knows AffectNet's classes only, not {unknown}")
    lookup = np.array([*(order[canonical_name(n)] for n in class_names), -1])
    return keep(lookup[labels], valence_arousal[:, 0], valence_arousal[:, 1])
