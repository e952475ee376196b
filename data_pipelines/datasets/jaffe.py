"""JAFFE (Lyons et al. 1998): 213 grey images of ten women posing 7 expressions.

The file name gives person, expression and number: `KA.AN1.39.tiff`, with NE neutral, HA happy,
SA sad, SU surprise, AN anger, DI disgust, FE fear. There is no official split; the protocols in
use are 10 folds or leaving one person out. Images may lie in several folders (one a person, say).
Some copies hold each image twice, as `KA.AN1.39.tiff` and `KA.AN1.39.tiff.bmp`: one is read, the
other left out as a copy. Source: https://zenodo.org/records/3451524 and the
README of the data set; counts per class follow from the file names.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record
from data_pipelines.datasets.layout import image_files_below
from data_pipelines.schema import LABEL_ORDERS

CODES = ("NE", "HA", "SA", "SU", "AN", "DI", "FE")
_NAME = re.compile(r"(([A-Z]{2})\.([A-Z]{2})\d*\.\d+)((?:\.\w+)+)", re.IGNORECASE)


class Jaffe(FaceBuilder):
    """Builder of JAFFE."""

    name = "jaffe"
    card = Card(
        title="JAFFE",
        class_names=LABEL_ORDERS["jaffe"],
        splits={"full": "no official split; use folds by person or leave one person out"},
        expected="jaffe/KA.AN1.39.tiff KA.AN2.40.tiff ... YM.SU3.60.tiff",
        apply="https://zenodo.org/records/3451524 (terms of use to be accepted)",
        group="person",
        labellers="no annotator; the label is the expression that the person was asked to show",
    )
    published: Mapping[str, Published] = {
        "": Published(
            examples={"full": 213},
            per_class={"full": (30, 31, 31, 30, 30, 29, 32)},
            groups={"full": 10},
        )
    }

    def locate(self) -> Mapping[str, Any]:
        found = _images(self.manual_dir) or _images(self.manual_dir.parent)
        self.need(found, "there is no file named like KA.AN1.39.tiff")
        self.places = sorted({p.parent for p in found})
        return {"full": found}

    def count(self, found: list[Path]) -> int:
        return len(found)

    def records(self, found: list[Path]) -> Iterator[Record]:
        first = _first_of_each(found)
        for path in found:
            match = _NAME.fullmatch(path.name)
            if match is None:
                yield Record(path.name, path, reject="file name is not like KA.AN1.39.tiff")
                continue
            image, person, code = match[1].upper(), match[2].upper(), match[3].upper()
            record = Record(path.name, path, group=person)
            record.set_class(code, CODES, f"expression code {code} is unknown")
            if (kept := first[image]) != path:
                place = "" if kept.parent == path.parent else f"{kept.parent.name}/"
                record.reject = f"copy of {place}{kept.name}"
            yield record


def _images(folder: Path) -> list[Path]:
    """Return the images of every folder that has one with a JAFFE name."""
    folders: dict[Path, list[Path]] = {}
    for path in image_files_below(folder, depth=2):
        folders.setdefault(path.parent, []).append(path)
    named = (f for f in folders.values() if any(_NAME.fullmatch(p.name) for p in f))
    return sorted((p for f in named for p in f), key=lambda p: (p.name.upper(), str(p)))


def _first_of_each(found: list[Path]) -> dict[str, Path]:
    """Return the file to read for each image: fewest endings, then by name."""
    first: dict[str, Path] = {}
    for path in sorted(found, key=lambda p: (p.name.count("."), p.name.upper(), str(p))):
        match = _NAME.fullmatch(path.name)
        if match:
            first.setdefault(match[1].upper(), path)
    return first
