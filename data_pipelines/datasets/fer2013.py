"""FER-2013 (Goodfellow et al. 2013): 48x48 grey faces with 7 expressions.

`fer2013.csv` has the columns emotion (0 anger, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise,
6 neutral), pixels (2,304 numbers) and Usage (Training, PublicTest, PrivateTest); Kaggle's
`icml_face_data.csv` has the same in another order. Label order and counts: the Kaggle page of the
challenge and arXiv:1307.0414. Persons are not known.

Names of columns and usages are read in any case and with or without spaces. Rows of another usage
belong to no split. They are counted and named; too many of them are an error.
"""

import csv
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, Reject
from data_pipelines.datasets.layout import find
from data_pipelines.datasets.writing import encode_png
from data_pipelines.schema import LABEL_ORDERS, shorten

FILES = ("fer2013.csv", "icml_face_data.csv", "fer2013/fer2013.csv")
USAGES = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
SIDE = 48
_COLUMNS = ("emotion", "pixels", "usage")
_MAX_UNKNOWN = 0.1  # part of the rows that may name another usage


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
        labellers="the words of an image search; people removed wrong images",
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

    def locate(self) -> Mapping[str, Any]:
        path = self.need(find(self.manual_dir, FILES), "there is no fer2013.csv")
        if problem := header_problem(path):
            raise self.wrong_folder(problem)
        usages = [row["usage"] for row in rows(path)]
        leave_out_unknown(self, usages, path.name)
        return {split: (path, usage, usages.count(usage)) for split, usage in USAGES.items()}

    def count(self, found: tuple[Path, str, int]) -> int:
        return found[2]

    def records(self, found: tuple[Path, str, int]) -> Iterator[Record]:
        path, usage, _ = found
        for number, row in enumerate(rows(path)):
            if row["usage"] != usage:
                continue
            record = Record(f"{path.name} row {number}", png_maker(row["pixels"]))
            try:
                record.expression = int(row["emotion"])
                if not 0 <= record.expression < 7:
                    record.reject = f"emotion {row['emotion']} is outside 0..6"
            except ValueError:
                record.reject = f"emotion {row['emotion']!r} is not a whole number"
            yield record


def read_header(path: Path) -> list[str]:
    """Return the cells of the first line of a table."""
    with open(path, newline="", encoding="utf-8-sig") as f:
        return next(csv.reader(f), [])


def header_problem(path: Path) -> str:
    """Return what is wrong with the first line of fer2013.csv, or ""."""
    header = read_header(path)
    absent = set(_COLUMNS) - {c.strip().lower() for c in header}
    if not absent:
        return ""
    found = ", ".join(repr(shorten(c, 30)) for c in header[:8]) or "nothing"
    # A row of pixels in its place, rather than other columns.
    rows_at_once = any(len(c.split()) > SIDE for c in header)
    hint = "; write emotion,pixels,Usage as its first line" if rows_at_once else ""
    return f"{path.name} has no header emotion,pixels,Usage: it begins with {found}{hint}"


def leave_out_unknown(builder: FaceBuilder, usages: Sequence[str], name: str) -> None:
    """Leave out the rows of table `name` whose usage belongs to no split.

    Raises:
      LayoutError: there are many of them.
    """
    known = tuple(USAGES.values())
    unknown = [
        (f"{name} row {k}", f"Usage {shorten(usage, 30)!r} is none of {', '.join(known)}")
        for k, usage in enumerate(usages)
        if usage not in known
    ]
    for row, reason in unknown:
        builder.left.leave_out(row, reason)
    if len(unknown) > _MAX_UNKNOWN * len(usages):
        row, reason = unknown[0]
        raise builder.wrong_folder(
            f"{len(unknown)} of {len(usages)} rows of {name} belong to no split; the first is "
            f"{row}: {reason}"
        )


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table with a column Usage, values without outer spaces.

    Column names are in lower case.

    A usage in any case and spacing is spelt as in `USAGES`.
    """
    names = {u.lower(): u for u in USAGES.values()}
    with open(path, newline="", encoding="utf-8-sig") as f:
        for row in csv.DictReader(f):
            cells = {k.strip().lower(): (v or "").strip() for k, v in row.items() if k is not None}
            plain = re.sub(r"[\s_-]+", "", cells["usage"]).lower()
            yield cells | {"usage": names.get(plain, cells["usage"])}


def png_maker(text: str) -> Callable[[], bytes]:
    """Return a function that makes the PNG of a `pixels` field, for any thread."""
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
