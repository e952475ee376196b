"""Non-maximum suppression: one box for each face."""

import numpy as np

from affect_jax.inference.blazeface.network import Candidates

# Boxes of one face overlap by more than this part of their union, or one lies in the other.
OVERLAP = 0.3
INSIDE = 0.6


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the intersection over union [n] of a box [4] with boxes [n, 4]."""
    common, area, areas = _areas(box, boxes)
    return common / np.maximum(area + areas - common, 1e-9)


def merged(found: Candidates) -> Candidates:
    """Return a box for each cluster of boxes, their mean weighted by the scores.

    As in BlazeFace: the mean moves less from frame to frame than the best box of a cluster. The
    score is the best of the cluster.
    """
    boxes, points, scores = [], [], []
    rest = np.argsort(-found.scores, kind="stable")
    while len(rest):
        close = overlaps(found.boxes[rest[0]], found.boxes[rest]) > OVERLAP
        close[0] = True
        cluster, rest = rest[close], rest[~close]
        weights = found.scores[cluster] / found.scores[cluster].sum()
        boxes.append(np.einsum("n,nk->k", weights, found.boxes[cluster]))
        points.append(np.einsum("n,npk->pk", weights, found.points[cluster]))
        scores.append(found.scores[cluster[0]])
    return Candidates(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(points, np.float32).reshape(-1, *found.points.shape[1:]),
        np.array(scores, np.float32),
    )


def covered(face: Candidates, known: Candidates) -> bool:
    """Return whether a candidate [1] is one of the known faces, or a part of one, or around one.

    At the border of a tile a part of a face may look like a face.
    """
    common, area, areas = _areas(face.boxes[0], known.boxes)
    inside = common > INSIDE * np.minimum(area, areas)
    return bool((inside | (overlaps(face.boxes[0], known.boxes) > OVERLAP)).any())


def distinct(passes: list[Candidates]) -> Candidates:
    """Return the faces of several passes, the best score first, each from its best pass."""
    joined = Candidates(*(np.concatenate(values) for values in zip(*passes, strict=True)))
    kept: list[int] = []
    for i in np.argsort(-joined.scores, kind="stable").tolist():
        face = Candidates(*(values[i : i + 1] for values in joined))
        if not covered(face, Candidates(*(values[kept] for values in joined))):
            kept.append(i)
    return Candidates(*(values[kept] for values in joined))


def _areas(box: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Return intersections [n], the area of `box` and the areas [n] of `boxes`."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.maximum(high - low, 0).prod(-1)
    sizes = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(-1)
    return common, float(np.maximum(box[2:] - box[:2], 0).prod()), sizes
