"""Small pictures, files and sources that the tests of the input side share."""

import csv
import io

import numpy as np
from PIL import Image

from data_pipelines.schema import empty_labels


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colour picture, so that JPEG and interpolation change it little."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encode(picture: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_csv(path, header, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


class Listed:
    """A source over a list of pictures (bytes or arrays), with labels and landmarks if given."""

    num_classes = 3
    class_names = ("a", "b", "c")

    def __init__(self, images, labels=None, groups=None, landmarks=None):
        self.images = images
        n = len(images)
        self.labels = np.arange(n, dtype=np.int32) % 3 if labels is None else np.int32(labels)
        self.groups = np.arange(n, dtype=np.int32) if groups is None else np.int32(groups)
        self.landmarks = landmarks
        self.has = frozenset({"expression"} | ({"landmarks"} if landmarks is not None else set()))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        record = empty_labels()
        record["image"] = self.images[i]
        if isinstance(record["image"], Exception):
            raise record["image"]
        record["expression"] = int(self.labels[i])
        record["group"] = int(self.groups[i])
        if self.landmarks is not None:
            record["landmarks"] = self.landmarks[i]
        return record

    def describe(self, i):
        return f"picture {i}"
