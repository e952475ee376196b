"""Videos of a manifest: which rows are frames of one, and their order.

Names of videos and persons are compared as `persons.folded` says: `1`, `01` and `1.0` are one.
"""

import numpy as np

from data_pipelines.protocols.persons import folded
from data_pipelines.schema import MISSING_ID
from data_pipelines.sources.manifest_rows import LeftOut, Origins, Row

Video = tuple[int, str, str]  # manifest, name and person


def in_time(rows: list[Row], bad: list[LeftOut], origins: Origins) -> list[Row]:
    """Return the rows with each video's rows together, in the order of their frames.

    A video without frame numbers keeps the order of the file. If only some rows of a video have a
    number, the others go to `bad`.
    """
    videos = _videos(rows, origins)
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
    first: dict[Video, int] = {}
    for i, (_, video) in enumerate(kept):
        if video:
            first.setdefault(video, i)
    keys = [(first[v], r.frame or 0.0) if v else (i, 0.0) for i, (r, v) in enumerate(kept)]
    return [kept[i][0] for i in sorted(range(len(kept)), key=keys.__getitem__)]


def _videos(rows: list[Row], origins: Origins) -> list[Video | None]:
    """Return the video of each row; manifests and persons may share names of videos.

    A row without a person belongs to the only person who has such a video, if there is one.
    """
    named = [(origins.part(r.number), folded(r.video)) if r.video else None for r in rows]
    who = [folded(r.person) if r.person else "" for r in rows]
    owners: dict[tuple[int, str], set[str]] = {}
    for person, video in zip(who, named, strict=True):
        if video and person:
            owners.setdefault(video, set()).add(person)
    only = {video: next(iter(them)) for video, them in owners.items() if len(them) == 1}
    return [
        (*video, person or only.get(video, "")) if video else None
        for person, video in zip(who, named, strict=True)
    ]


def tracks(rows: list[Row], origins: Origins) -> np.ndarray:
    """Return the number of each row's video, -1 without one."""
    numbers: dict[Video, int] = {}
    videos = _videos(rows, origins)
    return np.array(
        [numbers.setdefault(v, len(numbers)) if v else MISSING_ID for v in videos], np.int32
    )
