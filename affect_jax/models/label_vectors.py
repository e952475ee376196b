"""Label vectors S [C, L]: one for each class, then one for each coarse class (RALD, eq. 2).

RALD takes the vectors of its classes from word2vec. Without such a file `stand_in` draws vectors
with the same kind of structure: classes below one coarse class are similar.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.schema import canonical_name, same_classes

# Shares of a stand-in vector's squared length, from the root of the tree down to the class, by the
# number of these nodes. The similarity of two classes is the sum of the shares of their common
# nodes: 0.6 within a coarse class and about 0.2 across.
_SHARES = {1: (1.0,), 3: (0.2, 0.4, 0.4), 4: (0.1, 0.2, 0.3, 0.4)}


class LabelTree(Protocol):
    """What label vectors need of a tree, `data_pipelines.hierarchies.tree.Hierarchy`.

    Attributes:
      fine: names of the N classes, in the order of their ids.
      coarse: names of the M coarse classes.
      coarse_of: N places in `coarse`.
      poles: names of the poles; empty in a tree of two levels.
      pole_of: M places in `poles`; empty in a tree of two levels.
    """

    @property
    def fine(self) -> tuple[str, ...]: ...
    @property
    def coarse(self) -> tuple[str, ...]: ...
    @property
    def coarse_of(self) -> tuple[int, ...]: ...
    @property
    def poles(self) -> tuple[str, ...]: ...
    @property
    def pole_of(self) -> tuple[int, ...]: ...


def stand_in(
    tree: LabelTree | None, class_names: Sequence[str], features: int, seed: int = 0
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

    Similarities vary around these by about 1/sqrt(features).

    Args:
      tree: over the classes, or None.
      class_names: of the N classes, in the order of their ids; spelled in any known way.
      features: L, the length of a vector; at least 1.
      seed: of the directions.

    Returns:
      float32 [C, L]: classes, each of length 1, then coarse classes as `with_coarse` adds them.

    Raises:
      ValueError: the tree is over other classes, or `features` is below 1.
    """
    if features < 1:
        raise ValueError(f"label vectors need at least 1 feature, got {features}")
    check_tree(tree, class_names)
    rows = [_mix(_path(tree, i, name), features, seed) for i, name in enumerate(class_names)]
    return with_coarse(np.stack(rows), tree)


def with_coarse(vectors: np.ndarray, tree: LabelTree | None) -> np.ndarray:
    """Append a vector for each coarse class: the mean of its classes (RALD, section 4.2).

    Args:
      vectors: [N, L] of the classes, in the order of `tree.fine`.
      tree: over the classes; None: nothing is appended.

    Returns:
      float32 [C, L]; C is N without a tree, N + M with M coarse classes.
    """
    if tree is None:
        return vectors.astype(np.float32)
    coarse_of = np.array(tree.coarse_of)
    means = [
        vectors[coarse_of == place].mean(0, dtype=np.float64) for place in range(len(tree.coarse))
    ]
    return np.concatenate([vectors, means]).astype(np.float32)


def check_tree(tree: LabelTree | None, class_names: Sequence[str]) -> None:
    """Raise a ValueError if a tree is over other classes, or in another order."""
    if tree is not None and not same_classes(tree.fine, class_names):
        raise ValueError(
            f"the tree is over {', '.join(tree.fine)}, but the classes are "
            f"{', '.join(class_names)}; use hierarchy.for_classes(class_names)"
        )


def _path(tree: LabelTree | None, place: int, name: str) -> list[tuple[str, str]]:
    """Return level and name of a class and all nodes above it, from the top down."""
    own = ("fine", name)
    if tree is None:
        return [own]
    coarse = tree.coarse_of[place]
    above = [("root", "")]
    if tree.poles:
        above.append(("pole", tree.poles[tree.pole_of[coarse]]))
    return [*above, ("coarse", tree.coarse[coarse]), own]


def _mix(path: list[tuple[str, str]], features: int, seed: int) -> np.ndarray:
    shares = _SHARES[len(path)]
    parts = [_direction(level, name, features, seed) for level, name in path]
    mixed = np.sqrt(shares) @ np.stack(parts)
    return mixed / np.linalg.norm(mixed)


def _direction(level: str, name: str, features: int, seed: int) -> np.ndarray:
    """Return a random direction, float64 [L] of length 1.

    NumPy's generators may change their streams between releases; a hash does not.
    """
    key = f"{seed}/{level}/{canonical_name(name)}".encode()
    words = np.frombuffer(hashlib.shake_256(key).digest(4 * features), "<u4")
    values = (words + 0.5) / 2.0**31 - 1.0  # uniform in (-1, 1), never 0
    return values / np.linalg.norm(values)
