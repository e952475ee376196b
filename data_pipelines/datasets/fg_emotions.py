"""FG-Emotions (Liang et al. 2020): faces from films with 33 fine expressions.

Key frames in one folder per fine class, `train/anxiety/...` and `test/anxiety/...`; a folder of the
coarse class may lie between them (`train/fear/anxiety/...`). No public description of the archive
was found, so this is the simplest layout that fits the papers. Class folders are recognised by
their names in any case, and other names are reported.

Class ids: the order of `hierarchies/fg_emotions.toml`. Counts: 7,245 and 3,126 (Liu et al. 2024).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record
from data_pipelines.datasets.layout import find_root, first_existing, image_files, subfolders
from data_pipelines.hierarchies import tree

CLASSES = tree.load("fg_emotions").fine
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing")}


class FgEmotions(FaceBuilder):
    """Builder of FG-Emotions."""

    name = "fg_emotions"
    card = Card(
        title="FG-Emotions",
        class_names=CLASSES,
        splits={"train": "official training frames", "test": "official test frames"},
        expected="""
train/anxiety/*.jpg ... train/lust/*.jpg      (or train/fear/anxiety/*.jpg)
test/anxiety/*.jpg ... test/lust/*.jpg
""",
        apply="from the authors (Liang et al., Fine-grained facial expression recognition in the "
        "wild, IEEE TIFS 2020)",
        checked="NOT verified: no public description of the archive was found; this is the "
        "plainest layout that fits the papers",
    )
    published: Mapping[str, Published] = {"": Published(examples={"train": 7245, "test": 3126})}

    def locate(self) -> Mapping[str, Any]:
        root = self.need(
            find_root(self.manual_dir, _is_root), "there is no folder such as train/anxiety"
        )
        folders = {split: first_existing(root, names) for split, names in _SPLITS.items()}
        found = {split: folder for split, folder in folders.items() if folder is not None}
        self.places = list(found.values())
        return found

    def count(self, found: Path) -> int:
        return sum(len(image_files(folder)) for folder in _class_folders(found))

    def records(self, found: Path) -> Iterator[Record]:
        for folder in _class_folders(found):
            for path in image_files(folder):
                record = Record(str(path.relative_to(found.parent)), path)
                name = folder.name.strip().lower()
                yield record.set_class(name, CLASSES, "folder is none of the 33 fine classes")


def _is_root(folder: Path) -> bool:
    train = first_existing(folder, _SPLITS["train"])
    return train is not None and any(
        f.name.strip().lower() in CLASSES for f in _class_folders(train)
    )


def _class_folders(split: Path) -> list[Path]:
    """Return image folders on one or two levels: `anger` is on both."""
    folders = []
    for child in subfolders(split):
        inner = subfolders(child)
        folders += [child, *inner] if image_files(child) or not inner else inner
    return folders
