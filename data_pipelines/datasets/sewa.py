"""SEWA (Kossaifi et al. 2021): webcam videos of 398 persons, valence and arousal.

The database is one folder per recording, with `metadata.ini` (session, subject, demographics) and
the video as `*.avi` (https://db.sewaproject.eu/pages/datetypes/). That page does not give the names
or columns of the annotation files, and no copy was available to check them. Therefore they are
recognised loosely: exactly one file with "valence" and one with "arousal" in its name, .csv or
.txt, with a row per annotated moment. A recording with several such files (for example of single
annotators and of the gold standard) is left out, and the reason names them. A column whose name has
"frame" or "time" gives the moment (frames count from 1, time in seconds). Without it, row i belongs
to frame i. The other numeric columns are annotators and are averaged. Values must lie in [-1, 1].

A folder of extracted frames, named by their number, may replace the video. Configs: `every5` (each
fifth frame, default) and `all`. There is no official split; EmoFAN cuts 8:1:1 by person. Landmarks:
use `prepare --landmarks MODEL`, as EmoFAN does.
"""

import configparser
import csv
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.datasets import layout
from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import (
    Card,
    Published,
    Record,
    Reject,
    configs,
    only_file,
    unit_value,
)
from data_pipelines.datasets.leftovers import Leftovers
from data_pipelines.protocols.persons import NAME_COLUMNS, components

_JPEG_QUALITY = 95
_DEFAULT_FPS = 25.0
_NOTES = (".csv", ".txt")
_VIDEOS = (".avi", ".mp4")
_NO_NUMBER = "its name has no frame number; frames count from 1"
_SECOND = "another image has this number"
_WORDS = ("valence", "arousal")
_SKIPPED_COLUMNS = ("name", "instance", "file", "id")


class Sewa(FaceBuilder):
    """Builder of SEWA, configs `every5` and `all`."""

    name = "sewa"
    BUILDER_CONFIGS = configs({"every5": "each fifth frame", "all": "every frame"})
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
    )
    published: Mapping[str, Published] = {"": Published(groups={"full": 398})}

    def locate(self) -> Mapping[str, Any]:
        root = self.need(
            layout.find_root(self.manual_dir, lambda p: bool(_recordings(p))),
            "there is no recording folder with a valence and an arousal file",
        )
        self.places = [root]
        return {"full": [f for f in layout.subfolders(root) if _is_recording(f)]}

    def records(self, found: list[Path]) -> Iterator[Record]:
        for folder, person in zip(found, _persons(found), strict=True):
            videos = layout.with_suffix(folder, _VIDEOS)
            capture = cv2.VideoCapture(str(videos[0])) if videos else None
            try:
                yield from self._recording(folder, person, videos, capture)
            finally:
                if capture is not None:
                    capture.release()

    def _recording(
        self, folder: Path, person: str, videos: list[Path], capture: cv2.VideoCapture | None
    ) -> Iterator[Record]:
        step = 5 if self.builder_config.name == "every5" else 1
        stills = [p for f in (folder, *layout.subfolders(folder)) for p in layout.image_files(f)]
        fps = (capture.get(cv2.CAP_PROP_FPS) if capture else 0) or _DEFAULT_FPS
        try:
            if len(videos) > 1 and not stills:
                listed = ", ".join(p.name for p in videos)
                raise Reject(f"{len(videos)} videos ({listed}); leave one in the folder")
            valence, arousal = (read_annotation(_note(folder, word), fps) for word in _WORDS)
            if stills:
                frames = _stills(stills, step, self.left)
            elif capture is not None:
                frames = _video_frames(capture, step)
            else:
                raise Reject("there is neither a video nor a folder of frames")
        except Reject as e:
            self.left.pass_over(stills, "frames of recordings that are rejected")
            yield Record(folder.name, reject=str(e))
            return
        if stills and videos:
            reason = "the recording has a folder of frames, which is read"
            self.left.leave_out(f"{folder.name}/{videos[0].name}", reason, len(videos))
        for name, number, image, reason in frames:
            record = Record(f"{folder.name}/{name}", image, reject=reason)
            if not reason:
                record.group, record.person = folder.name, person
                with record.reading():
                    if number not in valence or number not in arousal:
                        raise Reject("frame is not annotated")
                    record.valence = unit_value(valence[number], "valence")
                    record.arousal = unit_value(arousal[number], "arousal")
            yield record


