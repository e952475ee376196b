"""Rows of several manifests that describe one image: each gives what the other leaves empty.

Expressions may be in one manifest, and valence and arousal of the same images in another. Rows
become one if each manifest has one row of the image, they contradict each other nowhere, and their
boxes and landmarks may be of one face. Other rows are left to `duplicates`.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.protocols.persons import folded
from data_pipelines.sources import duplicates
from data_pipelines.sources.manifest_rows import Origins, Row, named_by

log = logging.getLogger(__name__)


def completed(
    rows: list[Row], expression: np.ndarray, origins: Origins
) -> tuple[list[Row], np.ndarray]:
    """Return the rows with one for each image that several manifests describe in part.

    Args:
      rows: checked rows, each video in the order of its frames.
      expression: int [n] class ids, -1 = unknown.
      origins: which manifests the rows are from.
    """
    if len(origins.names) == 1:
        return rows, expression
    rows, ids = list(rows), expression.copy()
    keep = np.ones(len(rows), bool)
    for places in duplicates.same_image(rows):
        parts = {origins.part(rows[i].number) for i in places}
        if len(parts) < len(places) or len(duplicates.faces(rows, places)) > 1:
            continue
        one = _one([(rows[i], int(ids[i])) for i in places])
        if one is not None:
            # The others of its video surround the row that names a video.
            first = next((i for i in places if rows[i].video), places[0])
            row, number = rows[first], rows[first].number
            rows[first] = one[0]._replace(number=number, path=row.path, frame=row.frame)
            ids[first] = one[1]
            keep[[i for i in places if i != first]] = False
    if not keep.all():
        log.info(
            "%s: %d rows complete the row of the same image in another manifest",
            ", ".join(origins.names),
            np.count_nonzero(~keep),
        )
    return [row for row, kept in zip(rows, keep.tolist(), strict=True) if kept], ids[keep]


def _one(rows: Sequence[tuple[Row, int]]) -> tuple[Row, int] | None:
    """Return what the rows say together; None if they contradict or repeat each other."""
    cells = [_cells(row, label) for row, label in rows]
    merged: dict[str, Any] = {}
    differ = False
    for name in cells[0]:
        given = [own[name] for own in cells if own[name] is not None]
        if any(not _same(name, value, given[0]) for value in given[1:]):
            return None
        differ = differ or 0 < len(given) < len(cells)
        merged[name] = given[0] if given else None
    if not differ:
        return None
    row = rows[0][0]
    names = tuple(merged[f"name {k}"] or "" for k in range(len(row.names)))
    valence, arousal = (np.nan if merged[k] is None else merged[k] for k in ("valence", "arousal"))
    person, group, video = named_by(names)
    row = row._replace(
        expression=next((r.expression for r, _ in rows if r.expression is not None), None),
        valence=valence,
        arousal=arousal,
        landmarks=merged["landmarks"],
        box=merged["box"],
        person=person,
        group=group,
        video=video,
        split=-1 if merged["split"] is None else merged["split"],
        attributes=tuple(merged[f"attribute {k}"] or "" for k in range(len(row.attributes))),
        names=names,
    )
    return row, -1 if merged["label"] is None else merged["label"]


def _cells(row: Row, label: int) -> dict[str, Any]:
    """Return what a row says, None where it says nothing."""
    return {
        "label": label if label >= 0 else None,
        "valence": None if np.isnan(row.valence) else row.valence,
        "arousal": None if np.isnan(row.arousal) else row.arousal,
        "landmarks": row.landmarks,
        "box": row.box,
        "person": row.person,
        "frame": row.frame,
        "split": row.split if row.split >= 0 else None,
        **{f"name {k}": cell or None for k, cell in enumerate(row.names)},
        **{f"attribute {k}": cell or None for k, cell in enumerate(row.attributes)},
    }


def _same(name: str, one: Any, other: Any) -> bool:
    if name == "person" or name.startswith("name "):
        return folded(one) == folded(other)
    return bool(np.array_equal(one, other))
