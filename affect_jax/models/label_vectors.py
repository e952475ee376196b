"""Label vectors S [C, L]: one for each class, then one for each coarse class (RALD, eq. 2).

RALD takes the vectors of its classes from word2vec. Without such a file `stand_in` draws vectors
with the same kind of structure: classes below one coarse class are similar.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import canonical_name

# Shares of a stand-in vector's squared length, from the root of the tree down to the class, by the
# number of these nodes. The similarity of two classes is the sum of the shares of their common
# nodes: 0.6 within a coarse class and about 0.2 across.
_SHARES = {1: (1.0,), 3: (0.2, 0.4, 0.4), 4: (0.1, 0.2, 0.3, 0.4)}


def stand_in(
    hierarchy: Hierarchy | None, names: Sequence[str], *, length: int, seed: int = 0
) -> np.ndarray:
    """Draw label vectors whose cosine similarities follow the tree.

    A class is a weighted sum of random directions of unit length: one that all classes share, one
    of its pole, one of its coarse class, and its own. Each direction is a hash of the seed, the
    level and the name. So a class has the same vector in any order, next to any other classes and
    on every machine.

    | two classes | without a tree | two levels | with poles |
    |---|---|---|---|
    | of one coarse class | | 0.6 | 0.6 |
    | of one pole | | | 0.3 |
    | others | 0 | 0.2 | 0.1 |

    Similarities vary around these by about 1/sqrt(length).

    Args:
      hierarchy: tree over the classes, whose names count; or None.
      names: of the N classes, in the order of their ids; in any spelling.
      length: L, of a vector; at least 1.
      seed: of the directions.

    Returns:
      float32 [C, L]: classes, whose vectors have the norm 1, then coarse classes as `with_coarse`
      adds them.

    Raises:
      ValueError: the tree has another number of classes, or `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"the length of label vectors must be at least 1, got {length}")
    if hierarchy is not None:
        if len(hierarchy.fine) != len(names):
            raise ValueError(f"the tree has {len(hierarchy.fine)} classes, not {len(names)}")
        names = hierarchy.fine
    paths = [_path(hierarchy, place, name) for place, name in enumerate(names)]
    return with_coarse(np.stack([_mix(path, length, seed) for path in paths]), hierarchy)


def with_coarse(vectors: np.ndarray, hierarchy: Hierarchy | None) -> np.ndarray:
    """Append a vector for each coarse class: the mean of its classes (RALD, section 4.2).

    Args:
      vectors: [N, L] of the classes, in the order of `hierarchy.fine`.
      hierarchy: tree over the classes; None: nothing is appended.

    Returns:
      float32 [C, L]; C is N without a tree, N + M with M coarse classes.
    """
    if hierarchy is None:
        return vectors.astype(np.float32)
    coarse_of = np.array(hierarchy.coarse_of)
    means = [
        vectors[coarse_of == place].mean(0, dtype=np.float64)
        for place in range(len(hierarchy.coarse))
    ]
    return np.concatenate([vectors, means]).astype(np.float32)


def _path(hierarchy: Hierarchy | None, place: int, name: str) -> list[tuple[str, str]]:
    """Return level and name of a class and all nodes above it, from the top down."""
    own = ("fine", name)
    if hierarchy is None:
        return [own]
    coarse = hierarchy.coarse_of[place]
    above = [("root", "")]
    if hierarchy.poles:
        above.append(("pole", hierarchy.poles[hierarchy.pole_of[coarse]]))
    return [*above, ("coarse", hierarchy.coarse[coarse]), own]


def _mix(path: list[tuple[str, str]], length: int, seed: int) -> np.ndarray:
    shares = _SHARES[len(path)]
    parts = [_direction(level, name, length, seed) for level, name in path]
    mixed = np.sqrt(shares) @ np.stack(parts)
    return mixed / np.linalg.norm(mixed)


def _direction(level: str, name: str, length: int, seed: int) -> np.ndarray:
    """Return a random direction, float64 [L] of length 1.

    NumPy's generators may change their streams between releases; a hash does not.
    """
    key = f"{seed}/{level}/{canonical_name(name)}".encode()
    words = np.frombuffer(hashlib.shake_256(key).digest(4 * length), "<u4")
    values = (words + 0.5) / 2.0**31 - 1.0  # uniform in (-1, 1), never 0
    return values / np.linalg.norm(values)