def _recordings(folder: Path) -> list[Path]:
    return [f for f in layout.subfolders(folder) if all(_notes(f, word) for word in _WORDS)]


def _is_recording(folder: Path) -> bool:
    """Return whether a folder is a recording, even if parts are missing."""
    names = layout.by_name(folder)
    video = any(n.endswith(_VIDEOS) for n in names)
    return video or "metadata.ini" in names or any(_notes(folder, word) for word in _WORDS)


def _notes(folder: Path, word: str) -> list[Path]:
    """Return the annotation files of a word, except those that name both words."""
    others = [w for w in _WORDS if w != word]
    files = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in _NOTES)
    names = ((p, p.name.lower()) for p in files)
    return [p for p, n in names if word in n and not any(w in n for w in others)]


def _note(folder: Path, word: str) -> Path:
    """Return the one annotation file of a word; raise `Reject` if not exactly one."""
    file = only_file(_notes(folder, word), word)
    if file is None:
        raise Reject(f"there is no file with the {word}")
    return file


# Name, number from 1, what `Record.image` takes, and the reason to reject the frame or "".
Frame = tuple[str, int, Path | bytes | Callable[[], bytes], str]


def _stills(stills: list[Path], step: int, left: Leftovers) -> Iterator[Frame]:
    """Yield every `step`th still by its number; missing and repeated numbers fail."""
    before = 0
    for path in sorted(stills, key=lambda p: (_number(p), str(p))):
        number = _number(path)
        if number <= before:
            yield path.name, number, path, _SECOND if number else _NO_NUMBER
            continue
        before = number
        if (number - 1) % step:
            left.pass_over([path], f"frames between every {step}th")
        else:
            yield f"frame {number}", number, path, ""


def _number(path: Path) -> int:
    """Return the last number in a file name; 0 if there is none."""
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0


def _video_frames(capture: cv2.VideoCapture, step: int) -> Iterator[Frame]:
    """Yield every `step`th frame of a video, encoded when it is read."""
    number = 0
    while capture.grab():
        number += 1
        if (number - 1) % step:
            continue
        ok, frame = capture.retrieve()
        reason = "" if ok else "the frame cannot be decoded"
        yield f"frame {number}", number, functools.partial(_jpeg, frame), reason


def _jpeg(frame: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise Reject("the frame could not be written as JPEG")
    return data.tobytes()


def read_annotation(path: Path, fps: float) -> dict[int, float]:
    """Return the mean over the annotators of one annotation file.

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
    # A frame may hold several moments of a table that gives times.
    values: dict[int, list[float]] = {}
    for position, row in enumerate(rows):
        try:
            number = position + 1
            if when is not None and "frame" in header[when]:
                number = int(float(row[when]))
                if number in values:
                    raise Reject(f"{path.name} names frame {number} twice")
            elif when is not None:
                number = round(float(row[when]) * fps) + 1
            cells = [float(c) for i, c in enumerate(row) if i != when and i not in skipped and c]
        except (ValueError, IndexError):
            raise Reject(f"{path.name} row {position + 1} does not hold numbers: {row}") from None
        if cells:
            values.setdefault(number, []).append(float(np.mean(cells)))
    return {number: float(np.mean(found)) for number, found in values.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _persons(recordings: list[Path]) -> list[str]:
    """Return who is in each recording.

    They are the session and subject of `metadata.ini`. Recordings without that file belong to the
    person of the folders with the same name up to the first underscore.
    """
    names = []
    for folder in recordings:
        cells = {"person": _subject(folder), "group": folder.name.split("_")[0]}
        names.append(tuple(cells.get(column, "") for column in NAME_COLUMNS))
    labels = [f.name for f in recordings]
    return components(names, labels, labels).names


def _subject(folder: Path) -> str:
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    place = layout.existing(folder, "metadata.ini")
    try:
        parser.read(place or folder / "metadata.ini", encoding="utf-8-sig")
    except (configparser.Error, UnicodeDecodeError):
        return ""
    values = {
        key: value
        for section in parser.sections()
        for key, value in parser.items(section)
        if value and ("subject" in key or "session" in key)
    }
    subject = next((v for k, v in sorted(values.items()) if "subject" in k), "")
    session = next((v for k, v in sorted(values.items()) if "session" in k), "")
    return f"{session}/{subject}" if subject else ""
