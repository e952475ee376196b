"""Turn the rows of a manifest or a folder tree into checked columns.

A manifest has one row an image, with these columns (`path` and at least one label are needed):

  path                                 relative to the manifest's folder, or absolute
  expression                           class name, or id (see `labels`); empty or -1 = unknown
  valence, arousal                     in [-1, 1]; empty or -2 = unknown
  landmarks                            68 (x, y) pairs: 136 numbers, or a JSON list
  box (or x0, y0, x1, y1)              the face: four numbers, or a JSON list
  person, video, group                 who and which clip (also: subject, identity, clip)
  frame                                place in the video; without it, frames are in order
  split                                train, validation or test, in any spelling of `split_names`
  gender, race, age, culture           attributes for audit

Landmarks and boxes are pixels of the upright image, after its orientation tag is applied.

Every row is checked before training: its file and its numbers (`manifest_rows`), its class
(`labels`), and whether other rows contradict it (`duplicates`). A row that cannot be used is
counted, logged with its reason and left out.
"""

import contextlib
import dataclasses
import difflib
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.images import landmarks
from data_pipelines.protocols import persons, split_names
from data_pipelines.schema import MISSING_ID, NUM_LANDMARKS, DataError, TooManyBadRecords, shorten
from data_pipelines.sources import duplicates, labels
from data_pipelines.sources.manifest_rows import (
    ATTRIBUTE_COLUMNS,
    COLUMNS,
    BadRow,
    LeftOut,
    Row,
    parse_row,
)

log = logging.getLogger(__name__)

_AGE_BANDS = ((4, "0-3"), (20, "4-19"), (40, "20-39"), (70, "40-69"), (math.inf, "70+"))
_NAMED_BAD_ROWS = 20  # lines in the log
_ALIKE = 0.75  # similarity of a misspelt column
_MANY = 30  # values that cannot all be positive by chance
_SIZES = 16  # images whose size is looked at


@dataclasses.dataclass
class Table:
    """Checked columns of n images; floats are NaN and ids are -1 where unknown.

    Attributes:
      name: file or folder the rows come from.
      root: folder that relative paths refer to.
      paths: n paths.
      rows: int64 [n] line numbers in the file (0 = a folder tree, which has none).
      class_names: names of the classes, position = id.
      expression: int32 [n].
      valence_arousal: float32 [n, 2].
      landmarks: float32 [n, 68, 2], or None if no row has any.
      box: float32 [n, 4] or None.
      persons: n names of what must be in one split (see `persons.components`); the path itself
        where unknown.
      groups: int32 [n] video, clip or person; group_names gives their names.
      tracks: int32 [n] video or clip, whose rows are in the order of their frames.
      split: int8 [n] as given (-1 = not given) or None.
      attributes: int32 [n, A]; attribute_names [A], attribute_values [A][...] name the codes.
      bad: the rows left out.
      has_persons: whether any row names a person, video or group.
    """

    name: str
    root: pathlib.Path
    paths: list[str]
    rows: np.ndarray
    class_names: tuple[str, ...]
    expression: np.ndarray
    valence_arousal: np.ndarray
    landmarks: np.ndarray | None
    box: np.ndarray | None
    persons: list[str]
    groups: np.ndarray
    group_names: tuple[str, ...]
    tracks: np.ndarray
    split: np.ndarray | None
    attributes: np.ndarray | None
    attribute_names: tuple[str, ...]
    attribute_values: tuple[tuple[str, ...], ...]
    bad: list[LeftOut]
    has_persons: bool


def build_table(
    rows: Iterable[tuple[int, dict[str, Any] | BadRow]],
    *,
    name: str,
    root: pathlib.Path,
    classes: str | tuple[str, ...] = "",
    max_bad_fraction: float = 0.1,
    few: int = labels.FEW_ROWS,
) -> Table:
    """Check rows and turn them into columns.

    Args:
      rows: (line number, column -> value).
      name, root: for messages, and the folder that relative paths refer to.
      classes: class names, or the name of a known label order; empty = inferred.
      max_bad_fraction: maximum fraction of unusable rows tolerated.
      few: see `labels.assign_classes`.

    Raises:
      DataError: no rows, labels of unclear meaning, or a missing column.
      TooManyBadRecords: more unusable rows than tolerated.
    """
    good: list[Row] = []
    bad: list[LeftOut] = []
    columns: set[str] = set()
    folders: dict[str, str] = {}
    for number, row in rows:
        path = "" if isinstance(row, BadRow) else str(row.get("path") or "")
        try:
            if isinstance(row, BadRow):
                raise row
            columns.update(row)
            good.append(parse_row(number, path, row, root, folders))
        except BadRow as e:
            bad.append(LeftOut(number, path.strip(), str(e)))
    if not good and not bad:
        raise DataError(f"{name} holds no rows")
    _check_columns(columns, name)
    _check_affect(good, name)
    good = _in_time(_with_splits(good), bad)
    class_names, good, expression = labels.assign_classes(good, bad, classes, name, few)
    good, expression = duplicates.without_duplicates(good, expression, class_names, bad, name)
    _report_bad(bad, len(good) + len(bad), name, max_bad_fraction)
    table = _columns(good, expression, bad, columns, class_names, name, root)
    _check_percent(table, [row.file for row in good])
    return table


