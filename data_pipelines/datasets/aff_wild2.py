"""Aff-Wild2 (ABAW challenges): videos with affect labels for every frame.

One text file per video, one line per frame: line i below the header belongs to the i-th frame,
`cropped_aligned/VIDEO/0000i.jpg`, counted from 1. Frames without a detected face have no image.
Two configs, whose splits differ:

* `expr`: `EXPR_Classification_Challenge` (also `EXPR_Recognition_Challenge`, `EXPR_Set`); header
  Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other; -1 = not annotated. The 2020 release
  lacks Other but counts the first seven alike.
* `va`: `VA_Estimation_Challenge` (also `VA_Set`); header valence,arousal; -5 = not annotated.

A second person of a video has a file (`VIDEO_left.txt`, `VIDEO_right.txt`) and a group of its own;
splits keep the two together. The test labels are not public, so papers report on Validation.

Sources: https://ibug.doc.ic.ac.uk/resources/aff-wild2/ and the headers of the annotation files as
quoted in public challenge entries. Numbers of videos: papers of the 3rd (EXPR) and 5th to 6th (VA)
ABAW competitions.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets import layout
from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, Reject, configs, unit_value
from data_pipelines.schema import LABEL_ORDERS

_TASKS = {
    "expr": ("EXPR_Classification_Challenge", "EXPR_Recognition_Challenge", "EXPR_Set"),
    "va": ("VA_Estimation_Challenge", "VA_Set"),
}
_SPLITS = {"train": ("Train_Set", "Training_Set"), "validation": ("Validation_Set",)}
_HEADERS = {
    "expr": "neutral,anger,disgust,fear,happiness,sadness,surprise",
    "va": "valence,arousal",
}
# The images came in parts: cropped_aligned, cropped_aligned_new_50_vids ...
_CROPS = re.compile(r"crop(ped|s)_aligned", re.IGNORECASE)
_SIDE = re.compile(r"_(left|right)$")


class AffWild2(FaceBuilder):
    """Builder of Aff-Wild2, configs `expr` and `va`."""

    name = "aff_wild2"
    BUILDER_CONFIGS = configs({"expr": "8 expressions", "va": "valence and arousal"})
    card = Card(
        title="Aff-Wild2",
        class_names=LABEL_ORDERS["affwild2"],
        splits={"train": "official training videos", "validation": "official validation videos"},
        expected="""
annotations/
  EXPR_Classification_Challenge/   (or EXPR_Recognition_Challenge, EXPR_Set)
    Train_Set/1-30-1280x720.txt ...
    Validation_Set/ ...
  VA_Estimation_Challenge/         (or VA_Set)
    Train_Set/ ... Validation_Set/ ...
cropped_aligned/
  1-30-1280x720/00001.jpg 00002.jpg ...
""",
        apply="https://ibug.doc.ic.ac.uk/resources/aff-wild2/ (research licence)",
        group="face track",
        person="video",
        fields=("expression", "valence_arousal"),
        roles={"train": "train", "test": "validation"},
    )
    published: Mapping[str, Published] = {
        "expr": Published(groups={"train": 248, "validation": 70}),
        "va": Published(groups={"train": 356, "validation": 76}),
    }

    @property
    def task(self) -> str:
        """`expr` or `va`."""
        return self.builder_config.name

    def class_names(self) -> tuple[str, ...]:
        return self.card.class_names if self.task == "expr" else ()

    def locate(self) -> Mapping[str, Any]:
        images = layout.find_root(self.manual_dir, lambda p: bool(_crop_folders(p)))
        self.places = _crop_folders(self.need(images, "there is no folder cropped_aligned"))
        videos = self._videos()
        names = _TASKS[self.task]
        reason = f"there is no annotation folder {' or '.join(names)}"
        notes = self.need(layout.find(self.manual_dir, names), reason)
        self.release = notes.name
        for name in names:
            other = layout.existing(notes.parent, name)
            if other is not None and other != notes:
                self.left.leave_out(name, f"another release; {notes.name} is read")
        folders = {split: layout.first_existing(notes, names) for split, names in _SPLITS.items()}
        found = {
            split: (sorted(layout.with_suffix(folder, ".txt")), videos)
            for split, folder in folders.items()
            if folder is not None
        }
        return self.need(found, f"{notes.name} has no Train_Set or Validation_Set")

    def _videos(self) -> dict[str, Path]:
        """Return the folder of the images of each video, by its name."""
        videos: dict[str, Path] = {}
        for video in (v for folder in self.places for v in layout.subfolders(folder)):
            # An archive may be unpacked into a folder of its own name.
            for path in layout.subfolders(video) if _CROPS.match(video.name) else [video]:
                if videos.setdefault(path.name, path) != path:
                    raise self.wrong_folder(
                        f"images of {path.name} lie in {videos[path.name].parent} and in "
                        f"{path.parent}; leave one"
                    )
        return videos

    def count(self, found: tuple[list[Path], dict[str, Path]]) -> int:
        # Minus the header; a file may or may not end in a line break.
        return sum(p.read_bytes().strip().count(b"\n") for p in found[0])

    def records(self, found: tuple[list[Path], dict[str, Path]]) -> Iterator[Record]:
        for path in found[0]:
            yield from self._video_records(path, found[1])

    def _video_records(self, path: Path, videos: Mapping[str, Path]) -> Iterator[Record]:
        lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
        header = lines[0].replace(" ", "").lower() if lines else ""
        if not header.startswith(_HEADERS[self.task]):
            yield Record(path.name, reject=f"header {header!r} is not {_HEADERS[self.task]!r}")
            return
        video = path.stem
        # One listing instead of a look-up per frame: there are millions.
        there = {p.stem: p for p in layout.image_files(videos[video])} if video in videos else {}
        for number, line in enumerate(lines[1:], start=1):
            stem = f"{number:05d}"
            image = there.get(stem, Path(f"{stem}.jpg"))
            record = Record(f"{video}/{image.name}", image, group=video)
            record.person = _SIDE.sub("", video)
            with record.reading():
                self._label(record, line.strip())
                if stem not in there:
                    raise Reject("no aligned face for this frame")
            yield record

    def _label(self, record: Record, line: str) -> None:
        if self.task == "expr":
            if not re.fullmatch(r"-?\d+", line):
                raise Reject(f"expression {line!r} is not a whole number")
            label = int(line)
            if label == -1:
                raise Reject("expression -1: frame is not annotated")
            if not 0 <= label < len(self.card.class_names):
                raise Reject(f"expression {label} is outside 0..7")
            record.expression = label
            return
        values = line.split(",")
        if len(values) != 2:
            raise Reject(f"{line!r} is not valence,arousal")
        if any(v.strip() in ("-5", "-5.0") for v in values):
            raise Reject("valence,arousal -5: frame is not annotated")
        record.valence = unit_value(values[0], "valence")
        record.arousal = unit_value(values[1], "arousal")


def _crop_folders(folder: Path) -> list[Path]:
    return [p for p in layout.subfolders(folder) if _CROPS.match(p.name)]
