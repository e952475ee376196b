"""FERG-DB (Aneja et al. 2016): 55,767 rendered cartoon faces with 7 expressions.

`FERG_DB_256/aia/aia_anger/aia_anger_1.png`; the folders name character and expression. Class ids
follow the alphabetical order of the names, as the authors list them: anger, disgust, fear, joy,
neutral, sadness, surprise. There is no official split; the group is the character. Source:
http://grail.cs.washington.edu/projects/deepexpr/ferg-2d-db.html and public loaders.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record
from data_pipelines.datasets.layout import existing, find_root, image_files, subfolders

CLASSES = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
CHARACTERS = ("aia", "bonnie", "jules", "malcolm", "mery", "ray")


class FergDb(FaceBuilder):
    """Builder of FERG-DB."""

    name = "ferg_db"
    card = Card(
        title="FERG-DB",
        class_names=CLASSES,
        splits={"full": "no official split; use folds by character"},
        expected="""
FERG_DB_256/
  aia/aia_anger/aia_anger_1.png ... aia/aia_surprise/ ...
  bonnie/ jules/ malcolm/ mery/ ray/
""",
        apply="http://grail.cs.washington.edu/projects/deepexpr/ferg-2d-db.html (form)",
        group="character",
        labellers="an animator who posed the characters, and crowd workers",
    )
    published: Mapping[str, Published] = {
        "": Published(examples={"full": 55767}, groups={"full": 6})
    }

    def locate(self) -> Mapping[str, Any]:
        root = find_root(self.manual_dir, _is_root)
        self.places = [self.need(root, "there is no folder such as aia/aia_anger")]
        return {"full": root}

    def count(self, found: Path) -> int:
        return sum(len(image_files(e)) for c in subfolders(found) for e in subfolders(c))

    def records(self, found: Path) -> Iterator[Record]:
        reason = f"folder does not end in one of {', '.join(CLASSES)}"
        for folder in (e for c in subfolders(found) for e in subfolders(c)):
            who = folder.parent.name.lower()
            expression = folder.name.lower().removeprefix(f"{who}_")
            for path in sorted(image_files(folder), key=lambda p: (len(p.stem), p.stem)):
                record = Record(str(path.relative_to(found)), path, group=who)
                yield record.set_class(expression, CLASSES, reason)


def _is_root(folder: Path) -> bool:
    return any(existing(folder, f"{c}/{c}_anger") is not None for c in CHARACTERS)
