"""CK+ (Lucey et al. 2010): posed sequences from neutral to the peak.

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
from data_pipelines.datasets.card import Card, Published, Record, Reject, configs, only_file
from data_pipelines.datasets.layout import find, image_files, subfolders, with_suffix
from data_pipelines.schema import LABEL_ORDERS, NUM_LANDMARKS

FILE_LABELS = ("", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
EIGHT = ("neutral", *FILE_LABELS[1:])
_NUMBERED = "with contempt: " + ", ".join(f"{i} {n}" for i, n in enumerate(EIGHT))
_IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images/cohn-kanade-images")
_EMOTIONS = ("Emotion", "Emotion_labels/Emotion")
_LANDMARKS = ("Landmarks/Landmarks", "Landmarks")
_SEQUENCES = dict(zip(FILE_LABELS[1:], (45, 18, 59, 25, 69, 28, 83), strict=True))
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
    BUILDER_CONFIGS = configs(
        {
            "seven": "7 classes, last 3 frames and the onset",
            "seven_peak": "7 classes, last frame and the onset",
            "eight": f"{_NUMBERED}; last 3 frames and the onset",
            "eight_peak": f"{_NUMBERED}; last frame and the onset",
        }
    )
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
        labellers="coders of facial actions (FACS), checked by emotion researchers",
    )
    published: Mapping[str, Published] = {c: _published(c) for c in _PEAK_FRAMES}

    def class_names(self) -> tuple[str, ...]:
        return _names(self.builder_config.name)

    def locate(self) -> Mapping[str, Any]:
        images = self.need(find(self.manual_dir, _IMAGES), "there is no folder cohn-kanade-images")
        emotions = self.need(find(self.manual_dir, _EMOTIONS), "there is no folder Emotion")
        self.places = [images]
        return {"full": (images, emotions, find(self.manual_dir, _LANDMARKS))}

    def records(self, found: tuple[Path, Path, Path | None]) -> Iterator[Record]:
        images, emotions, landmarks = found
        there = set()
        for name in _sequences(images):
            there.add(name)
            yield from self._sequence(name, images / name, emotions / name, landmarks)
        for name in _sequences(emotions):
            if name not in there and _labels(emotions / name):
                yield Record(name, reject="the sequence has a label, but no frames")

    def _sequence(
        self, name: str, images: Path, emotions: Path, landmarks: Path | None
    ) -> Iterator[Record]:
        frames, names = image_files(images), self.class_names()
        peak = _PEAK_FRAMES[self.builder_config.name]
        try:
            label = _label(_labels(emotions))
            if label not in names:
                raise Reject(f"{label} is none of the {len(names)} classes of this config")
            if len(frames) <= peak:
                raise Reject(f"{len(frames)} frames: too few for an onset and {peak} at the peak")
        except Reject as e:
            self.left.pass_over(frames, "frames of sequences that are rejected")
            yield Record(name, reject=str(e))
            return
        self.left.pass_over(frames[1:-peak], "frames between the onset and the peak")
        for path in (frames[0], *frames[-peak:]):
            yield Record(
                f"{name}/{path.name}",
                path,
                expression=names.index("neutral" if path == frames[0] else label),
                landmarks=_points(landmarks, f"{name}/{path.stem}_landmarks.txt"),
                group=name.split("/")[0],
            )


def _sequences(folder: Path) -> list[str]:
    """Return the sequences of a folder as `PERSON/SEQUENCE`."""
    return [f"{p.name}/{s.name}" for p in subfolders(folder) for s in subfolders(p)]


def _labels(sequence: Path) -> list[Path]:
    """Return the files with the emotion of a sequence; one, as a rule."""
    return with_suffix(sequence, "_emotion.txt")


def _label(notes: list[Path]) -> str:
    """Return the name of the class of a sequence."""
    note = only_file(notes, "emotion")
    if note is None:
        raise Reject("the sequence has no emotion label")
    try:
        number = int(float(note.read_text().split()[0]))
    except (OSError, ValueError, IndexError):
        raise Reject(f"{note.name} does not hold a number") from None
    if not 1 <= number < len(FILE_LABELS):
        raise Reject(f"emotion {number} is outside 1..7")
    return FILE_LABELS[number]


def _points(folder: Path | None, name: str) -> np.ndarray | None:
    if folder is None or not (folder / name).is_file():
        return None
    try:
        return np.array((folder / name).read_text().split(), np.float64).reshape(NUM_LANDMARKS, 2)
    except ValueError:
        return None
