"""SFEW 2.0 (Dhall et al. 2011, 2015): film stills, 7 expressions, class folders.

Configs: `aligned` (Train_Aligned_Faces, Val_Aligned_Faces_new, which papers use) and `original`
(the whole stills). Class ids follow the alphabetical order of the folders, Angry, Disgust, Fear,
Happy, Neutral, Sad, Surprise, as in the EmotiW challenge and in public loaders. The labels of the
test set were not published, so papers report on Val. The group is the film, the first part of the
file name (`Airheads_000519240_00000005.png`); the official split keeps films apart.

Counts: EmotiW 2015 (958 / 436 stills); 891 / 431 aligned faces as papers report.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, configs
from data_pipelines.datasets.layout import existing, find_root, image_files, subfolders

CLASSES = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise")
FOLDERS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")  # in any case
_PLACES = {
    ("aligned", "train"): ("Train/Train_Aligned_Faces", "Train_Aligned_Faces"),
    ("aligned", "validation"): (
        "Val/Val_Aligned_Faces_new/Val_Aligned_Faces",
        "Val/Val_Aligned_Faces_new",
        "Val_Aligned_Faces_new/Val_Aligned_Faces",
        "Val_Aligned_Faces_new",
        "Val/Val_Aligned_Faces",
        "Val_Aligned_Faces",
    ),
    ("original", "train"): ("Train/Train", "Train"),
    ("original", "validation"): ("Val/Val", "Val"),
}
_FILM = re.compile(r"_\d+_\d+$")


class Sfew(FaceBuilder):
    """Builder of SFEW 2.0, configs `aligned` and `original`."""

    name = "sfew"
    BUILDER_CONFIGS = configs({"aligned": "the authors' aligned faces", "original": "whole stills"})
    card = Card(
        title="SFEW 2.0",
        class_names=CLASSES,
        splits={"train": "Train", "validation": "Val (Test has no public labels)"},
        expected="""
Train/Train_Aligned_Faces/Angry/Airheads_000519240_00000005.png ... Surprise/ ...
Val/Val_Aligned_Faces_new/Val_Aligned_Faces/Angry/ ... Surprise/ ...
Train/Angry/ ...  Val/Angry/ ...      (config original)
""",
        apply="https://cs.anu.edu.au/few/ (agreement by e-mail)",
        group="film",
        roles={"train": "train", "test": "validation"},
    )
    published: Mapping[str, Published] = {
        "aligned": Published(examples={"train": 891, "validation": 431}),
        "original": Published(examples={"train": 958, "validation": 436}),
    }

    def locate(self) -> Mapping[str, Any]:
        config = self.builder_config.name
        places = {split: _PLACES[config, split] for split in ("train", "validation")}
        root = self.need(
            find_root(self.manual_dir, lambda p: _class_root(p, places["train"]) is not None),
            f"there is no {places['train'][0]}/Angry",
        )
        folders = {split: _class_root(root, names) for split, names in places.items()}
        found = {split: folder for split, folder in folders.items() if folder is not None}
        for split, used in found.items():
            reason = f"another version of {split}; {used.relative_to(root)} is read"
            for place in places[split]:
                folder = existing(root, place)
                if folder is not None and folder != used and _has_classes(folder):
                    self.left.leave_out(place, reason, self.count(folder))
        # Whole stills share a folder with aligned faces, which belong to the other config.
        self.places = list(found.values()) if config == "aligned" else []
        return found

    def count(self, found: Path) -> int:
        return sum(len(image_files(folder)) for folder in subfolders(found))

    def records(self, found: Path) -> Iterator[Record]:
        for folder in subfolders(found):
            for path in image_files(folder):
                name = f"{found.name}/{folder.name}/{path.name}"
                record = Record(name, path, group=_FILM.sub("", path.stem))
                label = folder.name.lower()
                yield record.set_class(label, FOLDERS, "folder is none of the 7 classes")


def _class_root(root: Path, places: tuple[str, ...]) -> Path | None:
    folders = (existing(root, place) for place in places)
    return next((f for f in folders if f is not None and _has_classes(f)), None)


def _has_classes(folder: Path) -> bool:
    return existing(folder, FOLDERS[0]) is not None
