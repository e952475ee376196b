"""Rows of a table that name the same image: repeats, contradictions, other faces.

Rows name the same image if their paths lead to the same file: `a.jpg`, `./a.jpg`, its absolute
path, a link to it. If rows agree completely, one is kept. If they contradict each other, all are
left out. If their boxes or landmarks do not overlap enough, they are different faces, and all are
kept.
"""

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from data_pipelines.protocols.persons import SPLIT_NAMES, folded
from data_pipelines.sources.manifest_rows import LeftOut, Row

log = logging.getLogger(__name__)

_SAME_FACE = 0.5  # intersection over union of two boxes
_SHOWN = 5
_NAMES = ("person", "group", "video")


def without_duplicates(
    rows: list[Row],
    expression: np.ndarray,
    class_names: Sequence[str],
    bad: list[LeftOut],
    name: str,
    place: Callable[[int], str],
) -> tuple[list[Row], np.ndarray]:
    """Return the rows that are left, and their class ids.

    Args:
      rows: checked rows.
      expression: int [n] their class ids.
      class_names: names of the classes.
      bad: contradictory rows are added.
      name: of the data, for messages.
      place: what a row number is called.
    """
    keep = np.ones(len(rows), bool)
    repeated = []
    for places in same_image(rows):
        for face in faces(rows, places):
            first, *others = face
            differ = partial(_difference, rows, expression, class_names, place)
            reasons = {i: differ(i, first) for i in others}
            contradicting = [i for i in others if reasons[i]]
            if contradicting:
                reasons[first] = differ(first, contradicting[0])
                keep[face] = False
                bad += [
                    LeftOut(rows[i].number, rows[i].path, reasons[i] or reasons[first])
                    for i in face
                ]
            else:
                keep[others] = False
                repeated += others
    if repeated:
        log.warning(
            "%s: %d rows repeat another row and are left out (%s)",
            name,
            len(repeated),
            ", ".join(_place(rows[i], place) for i in repeated[:_SHOWN]),
        )
    bad.sort(key=lambda b: b[0])
    kept = [row for row, kept in zip(rows, keep.tolist(), strict=True) if kept]
    return kept, expression[keep]


def same_image(rows: list[Row]) -> Iterator[list[int]]:
    """Yield the positions of the rows of each image that several rows name."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_name[_folded(row.file)].append(i)
    for places in by_name.values():
        if len(places) > 1:
            by_file: dict[object, list[int]] = defaultdict(list)
            same = len({rows[i].file for i in places}) == 1
            for i in places:
                by_file[0 if same else _identity(rows[i].file)].append(i)
            yield from (found for found in by_file.values() if len(found) > 1)


def _folded(file: str) -> str:
    """Return a path as on a file system that ignores capitals."""
    file = os.path.normpath(file)
    return (file if file.isascii() else unicodedata.normalize("NFC", file)).casefold()


def _identity(file: str) -> object:
    """Return what two spellings of one file have in common."""
    try:
        found = os.stat(file)
    except OSError:
        return file
    return found.st_dev, found.st_ino


def faces(rows: list[Row], places: list[int]) -> list[list[int]]:
    """Return the rows of one image, grouped by the face they describe."""
    faces: list[tuple[np.ndarray | None, list[int]]] = []
    for i in places:
        box = _extent(rows[i])
        for other, members in faces:
            if box is None or other is None or _overlap(box, other) >= _SAME_FACE:
                members.append(i)
                break
        else:
            faces.append((box, [i]))
    return [members for _, members in faces]


def _extent(row: Row) -> np.ndarray | None:
    if row.box is not None:
        return row.box
    if row.landmarks is None:
        return None
    points = row.landmarks.reshape(-1, 2)
    return np.concatenate([points.min(0), points.max(0)])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    shared = float(np.prod(sides))
    return shared / max(areas - shared, 1e-9)


def _difference(
    rows: list[Row],
    expression: np.ndarray,
    class_names: Sequence[str],
    place: Callable[[int], str],
    i: int,
    other: int,
) -> str:
    """Return how row i contradicts another row of the same image; "" if it does not."""
    a, b = rows[i], rows[other]
    names = [class_names[expression[k]] if expression[k] >= 0 else None for k in (i, other)]
    fields: dict[str, Sequence[Any]] = {
        "expression": names,
        "split": [SPLIT_NAMES[r.split] if r.split >= 0 else None for r in (a, b)],
        "person": [a.person, b.person],
        "valence": [a.valence, b.valence],
        "arousal": [a.arousal, b.arousal],
        "group": [a.group, b.group],
        "video": [a.video, b.video],
        "frame": [a.frame, b.frame],
        "attributes": [a.attributes, b.attributes],
    }
    for field, (mine, theirs) in fields.items():
        if field in _NAMES and mine and theirs and folded(mine) == folded(theirs):
            continue
        if mine != theirs and not (mine != mine and theirs != theirs):  # NaN is NaN
            said = ["empty" if v is None or v != v else str(v) for v in (mine, theirs)]
            both = ", or put both into one row" if "empty" in said else ""
            return (
                f"{_place(b, place)} is the same image with {field} {said[1]}, not {said[0]}; "
                f"keep one{both}"
            )
    for field in ("landmarks", "box"):
        mine, theirs = getattr(a, field), getattr(b, field)
        if (mine is None) != (theirs is None) or (
            mine is not None and not np.array_equal(mine, theirs)
        ):
            return f"{_place(b, place)} is the same face with another {field}; keep one"
    return ""


def _place(row: Row, place: Callable[[int], str]) -> str:
    return place(row.number) if row.number else row.path
