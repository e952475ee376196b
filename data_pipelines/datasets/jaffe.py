"""JAFFE: 213 grey pictures of ten Japanese women posing 7 expressions (Lyons et al. 1998).

The file name tells person, expression and number: `KA.AN1.39.tiff`, with NE neutral, HA happy,
SA sad, SU surprise, AN anger, DI disgust, FE fear. There is no official split; the protocols in
use are 10 folds or leaving one person out. Source: https://zenodo.org/records/3451524 and the
README of the data set; counts per class follow from the file names.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record
from data_pipelines.datasets.layout import find_root, pictures
from data_pipelines.example import LABEL_ORDERS

CODES = ("NE", "HA", "SA", "SU", "AN", "DI", "FE")
_NAME = re.compile(r"([A-Z]{2})\.([A-Z]{2})\d*\.\d+\.\w+")


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
        roles={"full": "full"},
    )
    published: Mapping[str, Published] = {
        "": Published(
            examples={"full": 213},
            per_class={"full": (30, 31, 31, 30, 30, 29, 32)},
            groups={"full": 10},
        )
    }

    def locate(self, manual_dir: Path) -> Mapping[str, Any]:
        root = find_root(
            manual_dir, lambda p: any(_NAME.fullmatch(f.name) for f in pictures(p)[:50])
        )
        if root is None:
            raise self.wrong_folder(manual_dir, "there is no file named like KA.AN1.39.tiff")
        return {"full": pictures(root)}

    def count(self, found: list[Path]) -> int:
        return len(found)

    def records(self, found: list[Path]) -> Iterator[Record]:
        for path in found:
            match = _NAME.fullmatch(path.name)
            if match is None:
                yield Record(path.name, reject="file name is not like KA.AN1.39.tiff")
            elif match[2] not in CODES:
                yield Record(path.name, reject=f"expression code {match[2]} is unknown")
            else:
                yield Record(path.name, path, expression=CODES.index(match[2]), group=match[1])