def _with_splits(rows: list[Row]) -> list[Row]:
    """Return the rows with `eval` resolved to test, or to validation.

    It is validation if there is a test split.
    """
    tested = any(r.split == persons.TEST for r in rows)
    meaning = persons.VALIDATION if tested else persons.TEST
    return [r._replace(split=meaning) if r.split == split_names.EVALUATION else r for r in rows]


def _in_time(rows: list[Row], bad: list[LeftOut]) -> list[Row]:
    """Return the rows with each video's rows together, in the order of their frames.

    A video without frame numbers keeps the order of the file. If only some rows of a video have a
    number, the others go to `bad`.
    """
    videos = _videos(rows)
    numbered = {v for r, v in zip(rows, videos, strict=True) if r.frame is not None}
    if not numbered:
        return rows
    reason = "no frame number, which other rows of the same video have"
    kept = []
    for row, video in zip(rows, videos, strict=True):
        if row.frame is None and video in numbered:
            bad.append(LeftOut(row.number, row.path, reason))
        else:
            kept.append((row, video))
    first: dict[tuple[str, str], int] = {}
    for i, (_, video) in enumerate(kept):
        if video:
            first.setdefault(video, i)
    keys = [(first[v], r.frame or 0.0) if v else (i, 0.0) for i, (r, v) in enumerate(kept)]
    return [kept[i][0] for i in sorted(range(len(kept)), key=keys.__getitem__)]


def _videos(rows: list[Row]) -> list[tuple[str, str] | None]:
    """Return (person, video) of each row; persons may share names of videos.

    A row without a person belongs to the only person who has such a video, if there is one.
    """
    owners: dict[str, set[str]] = {}
    for r in rows:
        if r.video and r.person:
            owners.setdefault(r.video, set()).add(r.person)
    only = {video: next(iter(who)) for video, who in owners.items() if len(who) == 1}
    return [(r.person or only.get(r.video, ""), r.video) if r.video else None for r in rows]


def _tracks(rows: list[Row]) -> np.ndarray:
    """Return the number of each row's video, -1 without one."""
    numbers: dict[tuple[str, str], int] = {}
    return np.array(
        [numbers.setdefault(v, len(numbers)) if v else MISSING_ID for v in _videos(rows)],
        np.int32,
    )


def _components(rows: list[Row], name: str) -> list[str]:
    """Return what must be in one split; warn of joined persons and unknown ones."""
    paths = [os.path.normcase(r.file) for r in rows]
    found = persons.components([r.names for r in rows], paths, [r.path for r in rows])
    persons.report(name, found)
    return found.names


def _check_columns(columns: set[str], name: str) -> None:
    listed = shorten(", ".join(sorted(columns)))
    if columns and "path" not in columns:
        raise DataError(f"{name} has no column `path`; its columns are {listed}")
    if columns and ("valence" in columns) != ("arousal" in columns):
        raise DataError(f"{name} has only one of `valence` and `arousal`; its columns are {listed}")
    if columns and not columns & {"expression", "valence", "landmarks"}:
        raise DataError(
            f"{name} has no label: it needs a column `expression`, `valence` and `arousal`, or "
            f"`landmarks`; its columns are {listed}"
        )
    aliases = [c for c in persons.WHO_COLUMNS if c in columns]
    if len(aliases) > 1:
        log.warning(
            "%s has the columns %s: the first of them that is filled names the person of a row",
            name,
            ", ".join(aliases),
        )
    unread = sorted(columns - set(COLUMNS) - {""})
    alike = {c: difflib.get_close_matches(c, COLUMNS, n=1, cutoff=_ALIKE) for c in unread}
    for column in unread:
        hint = f"; did you mean {alike[column][0]}?" if alike[column] else ""
        level = logging.WARNING if hint else logging.INFO
        log.log(level, "%s: column %s is not read%s", name, column, hint)


def _check_affect(rows: list[Row], name: str) -> None:
    """Refuse valence or arousal alone; warn of a scale that seems to begin at 0."""
    valence = [r.valence for r in rows if not math.isnan(r.valence)]
    arousal = [r.arousal for r in rows if not math.isnan(r.arousal)]
    if bool(valence) != bool(arousal):
        there, absent = ("valence", "arousal") if valence else ("arousal", "valence")
        raise DataError(
            f"{name}: {len(valence) or len(arousal)} rows have a {there}, and none has an "
            f"{absent}; fill both columns, or empty both"
        )
    if len(valence) >= _MANY and min(valence) >= 0:
        log.warning(
            "%s: none of the %d values of valence is negative (%g to %g); the scale must be -1 "
            "(unpleasant) to 1, with 0 as neutral",
            name,
            len(valence),
            min(valence),
            max(valence),
        )


