"""Faces in an image: what a detector gives.

A detector is any function with the signature of `Detector`. `detection.default_detector` gives the
one that comes with the package; `boxes.BoxFile` reads boxes that other programs found.
"""

from typing import NamedTuple, Protocol

import numpy as np


class Faces(NamedTuple):
    """The F faces of one image, the highest score first.

    Attributes:
      boxes: float32 [F, 4], left, top, right and bottom in pixels of the image, edges of the first
        pixel at 0 and 1. A box spans the 68 landmarks of iBUG, from ear to ear and from the brows
        to the chin, and above the brows a forehead of 0.2 times that height, as the boxes of
        training do (`data_pipelines.schema.FOREHEAD`). It may reach outside the image.
      scores: float32 [F] in [0, 1].
      points: float32 [F, P, 2] pixels of the image. The built-in detector gives P = 6 points: the
        person's right eye, left eye, nose tip, mouth centre, right ear and left ear. P may be 0.
      rolls: float32 [F], degrees by which a face is turned clockwise in the image; 0 if unknown.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    rolls: np.ndarray

    def best(self, count: int) -> "Faces":
        """Return the `count` faces of the highest scores."""
        return Faces(*(values[:count] for values in self))


class Detector(Protocol):
    """Finds the faces of an image."""

    def __call__(self, image: np.ndarray) -> Faces:
        """Return the faces of a uint8 [H, W, 3] RGB image, the highest score first."""
        ...


def faces_of_boxes(boxes: np.ndarray, scores: np.ndarray | None = None) -> Faces:
    """Return faces of which only boxes [F, 4] are known; missing scores are 1."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    scores = np.ones(n, np.float32) if scores is None else np.asarray(scores, np.float32)
    order = np.argsort(-scores, kind="stable")
    points, rolls = np.zeros((n, 0, 2), np.float32), np.zeros(n, np.float32)
    return Faces(boxes[order], scores[order], points, rolls)
