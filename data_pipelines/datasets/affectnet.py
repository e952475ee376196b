"""AffectNet (Mollahosseini et al. 2017): web faces, 8 expressions, affect values.

Two releases are in use. The one that was found is printed and written to `affect.json`:

* 2017, CSV: `training.csv` and `validation.csv` with the path, face box, 68 landmarks, expression
  0 to 10 and valence/arousal of each image of any size. 8 (none), 9 (uncertain) and 10 (no face)
  are left out; a valence or arousal of -2 is missing. 500 validation images per class.
* 2021, npy: `train_set` and `val_set`, images of 224x224 and four .npy files for each. Only
  expressions 0 to 7; 3,999 validation images (contempt has 499).

Both count classes alike: 0 neutral, 1 happy, 2 sad, 3 surprise, 4 fear, 5 disgust, 6 anger,
7 contempt (column description of the 2017 lists, README of the 2021 release; the same in public
loaders such as github.com/face-analysis/emonet). Repackaged copies with one folder per class are
in alphabetical order instead: read those with `manifest`. `prepare` compares the count of every
class with the published count, which reveals a permuted order.

Published counts: Table 3 of the paper (training) and the README of the 2021 release. No persons
are known, so groups are missing.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, Reject, unit_value
from data_pipelines.datasets.layout import existing, find, find_root, first_existing
from data_pipelines.schema import LABEL_ORDERS, NUM_LANDMARKS

COLUMNS = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height"),
    *("facial_landmarks", "expression", "valence", "arousal"),
)
_OTHER_LABELS = {8: "none", 9: "uncertain", 10: "no face"}
_MISSING = -2.0
_LISTS = ("Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists", ".")
_TRAINING = tuple(f"{folder}/training.csv" for folder in _LISTS)
_IMAGES = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_TRAIN = (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750)


class AffectNet(FaceBuilder):
    """Builder of AffectNet, both releases."""

    name = "affectnet"
    card = Card(
        title="AffectNet",
        class_names=LABEL_ORDERS["affectnet8"],
        splits={"train": "official training set", "validation": "official validation set"},
        expected="""
2017 release:                              2021 release:
Manually_Annotated_file_lists/             train_set/
  training.csv                               images/0.jpg ...
  validation.csv                             annotations/0_exp.npy 0_val.npy
Manually_Annotated_Images/                               0_aro.npy 0_lnd.npy ...
  103/29a31ebf...jpg ...                   val_set/ (the same)
