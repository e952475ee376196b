"""Separation of classes in the space of embeddings, and its 2-D projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from affect_jax.errors import UserError

_FEW = 100  # points: below it the exact method is faster than the tree


class CoarseDistances(NamedTuple):
    """Mean distances between the centres of two classes.

    Attributes:
        within: of two classes of one coarse class; NaN: no coarse class has two classes.
        between: of two classes of different coarse classes; NaN: there is one coarse class.
        ratio: within / between. Below 1, classes of one coarse class lie closer together.
    """

    within: float
    between: float
    ratio: float


def davies_bouldin(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the Davies-Bouldin index of labelled points; lower is better.

    Davies and Bouldin, IEEE TPAMI 1979, with Euclidean distances: the similarity of two classes
    is the sum of their mean distances to their centres, divided by the distance of the centres.

    Args:
        points: [n, D].
        labels: int [n], -1 where unlabelled: left out.

    Returns:
        The index; infinite if two classes have the same centre.

    Raises:
        ValueError: with fewer than 2 classes, or no more points than classes.
    """
    points, inverse, sizes = _classes(points, labels, "davies_bouldin")
    centres = _centres(points, inverse, sizes)
    distances = np.linalg.norm(points - centres[inverse], axis=1)
    spread = np.bincount(inverse, distances) / sizes
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    np.fill_diagonal(apart, 1.0)
    similarity = np.divide(
        spread[:, None] + spread[None], apart, out=np.full_like(apart, np.inf), where=apart > 0
    )
    np.fill_diagonal(similarity, -np.inf)
    return float(similarity.max(axis=1).mean())


def calinski_harabasz(points: np.ndarray, labels: np.ndarray) -> float:
    """Return the Calinski-Harabasz index of labelled points; higher is better.

    It is the variance between the classes divided by the variance within them.

    Calinski and Harabasz, Communications in Statistics 1974. It grows with the number of points,
    so compare sets of about the same size only.

    Args:
        points: [n, D].
        labels: int [n], -1 where unlabelled: left out.

    Returns:
        The index; infinite if every point lies on the centre of its class.

    Raises:
        ValueError: with fewer than 2 classes, or no more points than classes.
    """
    points, inverse, sizes = _classes(points, labels, "calinski_harabasz")
    centres = _centres(points, inverse, sizes)
    between = (sizes * ((centres - points.mean(axis=0)) ** 2).sum(axis=1)).sum()
    within = ((points - centres[inverse]) ** 2).sum()
    if within == 0:
        return float("inf")
    return float(between / (len(sizes) - 1) / (within / (len(points) - len(sizes))))


def coarse_distances(
    points: np.ndarray, labels: np.ndarray, coarse_of: Sequence[int]
) -> CoarseDistances:
    """Return how far classes of one coarse class, and of two, lie apart.

    Every pair of classes with points counts once, however many points they have.

    Args:
        points: [n, D].
        labels: int [n] classes, -1 where unlabelled: left out.
        coarse_of: N, the coarse class of each class.

    Raises:
        ValueError: with fewer than 2 classes, or no more points than classes.
    """
    coarse = np.asarray(coarse_of)[np.unique(labels[labels >= 0])]
    points, inverse, sizes = _classes(points, labels, "coarse_distances")
    centres = _centres(points, inverse, sizes)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    pairs = np.triu(np.ones_like(apart, bool), 1)
    same = coarse[:, None] == coarse[None]
    within, between = (
        float(apart[chosen].mean()) if chosen.any() else float("nan")
        for chosen in (pairs & same, pairs & ~same)
    )
    return CoarseDistances(within, between, within / between if between else float("nan"))


def _classes(
    points: np.ndarray, labels: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    points, labels = points[labels >= 0], labels[labels >= 0]
    found, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if not 2 <= len(found) < len(points):
        raise ValueError(
            f"{name}: {len(points)} labelled points of {len(found)} classes; it needs at least 2 "
            "classes, and more points than classes"
        )
    return points, inverse, sizes


def _centres(points: np.ndarray, inverse: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    sums = np.zeros((len(sizes), points.shape[1]))
    np.add.at(sums, inverse, points)
    return sums / sizes[:, None]


def sample(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return at most `count` rows of labelled points, drawn at random and sorted."""
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    if len(rows) > count:
        rows = np.random.default_rng(seed).choice(rows, count, replace=False)
    return np.sort(rows)


def tsne(points: np.ndarray, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """Project `points` [n, D] to the plane [n, 2], neighbours close together (t-SNE).

    van der Maaten and Hinton, JMLR 2008; scikit-learn's implementation, initialised with the
    principal components. Distances between groups mean little. The perplexity is at most a third
    of the number of points.

    Raises:
        UserError: scikit-learn is not installed, or there are fewer than 4 points.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(
            'pictures of embeddings need scikit-learn: pip install "affect_jax[analysis]"'
        ) from error
    points = np.asarray(points, np.float64)
    if len(points) < 4:
        raise UserError(f"t-SNE needs at least 4 labelled images, not {len(points)}")
    method = TSNE(
        method="exact" if len(points) < _FEW else "barnes_hut",
        perplexity=min(perplexity, len(points) / 3),
        init="pca" if points.shape[1] > 1 else "random",
        random_state=seed,
    )
    return method.fit_transform(points)
