"""SEWA: webcam recordings of 398 persons, valence and arousal over time (Kossaifi et al. 2021).

The database is one folder per recording, with `metadata.ini` (session, subject, demographics) and
the video as `*.avi` (https://db.sewaproject.eu/pages/datetypes/). That page does not print the
names or columns of the annotation files, and they could not be checked against a copy, so they are
recognised loosely: exactly one file with "valence" and one with "arousal" in its name, .csv or
.txt, a row per annotated moment; a recording with several (the annotators' own beside the gold
standard, say) is left out with their names as the reason, for which one is meant only its owner
knows. A column whose name has "frame" or "time" says when (frames count from 1, time
in seconds); without one, row i belongs to frame i. The other numeric columns are annotators and are
averaged. Values must lie in [-1, 1].

Frames may also have been taken out of the video before: a folder of pictures named by their number.
Configs: `every5` (each fifth frame, default) and `all`. There is no official split;
EmoFAN cuts 8:1:1 by person. Landmarks: use `prepare --landmarks MODEL`, as EmoFAN does.
"""

import configparser
import csv
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Config, Published, Record, Reject, unit_value
from data_pipelines.datasets.layout import find_root, pictures, subfolders

_JPEG_QUALITY = 95
_DEFAULT_FPS = 25.0
_NOTES = (".csv", ".txt")
_WORDS = ("valence", "arousal")
_SKIPPED_COLUMNS = ("name", "instance", "file", "id")


class Sewa(FaceBuilder):
    """Builder of SEWA, configs `every5` and `all`."""

    name = "sewa"
    BUILDER_CONFIGS = [  # noqa: RUF012 - the name is TFDS's
        Config(name="every5", description="each fifth frame"),
        Config(name="all", description="every frame"),
    ]
    card = Card(
        title="SEWA",
        class_names=(),
        splits={"full": "no official split; cut by person (8:1:1 in EmoFAN)"},
        expected="""
RECORDING/                        one folder per recording
  metadata.ini                    with the subject
  *.avi                           (or a folder of frames 000001.jpg ...)
  *valence*.csv  *arousal*.csv    a row per annotated frame
""",
        apply="https://db.sewaproject.eu/ (licence agreement)",
        checked="NOT verified for the annotation files: names and columns are recognised loosely "
        "(recordings, metadata.ini and videos as the project's page describes them)",
        group="recording",
        person="person",
        fields=("valence_arousal",),
        roles={"full": "full"},
    )
    published: Mapping[str, Published] = {"": Published(groups={"full": 398})}

    def locate(self, manual_dir: Path) -> Mapping[str, Any]:
        root = find_root(manual_dir, lambda p: bool(_recordings(p)))
        if root is None:
            raise self.wrong_folder(
                manual_dir, "there is no recording folder with a valence and an arousal file"
            )
        return {"full": _recordings(root)}

    def records(self, found: list[Path]) -> Iterator[Record]:
        step = 5 if self.builder_config.name == "every5" else 1
        for folder in found:
            yield from _recording(folder, step)


def _recordings(folder: Path) -> list[Path]:
    return [f for f in subfolders(folder) if all(_notes(f, word) for word in _WORDS)]


def _notes(folder: Path, word: str) -> list[Path]:
    """The annotation files of a word; one that names both would be averaged over both."""
    others = [w for w in _WORDS if w != word]
    files = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in _NOTES)
    names = ((p, p.name.lower()) for p in files)
    return [p for p, n in names if word in n and not any(w in n for w in others)]


def _note(folder: Path, word: str) -> Path:
    """The one annotation file of a word; `Reject` where there are several to choose from."""
    files = _notes(folder, word)
    if len(files) > 1:
        listed = ", ".join(p.name for p in files)
        raise Reject(
            f"{len(files)} files could hold the {word} ({listed}); leave one in the folder"
        )
    return files[0]


