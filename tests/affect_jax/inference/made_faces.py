"""Drawn faces with known boxes, alone and in larger pictures."""

import cv2
import numpy as np

from data_pipelines.sources.synthetic import SyntheticFaces


def drawn(count: int, size: int = 256) -> list[dict]:
    """Return records of `count` persons, one image each."""
    source = SyntheticFaces(
        count, seed=3, split="test", image_size=size, frames_per_video=1, videos_per_person=1
    )
    return [source[i] for i in range(count)]


def placed(
    face: np.ndarray, box: np.ndarray, width: int, shape: tuple[int, int], left: int, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a grey picture [H, W, 3] with a face, `width` pixels wide, in it; and its box."""
    scale = width / (box[2] - box[0])
    size = tuple(round(scale * n) for n in face.shape[1::-1])
    small = cv2.resize(face, size, interpolation=cv2.INTER_AREA)
    picture = np.full((*shape, 3), 110, np.uint8)
    picture[top : top + size[1], left : left + size[0]] = small
    return picture, box * scale + np.array([left, top, left, top])


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes [4]."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.maximum(high - low, 0).prod()
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(common / (sum(areas) - common))
