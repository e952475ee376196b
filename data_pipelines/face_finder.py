"""Face boxes found by the detector of prediction, for `prepare --detect`.

This module imports `affect_jax` only to make the detector.
"""

from collections.abc import Callable

import numpy as np

# `finder(image)` gives float32 [4] left, top, right, bottom of the face in a uint8 [H, W, 3] RGB
# image, the forehead included, in pixels between edges; None without a face. Threads share it.
FaceFinder = Callable[[np.ndarray], np.ndarray | None]


def load_face_finder() -> FaceFinder:
    """Return a function that finds the main face of an image, as prediction does."""
    from affect_jax.inference.detection import default_detector

    detector = default_detector()

    def find(image: np.ndarray) -> np.ndarray | None:
        faces = detector(image)
        if not len(faces.scores):
            return None
        return faces.boxes[main_face(faces.boxes, faces.scores)]

    return find


def main_face(boxes: np.ndarray, scores: np.ndarray) -> int:
    """Return which of the faces a label most likely means: the largest that is certain."""
    return int(np.argmax((boxes[:, 2] - boxes[:, 0]) * scores))
