"""CK+ (extended Cohn-Kanade): posed sequences from neutral to peak (Lucey et al. 2010).

593 sequences `cohn-kanade-images/S005/001/S005_001_00000001.png` ... of 123 persons; 327 of them
have `Emotion/S005/001/S005_001_00000011_emotion.txt` with one number: 1 anger, 2 contempt,
3 disgust, 4 fear, 5 happy, 6 sadness, 7 surprise. `Landmarks/` has 68 points for each frame.

The last frames of a labelled sequence show its expression, the first frame is neutral. Configs:

* `seven` (default): without contempt; the last 3 frames, and the first one as neutral.
* `seven_peak`: the same with the last frame only.
* `eight`, `eight_peak`: with contempt; class ids are the numbers in the files, 0 neutral.

Sources: the ReadMe of the database as quoted in public loaders; counts of sequences from Table 3 of
the paper. 309 labelled sequences of 106 persons remain without contempt.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Config, Published, Record
from data_pipelines.datasets.layout import (
    by_name,
    existing,
    find_root,
    first_existing,
    pictures,
    subfolders,
)
from data_pipelines.schema import LABEL_ORDERS, NUM_LANDMARKS

FILE_LABELS = ("", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
EIGHT = ("neutral", *FILE_LABELS[1:])
_NUMBERED = "with contempt: " + ", ".join(f"{i} {n}" for i, n in enumerate(EIGHT))
_IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images")
_EMOTIONS = ("Emotion", "Emotion_labels/Emotion")
_LANDMARKS = ("Landmarks", "Landmarks/Landmarks")
_SEQUENCES = {
    "anger": 45,
    "contempt": 18,
    "disgust": 59,
    "fear": 25,
    "happy": 69,
    "sadness": 28,
    "surprise": 83,
}
_PEAK_FRAMES = {"seven": 3, "seven_peak": 1, "eight": 3, "eight_peak": 1}


def _names(config: str) -> tuple[str, ...]:
    return LABEL_ORDERS["ckplus7"] if config.startswith("seven") else EIGHT


def _published(config: str) -> Published:
    names = _names(config)
    sequences = {k: v for k, v in _SEQUENCES.items() if k in names}
    frames = {k: v * _PEAK_FRAMES[config] for k, v in sequences.items()}
    frames["neutral"] = sum(sequences.values())
    return Published(
        examples={"full": sum(frames.values())},
        per_class={"full": tuple(frames[n] for n in names)},
        groups={"full": 106 if config.startswith("seven") else 118},
    )


class CkPlus(FaceBuilder):
    """Builder of CK+."""

    name = "ck_plus"
    BUILDER_CONFIGS = [  # noqa: RUF012 - the name is TFDS's
        Config(name="seven", description="7 classes, last 3 frames and the onset"),
        Config(name="seven_peak", description="7 classes, last frame and the onset"),
        Config(name="eight", description=f"{_NUMBERED}; last 3 frames and the onset"),
        Config(name="eight_peak", description=f"{_NUMBERED}; last frame and the onset"),
    ]
    card = Card(
        title="CK+",
        class_names=LABEL_ORDERS["ckplus7"],
        splits={"full": "no official split; use folds by person (10 as a rule)"},
        expected="""
cohn-kanade-images/S005/001/S005_001_00000001.png ... S005_001_00000011.png
Emotion/S005/001/S005_001_00000011_emotion.txt
Landmarks/S005/001/S005_001_00000001_landmarks.txt ...      (optional)
""",
        apply="http://www.jeffcohn.net/Resources/ (agreement by e-mail)",
        group="person",
        fields=("expression", "landmarks"),
        roles={"full": "full"},
    )
    published: Mapping[str, Published] = {c: _published(c) for c in _PEAK_FRAMES}

    def class_names(self) -> tuple[str, ...]:
        return _names(self.builder_config.name)

    def locate(self, manual_dir: Path) -> Mapping[str, Any]:
        root = find_root(manual_dir, lambda p: first_existing(p, _IMAGES) is not None)
        if root is None:
            raise self.wrong_folder(manual_dir, "there is no folder cohn-kanade-images")
        emotions_root = find_root(manual_dir, lambda p: first_existing(p, _EMOTIONS) is not None)
        if emotions_root is None:
            raise self.wrong_folder(manual_dir, "there is no folder Emotion")
        landmarks_root = find_root(manual_dir, lambda p: existing(p, "Landmarks") is not None)
        found = {
            "images": first_existing(root, _IMAGES),
            "emotions": first_existing(emotions_root, _EMOTIONS),
            "landmarks": first_existing(landmarks_root, reversed(_LANDMARKS))
            if landmarks_root
            else None,
        }
        self.places = [found["images"]]
        return {"full": found}

    def records(self, found: Mapping[str, Path | None]) -> Iterator[Record]:
        there = set()
        for person in subfolders(found["images"]):
            for sequence in subfolders(person):
                there.add(f"{person.name}/{sequence.name}")
                yield from self._sequence(f"{person.name}/{sequence.name}", found)
        for person in subfolders(found["emotions"]):
            for sequence in subfolders(person):
                name = f"{person.name}/{sequence.name}"
                if name not in there and _labels(sequence):
                    yield Record(name, reject="the sequence has a label, but no frames")

    def _sequence(self, name: str, found: Mapping[str, Path | None]) -> Iterator[Record]:
        frames = pictures(found["images"] / name)
        label, reason = _label(_labels(found["emotions"] / name))
        names = self.class_names()
        if not reason and label not in names:
            reason = f"{label} is none of the {len(names)} classes of this config"
        peak = _PEAK_FRAMES[self.builder_config.name]
        if not reason and len(frames) <= peak:
            reason = f"{len(frames)} frames: too few for an onset and {peak} at the peak"
        if reason:
            self.left.pass_over(frames, "frames of sequences that are rejected")
            yield Record(name, reject=reason)
            return
        chosen = [(frames[0], "neutral"), *((f, label) for f in frames[-peak:])]
        self.left.pass_over(frames[1:-peak], "frames between the onset and the peak")
        for path, expression in chosen:
            yield Record(
                f"{name}/{path.name}",
                path,
                expression=names.index(expression),
                landmarks=_points(found["landmarks"], f"{name}/{path.stem}_landmarks.txt"),
                group=name.split("/")[0],
            )


def _labels(sequence: Path) -> list[Path]:
    """Files with the emotion of a sequence; one, as a rule."""
    files = by_name(sequence)
    return [files[name] for name in sorted(files) if name.endswith("_emotion.txt")]


def _label(notes: list[Path]) -> tuple[str, str]:
    """Name of the class, reason to reject the sequence."""
    if not notes:
        return "", "the sequence has no emotion label"
    if len(notes) > 1:
        listed = ", ".join(p.name for p in notes)
        return "", f"{len(notes)} files could hold the emotion ({listed}); leave one in the folder"
    try:
        number = int(float(notes[0].read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        return "", f"{notes[0].name} does not hold a number"
    if not 1 <= number < len(FILE_LABELS):
        return "", f"emotion {number} is outside 1..7"
    return FILE_LABELS[number], ""


def _points(folder: Path | None, name: str) -> np.ndarray | None:
    if folder is None or not (folder / name).is_file():
        return None
    try:
        return np.array((folder / name).read_text().split(), np.float64).reshape(NUM_LANDMARKS, 2)
    except ValueError:
        return None
