"""FER-2013: 48x48 grey faces with 7 expressions, all in one CSV file (Goodfellow et al. 2013).

`fer2013.csv` has the columns emotion (0 anger, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise,
6 neutral), pixels (2,304 numbers) and Usage (Training, PublicTest, PrivateTest); Kaggle's
`icml_face_data.csv` has the same in another order. Label order and counts: the Kaggle page of the
challenge and arXiv:1307.0414. Persons are not known.
"""

import csv
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder, encode_png
from data_pipelines.datasets.card import Card, Published, Record, Reject
from data_pipelines.datasets.layout import find_root, first_existing
from data_pipelines.example import LABEL_ORDERS

FILES = ("fer2013.csv", "icml_face_data.csv", "fer2013/fer2013.csv")
USAGES = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
SIDE = 48


class Fer2013(FaceBuilder):
    """Builder of FER-2013."""

    name = "fer2013"
    card = Card(
        title="FER-2013",
        class_names=LABEL_ORDERS["fer2013"],
        splits={"train": "Training", "validation": "PublicTest", "test": "PrivateTest"},
        expected="fer2013.csv        (or icml_face_data.csv)",
        apply="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-"
        "recognition-challenge/data",
        roles={"train": "train", "validation": "validation", "test": "test"},
    )
    published: Mapping[str, Published] = {
        "": Published(
            examples={"train": 28709, "validation": 3589, "test": 3589},
            per_class={
                "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
                "validation": (467, 56, 496, 895, 653, 415, 607),
                "test": (491, 55, 528, 879, 594, 416, 626),
            },
        )
    }

    def locate(self, manual_dir: Path) -> Mapping[str, Any]:
        root = find_root(manual_dir, lambda p: first_existing(p, FILES) is not None)
        if root is None:
            raise self.wrong_folder(manual_dir, "there is no fer2013.csv")
        path = first_existing(root, FILES)
        with open(path, newline="", encoding="utf-8-sig") as f:
            header = {c.strip() for c in next(csv.reader(f), [])}
        if not {"emotion", "pixels", "Usage"} <= header:
            raise self.wrong_folder(
                manual_dir, f"{path.name} has columns {sorted(header)}, not emotion,pixels,Usage"
            )
        return {split: (path, usage) for split, usage in USAGES.items()}

    def count(self, found: tuple[Path, str]) -> int:
        return self.published[""].examples[{v: k for k, v in USAGES.items()}[found[1]]]

    def records(self, found: tuple[Path, str]) -> Iterator[Record]:
        path, usage = found
        for number, row in rows(path):
            if row["Usage"] != usage:
                continue
            record = Record(f"{path.name} row {number}", picture(row["pixels"]))
            try:
                record.expression = int(row["emotion"])
                if not 0 <= record.expression < 7:
                    record.reject = f"emotion {row['emotion']} is outside 0..6"
            except ValueError:
                record.reject = f"emotion {row['emotion']!r} is not a whole number"
            yield record


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number from 0, columns) of fer2013.csv; names and values are stripped."""
    with open(path, newline="", encoding="utf-8-sig") as f:
        for number, row in enumerate(csv.DictReader(f)):
            yield number, {k.strip(): (v or "").strip() for k, v in row.items() if k is not None}


def picture(text: str) -> Callable[[], bytes]:
    """A function that makes the PNG of a `pixels` field, for the thread that needs it."""
    return functools.partial(_png, text)


def _png(text: str) -> bytes:
    try:
        values = np.array(text.split(), np.int64)
    except ValueError:
        raise Reject("pixels are not whole numbers") from None
    if values.size != SIDE * SIDE:
        raise Reject(f"{values.size} pixels instead of {SIDE * SIDE}")
    if values.min() < 0 or values.max() > 255:
        raise Reject("pixels are outside 0..255")
    return encode_png(values.astype(np.uint8).reshape(SIDE, SIDE))