def _check_percent(table: Table, files: list[str]) -> None:
    """Refuse landmarks or boxes that are percent of the images."""
    for column in ("landmarks", "box"):
        values = getattr(table, column)
        if values is not None and landmarks.looks_like_percent(values, _sizes(files)):
            raise DataError(
                f"{table.name}: the column {column} holds numbers up to {np.nanmax(values):.4g}, "
                "and the images are larger in both directions: percent of the image? Give pixels"
            )


def _sizes(files: list[str]) -> Iterator[tuple[int, int]]:
    """Yield width and height of some images, as far as they can be read."""
    for file in files[:: max(len(files) // _SIZES, 1)]:
        with contextlib.suppress(Exception), Image.open(file) as image:  # Pillow raises many kinds
            yield image.size


def _report_bad(bad: list[LeftOut], total: int, name: str, max_bad_fraction: float) -> None:
    lines = [
        f"{name}{f':{row}' if row else ''}: {shorten(path)}: {shorten(reason)}"
        for row, path, reason in bad
    ]
    for line in lines[:_NAMED_BAD_ROWS]:
        log.warning("left out: %s", line)
    if len(lines) > _NAMED_BAD_ROWS:
        log.warning("left out: %d more of %s", len(lines) - _NAMED_BAD_ROWS, name)
    if len(bad) > max_bad_fraction * total or len(bad) == total:
        raise TooManyBadRecords(
            f"{name}: {len(bad)} of {total} rows cannot be used, more than data.max_bad_fraction "
            f"= {max_bad_fraction:g} allows. The first: {lines[0]}"
        )


def _columns(
    rows: list[Row],
    expression: np.ndarray,
    bad: list[LeftOut],
    columns: set[str],
    class_names: tuple[str, ...],
    name: str,
    root: pathlib.Path,
) -> Table:
    """Return the columns of the remaining rows, with codes for groups, attributes."""

    def stack(cells: list[np.ndarray | None], shape: tuple[int, ...]) -> np.ndarray | None:
        if all(c is None for c in cells):
            return None
        array = np.full((len(cells), *shape), np.nan, np.float32)
        for i, cell in enumerate(cells):
            if cell is not None:
                array[i] = cell.reshape(shape)
        return array

    names = tuple(a for a in ATTRIBUTE_COLUMNS if a in columns)
    places = [ATTRIBUTE_COLUMNS.index(a) for a in names]
    coded = [_code([r.attributes[k] for r in rows], a) for k, a in zip(places, names, strict=True)]
    group_names = tuple(sorted({r.group for r in rows if r.group is not None}))
    groups: dict[str | None, int] = {g: i for i, g in enumerate(group_names)}
    return Table(
        name=name,
        root=root,
        paths=[r.path for r in rows],
        rows=np.array([r.number for r in rows], np.int64),
        class_names=class_names,
        expression=expression,
        valence_arousal=np.array([(r.valence, r.arousal) for r in rows], np.float32).reshape(-1, 2),
        landmarks=stack([r.landmarks for r in rows], (NUM_LANDMARKS, 2)),
        box=stack([r.box for r in rows], (4,)),
        persons=_components(rows, name),
        groups=np.array([groups.get(r.group, MISSING_ID) for r in rows], np.int32),
        group_names=group_names,
        tracks=_tracks(rows),
        split=np.array([r.split for r in rows], np.int8) if "split" in columns else None,
        attributes=np.stack([codes for codes, _ in coded], 1) if names else None,
        attribute_names=names,
        attribute_values=tuple(values for _, values in coded),
        bad=bad,
        has_persons=any(any(r.names) for r in rows),
    )


def _code(cells: list[str], attribute: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return integer codes of an attribute column and their values; ages are banded."""
    present = [c for c in cells if c]
    if attribute == "age" and present and all(re.fullmatch(r"\d+(\.\d+)?", c) for c in present):
        years = [float(c) for c in present]
        # Small numbers, as in RAF-DB, are codes of bands already.
        if max(years) > 4:
            bands = tuple(label for _, label in _AGE_BANDS)
            lookup = {
                c: next(i for i, (b, _) in enumerate(_AGE_BANDS) if float(c) < b) for c in present
            }
            return np.array([lookup.get(c, MISSING_ID) for c in cells], np.int32), bands
    values = tuple(sorted(set(present)))
    lookup = {v: i for i, v in enumerate(values)}
    return np.array([lookup.get(c, MISSING_ID) for c in cells], np.int32), values