def _recording(folder: Path, step: int) -> Iterator[Record]:
    video = next(iter(sorted(folder.glob("*.avi")) + sorted(folder.glob("*.mp4"))), None)
    stills = [p for f in (folder, *subfolders(folder)) for p in pictures(f) if _number(p)]
    capture = cv2.VideoCapture(str(video)) if video else None
    try:
        fps = (capture.get(cv2.CAP_PROP_FPS) if capture else 0) or _DEFAULT_FPS
        try:
            valence = read_annotation(_note(folder, "valence"), fps)
            arousal = read_annotation(_note(folder, "arousal"), fps)
        except Reject as e:
            yield Record(folder.name, reject=str(e))
            return
        if stills:
            frames = ((_number(p), p) for p in sorted(stills, key=_number))
        elif capture is not None:
            frames = _video_frames(capture, step)
        else:
            yield Record(folder.name, reject="there is neither a video nor a folder of frames")
            return
        person = _person(folder)
        for number, image in frames:
            if (number - 1) % step:
                continue
            record = Record(f"{folder.name}/frame {number}", image, group=folder.name)
            record.person = person
            try:
                if number not in valence or number not in arousal:
                    raise Reject("frame is not annotated")
                record.valence = unit_value(valence[number], "valence")
                record.arousal = unit_value(arousal[number], "arousal")
            except Reject as e:
                record.reject = str(e)
            yield record
    finally:
        if capture is not None:
            capture.release()


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _video_frames(capture: cv2.VideoCapture, step: int) -> Iterator[tuple[int, Any]]:
    """(frame number from 1, function that encodes it); skipped frames are not converted."""
    number = 0
    while capture.grab():
        number += 1
        if (number - 1) % step:
            continue
        ok, frame = capture.retrieve()
        if ok:
            yield number, functools.partial(_jpeg, frame)


def _jpeg(frame: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise Reject("the frame could not be written as JPEG")
    return data.tobytes()


def read_annotation(path: Path, fps: float) -> dict[int, float]:
    """Mean over the annotators of one annotation file.

    Args:
      path: a table with comma, semicolon, tab or space between columns, with or without a header.
      fps: frames per second, for tables that give a time.

    Returns:
      frame number, from 1 -> value.

    Raises:
      Reject: the file cannot be read as such a table.
    """
    text = path.read_text(encoding="utf-8-sig").strip()
    first = text.splitlines()[0] if text else ""
    delimiter = next((d for d in ",;\t" if d in first), " ")
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True))
    header: list[str] = []
    if rows and not all(_is_number(cell) for cell in rows[0]):
        header = [cell.strip().lower() for cell in rows.pop(0)]
    if not rows:
        raise Reject(f"{path.name} has no rows")
    when = next((i for i, h in enumerate(header) if "frame" in h or "time" in h), None)
    skipped = [i for i, h in enumerate(header) if any(w in h for w in _SKIPPED_COLUMNS)]
    values: dict[int, float] = {}
    for position, row in enumerate(rows):
        try:
            number = position + 1
            if when is not None and "frame" in header[when]:
                number = int(float(row[when]))
            elif when is not None:
                number = round(float(row[when]) * fps) + 1
            cells = [float(c) for i, c in enumerate(row) if i != when and i not in skipped and c]
        except (ValueError, IndexError):
            raise Reject(f"{path.name} row {position + 1} does not hold numbers: {row}") from None
        if cells:
            values[number] = float(np.mean(cells))
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _person(folder: Path) -> str:
    """Session and subject of `metadata.ini`; else the folder's name up to the first underscore."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read(folder / "metadata.ini", encoding="utf-8-sig")
    except (configparser.Error, UnicodeDecodeError):
        return folder.name.split("_")[0]
    values = {
        key: value
        for section in parser.sections()
        for key, value in parser.items(section)
        if value and ("subject" in key or "session" in key)
    }
    subject = next((v for k, v in sorted(values.items()) if "subject" in k), "")
    session = next((v for k, v in sorted(values.items()) if "session" in k), "")
    return f"{session}/{subject}" if subject else folder.name.split("_")[0]