""",
        apply="http://mohammadmahoor.com/affectnet/ (licence signed by a professor or lab manager)",
        fields=("expression", "valence_arousal", "landmarks"),
        # The test set was not published; papers report on the validation set.
        roles={"train": "train", "test": "validation"},
        labellers="twelve annotators at the University of Denver, one per image as a rule",
    )
    published: Mapping[str, Published] = {
        "2017": Published(
            examples={"train": 287651, "validation": 4000},
            per_class={"train": _TRAIN, "validation": (500,) * 8},
        ),
        "2021": Published(
            examples={"train": 287651, "validation": 3999},
            per_class={"train": _TRAIN, "validation": (500,) * 7 + (499,)},
        ),
    }

    def locate(self) -> Mapping[str, Any]:
        notes = find(self.manual_dir, ("train_set/annotations",))
        root = find_root(self.manual_dir, lambda p: first_existing(p, _TRAINING) is not None)
        training = first_existing(root, _TRAINING) if root else None
        if notes is not None:
            self.release = "2021"
            if training is not None:
                reason = "list of the 2017 release; that of 2021 is read"
                self.left.leave_out(str(training), reason)
            sets = {"train": notes.parent, "validation": existing(notes.parents[1], "val_set")}
            folders = {k: p for k, p in sets.items() if p and existing(p, "annotations")}
            self.places = [existing(p, "images") or p for p in folders.values()]
            return folders
        if root is None or training is None:
            raise self.wrong_folder("there is neither a training.csv nor a train_set/annotations")
        self.release = "2017"
        lists = training.parent
        # If the root is the list folder itself, the images are in its parent.
        images = self.need(
            first_existing(root, _IMAGES) or first_existing(lists.parent, _IMAGES),
            "training.csv is there, but no folder Manually_Annotated_Images",
        )
        self.places = [images]
        tables = {"train": training, "validation": existing(lists, "validation.csv")}
        return {k: (p, images) for k, p in tables.items() if p}

    def count(self, found: Any) -> int:
        if self.release == "2021":
            return len(_stems(found, "annotations") | _stems(found, "images"))
        with open(found[0], encoding="utf-8-sig") as f:
            return sum(1 for _ in f) - 1

    def records(self, found: Any) -> Iterator[Record]:
        return _npy_records(found) if self.release == "2021" else _csv_records(*found)


def _csv_records(path: Path, images: Path) -> Iterator[Record]:
    with open(path, newline="", encoding="utf-8-sig") as f:
        for row in csv.reader(f):
            # Some copies of validation.csv have lost the header.
            if not row or row[0] == COLUMNS[0]:
                continue
            if len(row) != len(COLUMNS):
                reason = f"{len(row)} columns instead of {len(COLUMNS)}"
                yield Record(row[0], reject=reason)
                continue
            record = Record(row[0], images / row[0])
            with record.reading():
                _read_row(record, dict(zip(COLUMNS, row, strict=True)))
            yield record


def _read_row(record: Record, row: dict[str, str]) -> None:
    record.expression = _expression(row["expression"])
    record.valence = _valence_arousal(row["valence"], "valence")
    record.arousal = _valence_arousal(row["arousal"], "arousal")
    try:
        points = np.array(row["facial_landmarks"].split(";"), np.float64)
        record.landmarks = points.reshape(NUM_LANDMARKS, 2)
    except ValueError:
        pass  # a face without landmarks still has its labels
    try:
        x, y, width, height = (float(row[k]) for k in COLUMNS[1:5])
        record.box = (x, y, x + width, y + height)
    except ValueError:
        pass


def _stems(folder: Path, kind: str) -> dict[str, Path]:
    """Return images, or annotation files of the expression, by the name of the image."""
    ending = "_exp.npy" if kind == "annotations" else ""
    place = existing(folder, kind) or folder / kind
    files = (p for p in place.iterdir() if p.name[0] != ".") if place.is_dir() else ()
    if ending:
        return {p.name[: -len(ending)]: p for p in files if p.name.lower().endswith(ending)}
    return {p.stem: p for p in files}


def _npy_records(folder: Path) -> Iterator[Record]:
    images, notes = _stems(folder, "images"), _stems(folder, "annotations")
    annotations = existing(folder, "annotations") or folder / "annotations"
    for stem in sorted(images.keys() | notes.keys(), key=lambda s: (len(s), s)):
        path = images.get(stem, folder / "images" / f"{stem}.jpg")
        record = Record(f"{folder.name}/images/{path.name}", path)
        with record.reading():
            record.expression = _expression(_array(annotations / f"{stem}_exp.npy").item())
            record.valence = _valence_arousal(_array(annotations / f"{stem}_val.npy").item())
            record.arousal = _valence_arousal(_array(annotations / f"{stem}_aro.npy").item())
            points = annotations / f"{stem}_lnd.npy"
            if points.exists():
                # Stored flat (x0, y0, x1, y1 ...) or as 68 rows.
                record.landmarks = _array(points).astype(np.float64).reshape(NUM_LANDMARKS, 2)
        yield record


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path)
    except FileNotFoundError:
        raise Reject(f"annotation {path.name} is missing") from None
    except (OSError, ValueError, EOFError) as e:
        raise Reject(f"annotation {path.name} cannot be read ({e})") from e


def _expression(text: Any) -> int:
    try:
        label = int(text)
    except (TypeError, ValueError):
        raise Reject(f"expression {text!r} is not a number") from None
    if label in _OTHER_LABELS:
        raise Reject(f"expression {label} ({_OTHER_LABELS[label]}) is none of the 8 classes")
    if not 0 <= label < 8:
        raise Reject(f"expression {label} is outside 0..10")
    return label


def _valence_arousal(text: Any, what: str = "valence or arousal") -> float:
    try:
        if float(text) == _MISSING:
            return np.nan
    except (TypeError, ValueError):
        pass
    return unit_value(text, what)
