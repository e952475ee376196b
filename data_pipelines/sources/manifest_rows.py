"""Check the rows of a manifest one by one: the file, the numbers, the spelling."""

import bisect
import contextlib
import dataclasses
import math
import os
import pathlib
import re
import stat
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.images import image_files
from data_pipelines.images import landmarks as landmarks_lib
from data_pipelines.protocols import split_names
from data_pipelines.protocols.persons import NAME_COLUMNS, WHO_COLUMNS
from data_pipelines.schema import MISSING_ID, NUM_LANDMARKS, shorten

_GROUP_COLUMNS = ("group", "video", "clip", "person", "subject", "identity")
_VIDEO_COLUMNS = ("video", "clip")
ATTRIBUTE_COLUMNS = ("gender", "race", "age", "culture")
_BOX_COLUMNS = ("x0", "y0", "x1", "y1")
COLUMNS = (
    *("path", "expression", "valence", "arousal", "landmarks", "box", *_BOX_COLUMNS),
    *(*WHO_COLUMNS, "video", "clip", "group", "frame", "split", *ATTRIBUTE_COLUMNS),
)
# An empty cell of pandas, NumPy or SQL as text. Not "NA": JAFFE has a person NA.
_NO_NAME = frozenset(("nan", "NaN", "None", "null", "NULL", "<NA>", "N/A", "n/a"))
_MISSING_AFFECT = -2.0  # AffectNet's code for an unknown valence or arousal
# An unknown expression, as spreadsheets and data frames write it.
_UNKNOWN = frozenset(["", "-1", "nan", "null", "n/a", "na", "<na>"])
_LIST_OF_ONE = re.compile(r"""\[\s*(['"])([^'",\[\]]+)\1\s*\]""")
_ID = re.compile(r"[+-]?\d+(\.0*)?")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)


class BadRow(Exception):
    """A row cannot be used; the message is the reason."""

    def __init__(self, reason: str):
        super().__init__(shorten(reason))


class LeftOut(NamedTuple):
    """A row that cannot be used; line number 0 = a file of a folder tree."""

    number: int
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Origins:
    """Where the rows of a table come from; rows of several manifests are numbered on.

    Attributes:
      names: of the manifests.
      starts: number of the last row before each manifest.
    """

    names: tuple[str, ...]
    starts: tuple[int, ...]

    def part(self, number: int) -> int:
        """Return which manifest a row is from."""
        return max(bisect.bisect_left(self.starts, number) - 1, 0)

    def line(self, number: int) -> int:
        """Return the line of a row in its manifest; 0 for a folder tree, which has none."""
        return number - self.starts[self.part(number)]

    def place(self, number: int) -> str:
        """Return manifest and line: `faces.csv:17`."""
        line = f":{self.line(number)}" if number else ""
        return self.names[self.part(number)] + line

    def row(self, number: int) -> str:
        """Return how a message that names the table calls a row."""
        return f"row {number}" if len(self.names) == 1 else self.place(number)


class Row(NamedTuple):
    """One row, checked on its own.

    Attributes:
      path: as written, or as the file is named on this system (`a\\b.jpg` for `a/b.jpg`).
      file: absolute path without links in it; all rows of one image have the same.
      expression: as written, ids without zeros (`1` for `1.0`); None = unknown.
      split: of `persons`, or `split_names.EVALUATION`; -1 = none.
      person: who is in it; `names` are the cells of `persons.NAME_COLUMNS` ("" where empty).
    """

    number: int
    path: str
    file: str
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


def parse_row(
    number: int, path: str, row: dict[str, Any], root: pathlib.Path, folders: dict[str, str]
) -> Row:
    """Check one row of a file.

    Args:
      number: its line.
      path: of the image, as written; relative to `root`. Outer spaces count if a file is named so.
      row: column -> value.
      root: folder that relative paths refer to.
      folders: folder -> its path without links; filled here, for the next rows.

    Raises:
      BadRow: it cannot be used, with the reason.
    """
    if not path.strip():
        raise BadRow("the path is empty")
    text = _name(row.get("split"))
    split = split_names.split_of_cell(text) if text else MISSING_ID
    if split is None:
        raise BadRow(f"unknown split {text!r}; known: train, validation, test")
    names = tuple(_name(row.get(name)) for name in NAME_COLUMNS)
    person, group, video = named_by(names)
    path, size, file = _find(path, root, folders)
    parsed = Row(
        number=number,
        path=path,
        file=file,
        expression=expression_token(row.get("expression")),
        valence=_affect(row, "valence"),
        arousal=_affect(row, "arousal"),
        landmarks=_landmarks(row),
        box=read_box(row),
        person=person,
        group=group,
        video=video,
        frame=_number(row.get("frame"), "frame") if video else None,
        split=split,
        attributes=tuple(_text(row.get(name)) for name in ATTRIBUTE_COLUMNS),
        names=names,
    )
    if size == 0:
        raise BadRow("zero bytes")
    if reason := image_files.fault(path, _head(file, path)):
        raise BadRow(reason)
    return parsed


def named_by(names: Sequence[str]) -> tuple[str | None, str | None, str | None]:
    """Return person, group and video of a row by its cells of `persons.NAME_COLUMNS`."""
    cells = dict(zip(NAME_COLUMNS, names, strict=True))
    person, group, video = (_first(cells, c) for c in (WHO_COLUMNS, _GROUP_COLUMNS, _VIDEO_COLUMNS))
    return person, group, video


