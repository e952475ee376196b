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

import dataclasses
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.protocols import persons, split_names
from data_pipelines.schema import MISSING_ID, NUM_LANDMARKS, DataError, TooManyBadRecords, shorten
from data_pipelines.sources import (
    completion,
    duplicates,
    labels,
    manifest_checks,
    manifest_file,
    videos,
)
from data_pipelines.sources.manifest_rows import (
    ATTRIBUTE_COLUMNS,
    BadRow,
    LeftOut,
    Origins,
    Row,
    is_id,
    parse_row,
)

log = logging.getLogger(__name__)

_AGE_BANDS = ((4, "0-3"), (20, "4-19"), (40, "20-39"), (70, "40-69"), (math.inf, "70+"))
_NAMED_BAD_ROWS = 20  # lines in the log


class Manifest(NamedTuple):
    """The rows of one file or folder.

    Attributes:
      name: for messages.
      root: folder that its relative paths refer to.
      rows: (line number, column -> value).
    """

    name: str
    root: pathlib.Path
    rows: Iterable[tuple[int, dict[str, Any] | BadRow]]


@dataclasses.dataclass
class Table:
    """Checked columns of n images; floats are NaN and ids are -1 where unknown.

    Attributes:
      name: files or folder the rows come from.
      root: folder that relative paths refer to.
      paths: n paths.
      rows: int64 [n] row numbers, see `origins` (0 = a folder tree, which has none).
      class_names: names of the classes, position = id.
      expression: int32 [n].
      valence_arousal: float32 [n, 2].
      landmarks: float32 [n, 68, 2], or None if no row has any.
      box: float32 [n, 4] or None.
      persons: n names of what must be in one split (see `persons.components`); the path itself
        where unknown.
      groups: int32 [n] video, clip or person; group_names gives their names. Names that differ as
        `1` and `01` do are one, as of persons.
      tracks: int32 [n] video or clip, whose rows are in the order of their frames.
      split: int8 [n] as given (-1 = not given) or None.
      attributes: int32 [n, A]; attribute_names [A], attribute_values [A][...] name the codes.
      bad: the rows left out.
      has_persons: whether any row names a person, video or group.
      origins: which manifests the rows are from.
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
    origins: Origins


def build_table(
    manifests: Sequence[Manifest],
    *,
    classes: str | tuple[str, ...] = "",
    max_bad_fraction: float = 0.1,
    few: int = labels.FEW_ROWS,
) -> Table:
    """Check rows and turn them into columns.

    Args:
      manifests: at least one. The rows of all become one table: persons of one name are one person
        in all of them, videos are not.
      classes: class names, or the name of a known label order; empty = inferred.
      max_bad_fraction: maximum fraction of unusable rows tolerated.
      few: see `labels.assign_classes`.

    Raises:
      DataError: no rows, labels of unclear meaning, or a missing column.
      TooManyBadRecords: more unusable rows than tolerated.
    """
    good: list[Row] = []
    bad: list[LeftOut] = []
    starts, columns = [], [set[str]() for _ in manifests]
    root, below = manifest_file.common_folder([m.root for m in manifests])
    for manifest, prefix, there in zip(manifests, below, columns, strict=True):
        last = [*(row.number for row in good[-1:]), *(row.number for row in bad[-1:])]
        starts.append(max(last, default=0))
        rows, left_out = _parse(manifest, prefix, starts[-1], there)
        if not rows and not left_out:
            raise DataError(f"{manifest.name} holds no rows")
        rows, lone = manifest_checks.check(rows, there, manifest.name)
        good += rows
        bad += sorted(left_out + lone, key=lambda row: row.number)
    origins = Origins(tuple(m.name for m in manifests), tuple(starts))
    name, everywhere = ", ".join(origins.names), set[str]().union(*columns)
    if "split" in everywhere:
        for manifest, there in zip(manifests, columns, strict=True):
            if "split" not in there:
                log.warning(
                    "%s has no column `split`: its rows go to the split of their person, or to "
                    "training",
                    manifest.name,
                )
    good = videos.in_time(_with_splits(good), bad, origins)
    class_names, good, expression = _labelled(good, bad, classes, origins, few)
    labels.warn_of_classes(good, expression, class_names, name)
    good, expression = completion.completed(good, expression, origins)
    good, expression = duplicates.without_duplicates(
        good, expression, class_names, bad, name, origins.row
    )
    _report_bad(bad, len(good) + len(bad), name, max_bad_fraction, origins)
    return _columns(good, expression, bad, everywhere, class_names, name, root, origins)


def _parse(
    manifest: Manifest, prefix: str, start: int, columns: set[str]
) -> tuple[list[Row], list[LeftOut]]:
    """Check the rows of a manifest one by one; numbers begin after `start`.

    Its columns are added to `columns`.
    """
    good: list[Row] = []
    bad: list[LeftOut] = []
    folders: dict[str, str] = {}
    for line, row in manifest.rows:
        number = line and start + line
        path = "" if isinstance(row, BadRow) else str(row.get("path") or "")
        try:
            if isinstance(row, BadRow):
                raise row
            columns.update(row)
            parsed = parse_row(number, path, row, manifest.root, folders)
            good.append(parsed._replace(path=manifest_file.joined(prefix, parsed.path)))
        except BadRow as e:
            bad.append(LeftOut(number, path.strip(), str(e)))
    return good, bad


def _labelled(
    rows: list[Row],
    bad: list[LeftOut],
    classes: str | tuple[str, ...],
    origins: Origins,
    few: int,
) -> tuple[tuple[str, ...], list[Row], np.ndarray]:
    """Return as `labels.assign_classes`; each manifest may number the classes in its own way.

    Numbers of a manifest that alone may mean two things are read as those of the others, if these
    leave no doubt and agree.
    """
    if len(origins.names) == 1 or not classes:
        if len(origins.names) > 1:
            _refuse_numbers(rows, origins)
        return labels.assign_classes(rows, bad, classes, ", ".join(origins.names), few)
    parts: list[list[Row]] = [[] for _ in origins.names]
    for row in rows:
        parts[origins.part(row.number)].append(row)
    certain = {labels.numbers_of(own, classes) for own in parts} - {""}
    doubtful = certain.pop() if len(certain) == 1 else ""
    class_names: tuple[str, ...] = ()
    kept, ids = [], []
    for own, name in zip(parts, origins.names, strict=True):
        class_names, own, expression = labels.assign_classes(own, bad, classes, name, few, doubtful)
        kept += own
        ids.append(expression)
    return class_names, kept, np.concatenate(ids)


def _refuse_numbers(rows: list[Row], origins: Origins) -> None:
    """Refuse labels that are numbers: 1 may be another class in the next manifest."""
    for row in rows:
        if row.expression is not None and is_id(row.expression):
            raise DataError(
                f"{origins.place(row.number)}: the label {row.expression} is a number, which may "
                "be another class in another manifest; set data.classes to the order that all of "
                "them number, or write class names"
            )


def _with_splits(rows: list[Row]) -> list[Row]:
    """Return the rows with `eval` resolved to test, or to validation.

    It is validation if there is a test split.
    """
    tested = any(r.split == persons.TEST for r in rows)
    meaning = persons.VALIDATION if tested else persons.TEST
    return [r._replace(split=meaning) if r.split == split_names.EVALUATION else r for r in rows]


def _components(rows: list[Row], name: str) -> list[str]:
    """Return what must be in one split; warn of joined persons and unknown ones."""
    paths = [os.path.normcase(r.file) for r in rows]
    found = persons.components([r.names for r in rows], paths, [r.path for r in rows])
    persons.report(name, found)
    return found.names


def _report_bad(
    bad: list[LeftOut], total: int, name: str, max_bad_fraction: float, origins: Origins
) -> None:
    lines = [
        f"{origins.place(row)}: {shorten(path)}: {shorten(reason)}" for row, path, reason in bad
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
    origins: Origins,
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
    # A group is named after its first spelling by alphabet.
    spellings = sorted({r.group for r in rows if r.group is not None}, reverse=True)
    group_names = tuple(sorted({persons.folded(g): g for g in spellings}.values()))
    groups = {persons.folded(g): i for i, g in enumerate(group_names)}
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
        groups=np.array(
            [groups[persons.folded(r.group)] if r.group else MISSING_ID for r in rows], np.int32
        ),
        group_names=group_names,
        tracks=videos.tracks(rows, origins),
        split=np.array([r.split for r in rows], np.int8) if "split" in columns else None,
        attributes=np.stack([codes for codes, _ in coded], 1) if names else None,
        attribute_names=names,
        attribute_values=tuple(values for _, values in coded),
        bad=bad,
        has_persons=any(any(r.names) for r in rows),
        origins=origins,
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
