"""The crop of the official EmoNet code, quirks included: for parity checks, not for training.

It differs from `augment` in three ways that are kept here on purpose: a "degree" of rotation is
pi/200 radians, pixel coordinates have no half-pixel shift, and the mirror maps pixels with
x -> W - 1 - x but landmarks with x -> W - x.
"""

import math

import cv2
import numpy as np

from data_pipelines.schema import FLIP_INDEX

_REFERENCE = 220.0  # a box whose width and height add up to this is cropped with ...
_SIDE = 200.0  # ... this side


def landmark_box(landmarks: np.ndarray) -> np.ndarray:
    """Smallest box around landmarks: [x0, y0, x1, y1]."""
    return np.concatenate([landmarks.min(0), landmarks.max(0)])


def crop_matrix(box: np.ndarray, *, size: int = 256, rotation: float = 0.0) -> np.ndarray:
    """Map from picture to crop (float64 [2, 3]).

    Args:
      box: x0, y0, x1, y1 of the face.
      size: side of the crop in pixels.
      rotation: about the crop's centre, in the official code's degrees (400 make a full turn).
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    scale = size / (_SIDE * (x1 - x0 + y1 - y0) / _REFERENCE)
    turn = rotation * math.pi / 200
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return np.array(
        [[cos, sin, size / 2 - cos * x - sin * y], [-sin, cos, size / 2 + sin * x - cos * y]]
    )


def official_crop(
    image: np.ndarray,
    landmarks: np.ndarray,
    box: np.ndarray | None = None,
    *,
    size: int = 256,
    rotation: float = 0.0,
    mirror: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Picture and landmarks as the official data set delivers them.

    Args:
      image: uint8 [H, W, 3].
      landmarks: [68, 2] pixels.
      box: x0, y0, x1, y1; None = the picture is resized whole.
      size, rotation: see `crop_matrix`.
      mirror: flip left and right.

    Returns:
      uint8 [size, size, 3] and float64 [68, 2].
    """
    landmarks = np.asarray(landmarks, np.float64)
    if box is None:
        # Both coordinates are scaled by the height, as in the official code.
        points = landmarks * (size / image.shape[0])
        crop = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        matrix = crop_matrix(box, size=size, rotation=rotation)
        points = landmarks @ matrix[:, :2].T + matrix[:, 2]
        crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    if mirror:
        points = points[FLIP_INDEX] * [-1, 1] + [size, 0]
        crop = np.ascontiguousarray(crop[:, ::-1])
    return crop, points