def _find(path: str, root: pathlib.Path, folders: dict[str, str]) -> tuple[str, int, str]:
    """Return the path of an image on this system, its bytes, and `Row.file`.

    Raises:
      BadRow: the file does not exist.
    """
    first: BadRow | None = None
    for spelling in _spellings(path):
        full = os.path.join(root, spelling)
        try:
            found = os.lstat(full)
            linked = stat.S_ISLNK(found.st_mode)
            if linked:
                found = os.stat(full)
        except (OSError, ValueError) as e:
            first = first or BadRow(f"missing file ({getattr(e, 'strerror', None) or e})")
            continue
        if stat.S_ISDIR(found.st_mode):
            raise BadRow("this is a folder, not an image")
        if linked:
            return spelling, found.st_size, os.path.realpath(full)
        folder, name = os.path.split(full)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return spelling, found.st_size, os.path.join(folders[folder], name)
    assert first is not None
    raise first


def _spellings(path: str) -> list[str]:
    """Return a path, and how other systems (Windows, macOS) and people may spell it."""
    spellings = [path, path.strip(), path.strip().replace("\\", "/")]
    if not path.isascii():
        forms = [unicodedata.normalize(form, spellings[-1]) for form in ("NFC", "NFD")]
        spellings += forms
    return list(dict.fromkeys(spellings))


def _head(file: str, path: str) -> bytes:
    """Return the first bytes of a file with an unknown suffix; nothing of others."""
    if os.path.splitext(path)[1].lower() in image_files.IMAGE_SUFFIXES:
        return b""
    with contextlib.suppress(OSError), open(file, "rb", buffering=0) as opened:
        return opened.read(64)
    return b""


def _is_empty(value: Any) -> bool:
    # Python writes an empty cell of a data frame as NaN into JSON lines.
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _text(value: Any) -> str:
    if _is_empty(value):
        return ""
    # Interned: millions of frames repeat a few names.
    return sys.intern(str(value).strip())


def _name(value: Any) -> str:
    """Return a name; "" where the cell means empty (`nan`, `none` ...)."""
    text = _text(value)
    return "" if text in _NO_NAME else text


def _first(names: dict[str, str], columns: tuple[str, ...]) -> str | None:
    return next((names[c] for c in columns if names[c]), None)


def expression_token(value: Any) -> str | None:
    """Return an expression cell as text; None if it is unknown.

    Raises:
      BadRow: a number that cannot be a class id.
    """
    text = unicodedata.normalize("NFC", _text(value))
    if only := _LIST_OF_ONE.fullmatch(text):
        text = only[2].strip()
    if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    if text[:1] in ("[", "{"):
        raise BadRow(f"expression {text!r} is a list; give one class name or number")
    if _ID.fullmatch(text):
        text = str(int(text.partition(".")[0]))
    elif _NUMBER.fullmatch(text):
        raise BadRow(f"expression {text!r} is neither a class name nor a whole number")
    return None if text.lower() in _UNKNOWN else sys.intern(text)


def _number(value: Any, what: str) -> float | None:
    if _is_empty(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        comma = isinstance(value, str) and _NUMBER.fullmatch(value.strip())
        hint = "; write a point instead of the comma" if comma else ""
        raise BadRow(f"{what} {value!r} is not a number{hint}") from None
    if not math.isfinite(number):
        raise BadRow(f"{what} is {value}; leave the cell empty if it is unknown")
    return number


def _affect(row: dict[str, Any], what: str) -> float:
    number = _number(row.get(what), what)
    if number is None or number == _MISSING_AFFECT:
        return math.nan
    if not -1 <= number <= 1:
        raise BadRow(f"{what} {number:g} is outside [-1, 1]")
    return number


def _numbers(value: Any, count: int, what: str) -> np.ndarray | None:
    if _is_empty(value):
        return None
    # Plain numbers, JSON lists and printed Python lists differ only in separators.
    cells = [c for c in re.split(r"[\s,;()\[\]'\"]+", str(value)) if c]
    if not cells:
        return None
    if len(cells) != count:
        raise BadRow(f"{what} holds {len(cells)} numbers instead of {count}")
    with contextlib.suppress(ValueError):  # all at once: landmarks are 136 numbers a row
        numbers = np.array([float(c) for c in cells], np.float32)
        if np.isfinite(numbers).all():
            return numbers
    return np.array([_number(c, what) for c in cells], np.float32)


def _landmarks(row: dict[str, Any]) -> np.ndarray | None:
    if str(row.get("landmarks")).count("[") == 3:
        raise BadRow("landmarks are two lists; give 68 pairs of x and y, or 136 numbers")
    points = _numbers(row.get("landmarks"), 2 * NUM_LANDMARKS, "landmarks")
    if points is not None and (reason := landmarks_lib.landmark_fault(points.reshape(-1, 2))):
        raise BadRow(reason)
    return points


def read_box(
    row: dict[str, Any], forms: Sequence[Sequence[str]] = (_BOX_COLUMNS,)
) -> np.ndarray | None:
    """Return the box of a row, float32 [4] in pixels: left, top, right, bottom; None if empty.

    Args:
      row: column -> cell.
      forms: columns that hold the four numbers where the column `box` is empty or missing.

    Raises:
      BadRow: it is not four numbers, or no box in pixels.
    """
    value = row.get("box")
    for columns in forms:
        if _is_empty(value) and not all(_is_empty(row.get(c)) for c in columns):
            value = [row.get(c) for c in columns]
    box = _numbers(value, 4, "box")
    if box is not None and (reason := landmarks_lib.box_fault(box)):
        raise BadRow(reason)
    return box


def is_id(token: str) -> bool:
    """Return whether an expression is written as a number."""
    return _ID.fullmatch(token) is not None
