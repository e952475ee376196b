"""Rows of a manifest, each checked on its own: its file, its numbers, its spelling."""

import csv
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.example import MISSING_ID, NUM_LANDMARKS, DataError, shorten
from data_pipelines.persons import NAME_COLUMNS, TEST, TRAIN, VALIDATION, WHO_COLUMNS

GROUP_COLUMNS = ("group", "video", "clip", "person", "subject", "identity")
VIDEO_COLUMNS = ("video", "clip")
ATTRIBUTE_COLUMNS = ("gender", "race", "age", "culture")
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
# What str() makes of an empty cell of pandas, NumPy or SQL. Not "NA": JAFFE has a person NA.
_NO_NAME = frozenset(("nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "n/a"))
MISSING_VA = -2.0  # AffectNet's code for an unknown valence or arousal


class BadRow(Exception):
    """A row cannot be used; the message is the reason."""

    def __init__(self, reason: str):
        super().__init__(shorten(reason))


class Row(NamedTuple):
    """One row, checked on its own; `expression` is still as written (None = unknown).

    `person` is who is on it, `names` the cells of `persons.NAME_COLUMNS` ("" where empty).
    """

    number: int
    path: str
    expression: str | None
    valence: float
    arousal: float
    landmarks: np.ndarray | None
    box: np.ndarray | None
    person: str | None
    group: str | None
    video: str | None
    frame: float | None
    split: int
    attributes: tuple[str, ...]
    names: tuple[str, ...]


def read_rows(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Rows of a CSV (comma, semicolon or tab) or JSONL file with their line numbers.

    Column names are stripped and lower-cased. A line that is no JSON object comes as `BadRow`.

    Raises:
      DataError: the file is missing, is no text, or has no header.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise DataError(f"data.manifest: there is no file {path}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
                yield from _json_rows(file)
            else:
                yield from _csv_rows(file, path)
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not UTF-8 text ({e}); save it as UTF-8") from e
    except csv.Error as e:
        raise DataError(f"{path} is no readable CSV ({e})") from e


def _json_rows(file: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            yield number, BadRow(f"no JSON ({e.msg} at column {e.colno})")
            continue
        if isinstance(row, dict):
            yield number, {str(k).strip().lower(): v for k, v in row.items()}
        else:
            yield number, BadRow("not a JSON object; each line must be one")


def _csv_rows(file, path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    header = file.readline()
    if not header.strip():
        raise DataError(f"{path} is empty; a manifest starts with a header such as path,expression")
    delimiter = max(",;\t", key=header.count)
    names = [n.strip().lower() for n in next(csv.reader([header], delimiter=delimiter))]
    if "path" not in names:
        raise DataError(f"{path} has no column `path`; its columns are {shorten(', '.join(names))}")
    reader = csv.reader(file, delimiter=delimiter)
    for cells in reader:
        number = reader.line_num + 1
        if not cells:
            continue
        if len(cells) > len(names):
            yield number, BadRow(f"{len(cells)} cells where the header has {len(names)}")
            continue
        yield number, dict(zip(names, cells, strict=False))


def parse_row(number: int, path: str, row: dict[str, Any], root: pathlib.Path) -> Row:
    """Checks one row of a file.

    Args:
      number: its line.
      path: of the picture, as written; relative to `root`.
      row: column -> value.

    Raises:
      BadRow: it cannot be used, with the reason.
    """
    if not path:
        raise BadRow("the path is empty")
    split = str(row.get("split") or "").strip().lower()
    if split and split not in SPLITS:
        raise BadRow(f"unknown split {split!r}; known: train, validation, test")
    video = _first(row, VIDEO_COLUMNS)
    parsed = Row(
        number=number,
        path=path,
        expression=_token(row.get("expression")),
        valence=_affect(row, "valence"),
        arousal=_affect(row, "arousal"),
        landmarks=_numbers(row.get("landmarks"), 2 * NUM_LANDMARKS, "landmarks"),
        box=_box(row),
        person=_first(row, WHO_COLUMNS),
        group=_first(row, GROUP_COLUMNS),
        video=video,
        frame=_number(row.get("frame"), "frame") if video else None,
        split=SPLITS.get(split, MISSING_ID),
        attributes=tuple(_text(row.get(name)) for name in ATTRIBUTE_COLUMNS),
        names=tuple(_name(row.get(name)) for name in NAME_COLUMNS),
    )
    try:
        size = os.stat(os.path.join(root, path)).st_size
    except (OSError, ValueError) as e:
        raise BadRow(f"missing file ({getattr(e, 'strerror', None) or e})") from e
    if size == 0:
        raise BadRow("zero bytes")
    return parsed


def _text(value: Any) -> str:
    # A NaN is how JSON lines of pandas write an empty cell.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # Interned: millions of frames repeat a few names.
    return sys.intern(str(value).strip())


def _name(value: Any) -> str:
    """A name; "" where the cell says in the words of some tool that there is none."""
    text = _text(value)
    return "" if text in _NO_NAME else text


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        if text := _name(row.get(name)):
            return text
    return None


def _token(value: Any) -> str | None:
    """An expression cell as text; None where it is unknown."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = _text(value)
    return None if text in ("", "-1") else text


def _number(value: Any, what: str) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"{what} {value!r} is not a number") from None
    if not math.isfinite(number):
        raise BadRow(f"{what} is {value}; leave the cell empty where it is unknown")
    return number


def _affect(row: dict[str, Any], what: str) -> float:
    number = _number(row.get(what), what)
    if number is None or number == MISSING_VA:
        return math.nan
    if not -1 <= number <= 1:
        raise BadRow(f"{what} {number:g} is outside [-1, 1]")
    return number


def _numbers(value: Any, count: int, what: str) -> np.ndarray | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    # Plain numbers, JSON lists and Python's print of one differ only in separators.
    cells = [c for c in re.split(r"[\s,;()\[\]'\"]+", str(value)) if c]
    if not cells:
        return None
    if len(cells) != count:
        raise BadRow(f"{what} holds {len(cells)} numbers instead of {count}")
    return np.array([_number(c, what) for c in cells], np.float32)


def _box(row: dict[str, Any]) -> np.ndarray | None:
    value = row.get("box")
    if value is None and any(row.get(c) not in (None, "") for c in BOX_COLUMNS):
        value = [row.get(c) for c in BOX_COLUMNS]
    box = _numbers(value, 4, "box")
    if box is not None and (box[2] <= box[0] or box[3] <= box[1]):
        raise BadRow(f"box {box.tolist()} has no area; it is x0, y0, x1, y1")
    return box


def is_id(token: str) -> bool:
    """Whether an expression is written as a number."""
    return re.fullmatch(r"[+-]?\d+(\.0*)?", token) is not None
