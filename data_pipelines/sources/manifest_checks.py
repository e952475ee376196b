"""Checks of the rows of one manifest together: its columns, and the scale of its numbers."""

import contextlib
import difflib
import logging
import math
from collections.abc import Iterator

from PIL import Image

from data_pipelines.images import landmarks
from data_pipelines.protocols import persons
from data_pipelines.schema import DataError, shorten
from data_pipelines.sources.manifest_rows import COLUMNS, LeftOut, Row

log = logging.getLogger(__name__)

_AFFECT = ("valence", "arousal")
_ALIKE = 0.75  # similarity of a misspelt column
_MANY = 30  # values that cannot all be positive by chance
_MOSTLY = 0.5  # of the rows; if fewer have one of two numbers, these rows are at fault
_SIZES = 16  # images whose size is looked at


def check(rows: list[Row], columns: set[str], name: str) -> tuple[list[Row], list[LeftOut]]:
    """Check what the rows of a manifest have in common.

    Args:
      rows: checked one by one.
      columns: that the manifest has.
      name: of the manifest, for messages.

    Returns:
      The rows to keep, and those whose valence or arousal is left out: no row has the other, so
      that a network would learn one output from nothing.

    Raises:
      DataError: a column is missing or empty, or its numbers are on another scale.
    """
    _check_columns(columns, name)
    _check_affect(rows, name)
    _check_percent(rows, name)
    has = {what: any(not math.isnan(getattr(r, what)) for r in rows) for what in _AFFECT}
    if has["valence"] == has["arousal"]:
        return rows, []
    there, absent = _AFFECT if has["valence"] else _AFFECT[::-1]
    reason = f"{there}, and no row has {absent}; fill both columns, or empty both"
    kept = [row for row in rows if math.isnan(getattr(row, there))]
    lone = [row for row in rows if not math.isnan(getattr(row, there))]
    return kept, [LeftOut(row.number, row.path, reason) for row in lone]


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
    """Refuse one empty column of valence and arousal; warn of a scale that seems to begin at 0."""
    valence = [r.valence for r in rows if not math.isnan(r.valence)]
    arousal = [r.arousal for r in rows if not math.isnan(r.arousal)]
    some = len(valence) or len(arousal)
    if bool(valence) != bool(arousal) and some >= _MOSTLY * len(rows):
        there, absent = ("valence", "arousal") if valence else ("arousal", "valence")
        raise DataError(
            f"{name}: {some} rows have a {there}, and none has an "
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


def _check_percent(rows: list[Row], name: str) -> None:
    """Refuse landmarks or boxes that are surely percent of the images; warn of likely ones."""
    for column in ("landmarks", "box"):
        marked = [r for r in rows if getattr(r, column) is not None]
        marks = [getattr(r, column) for r in marked]
        likely, sure = landmarks.looks_like_percent(marks, _sizes([r.file for r in marked]))
        what = (
            f"{name}: the column {column} holds no number above 100, and the images are larger in "
            "both directions: percent of the image? Give pixels"
        )
        if sure:
            raise DataError(what)
        if likely:
            log.warning("%s, unless all faces are in the upper left corner", what)


def _sizes(files: list[str]) -> Iterator[tuple[int, int]]:
    """Yield width and height of some images, as far as they can be read."""
    for file in files[:: max(len(files) // _SIZES, 1)]:
        with contextlib.suppress(Exception), Image.open(file) as image:  # Pillow raises many kinds
            yield image.size
