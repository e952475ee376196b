"""Small images, files and sources that the tests of the input side share."""

import csv
import io

import numpy as np
from PIL import Image

from data_pipelines.schema import NUM_LANDMARKS, DataError, Record, empty_labels
from data_pipelines.sources.table import TableSource, read_folder, read_manifest


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth colour image, so that JPEG and interpolation change it little."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_csv(path, header, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def manifest_source(path, *options, **more) -> TableSource:
    """All rows of a manifest; arguments as of `read_manifest`."""
    return TableSource(read_manifest(path, *options, **more))


def folder_source(folder, *options, **more) -> TableSource:
    """All images of a folder with one folder a class."""
    return TableSource(read_folder(folder, *options, **more))


class Listed:
    """A source over a list of images (bytes or arrays), with labels and landmarks if given."""

    num_classes = 3
    class_names = ("a", "b", "c")
    hierarchy = ""
    group_names = attribute_names = attribute_values = ()
    has_persons = False

    def __init__(self, images, labels=None, groups=None, landmarks=None):
        self.images = images
        n = len(images)
        self.labels = np.arange(n, dtype=np.int32) % 3 if labels is None else np.int32(labels)
        self.groups = np.arange(n, dtype=np.int32) if groups is None else np.int32(groups)
        self.tracks = np.full(n, -1, np.int32)
        self.persons = [f"person {k}" for k in range(n)]
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
        return f"image {i}"

    def record_columns(self):
        return {}

    def record_facts(self):
        return {}


def check_record(record: Record, num_classes: int) -> None:
    """Checks ranges and shapes of a raw record's fields.

    Raises:
      DataError: naming the field that is wrong.
    """
    image = record["image"]
    if not isinstance(image, bytes) and not (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
    ):
        raise DataError("image must be encoded bytes or uint8 [H, W, 3]")
    if not -1 <= int(record["expression"]) < num_classes:
        raise DataError(f"expression {record['expression']} is outside -1..{num_classes - 1}")
    shapes = {"valence_arousal": (2,), "landmarks": (NUM_LANDMARKS, 2), "box": (4,)}
    for field, shape in shapes.items():
        value = np.asarray(record[field])
        if value.dtype != np.float32 or value.shape != shape:
            raise DataError(f"{field} must be float32 {list(shape)}, got {value.dtype}")
        if np.isinf(value).any():
            raise DataError(f"{field} holds an infinite value")
    if np.nanmax(np.abs(record["valence_arousal"]), initial=0.0) > 1:
        raise DataError(f"valence_arousal {record['valence_arousal']} is outside [-1, 1]")
