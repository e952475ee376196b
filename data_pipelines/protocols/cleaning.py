"""AffectNet's cleaning rule: the category must agree with valence and arousal.

EmoFAN (Toisoul et al., 2021) applies the rule to AffectNet's validation and test lists; for
training it is optional.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.schema import LABEL_ORDERS, DataError, canonical_name


def keep(expression: np.ndarray, valence: np.ndarray, arousal: np.ndarray) -> np.ndarray:
    """Return whether category and valence-arousal agree, bool [n].

    Args:
      expression: int [n] AffectNet labels; others than 0 to 7 are never kept.
      valence, arousal: float [n]; NaN and -2 (unknown) are never kept.
    """
    label = np.asarray(expression)
    v, a = np.asarray(valence, np.float64), np.asarray(arousal, np.float64)
    # Some pairs are on the threshold: the float64 square root decides, as in the official code.
    intensity = np.sqrt(v**2 + a**2)
    strong = intensity > 0.2
    agrees = np.select(
        [label == k for k in range(8)],
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


def agrees(
    class_names: Sequence[str], labels: np.ndarray, valence_arousal: np.ndarray
) -> np.ndarray:
    """Return `keep` for a source with class ids of its own, bool [n].

    Raises:
      DataError: a class is not one of AffectNet's eight.
    """
    order = {canonical_name(n): i for i, n in enumerate(LABEL_ORDERS["affectnet8"])}
    unknown = [n for n in class_names if canonical_name(n) not in order]
    if unknown:
        raise DataError(f"the cleaning rule knows AffectNet's classes only, not {unknown}")
    lookup = np.array([*(order[canonical_name(n)] for n in class_names), -1])
    return keep(lookup[labels], valence_arousal[:, 0], valence_arousal[:, 1])
