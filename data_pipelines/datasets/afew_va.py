"""AFEW-VA: 600 film clips with valence, arousal and 68 landmarks per frame (Kossaifi et al. 2017).

Each clip is a folder `001` ... `600` with frames `00000.png` ... and a JSON file
`{"actor": ..., "video_id": "001", "frames": {"00000": {"valence", "arousal", "landmarks"}}}`. The
archives may be unpacked side by side (`001/001.json`) or one folder each (`01/001/001.json`).
Valence and arousal are whole numbers from -10 to 10 and are divided by 10, as in EmoFAN.

The group is the clip, whose frames keep their order, and the person is the actor, so that folds are
person-independent. Layout: https://ibug.doc.ic.ac.uk/resources/afew-va-database/ and
public loaders of it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, Reject, unit_value
from data_pipelines.datasets.layout import find_root, first_existing, subfolders
from data_pipelines.example import NUM_LANDMARKS

_SCALE = 10.0


class AfewVa(FaceBuilder):
    """Builder of AFEW-VA."""

    name = "afew_va"
    card = Card(
        title="AFEW-VA",
        class_names=(),
        splits={"full": "no official split; use folds by actor (5 in EmoFAN)"},
        expected="""
001/
  001.json
  00000.png 00001.png ...
002/ ... 600/            (or 01/001/ ... 12/600/)
""",
        apply="https://ibug.doc.ic.ac.uk/resources/afew-va-database/ (research licence)",
        group="clip",
        person="actor",
        fields=("valence_arousal", "landmarks"),
        roles={"full": "full"},
    )
    # The number of clips and of frames is that of the paper; it counts no actors per split.
    published: Mapping[str, Published] = {"": Published(examples={"full": 30051})}

    def locate(self, manual_dir: Path) -> Mapping[str, Any]:
        root = find_root(manual_dir, lambda p: bool(_clips(p)))
        if root is None:
            raise self.wrong_folder(manual_dir, "there is no clip folder such as 001/001.json")
        # Archives unpacked one folder each lie side by side.
        clips = _clips(root)
        clips += [c for s in subfolders(root.parent) if s != root for c in _nested(s, root)]
        return {"full": sorted(clips, key=lambda p: p.name)}

    def records(self, found: list[Path]) -> Iterator[Record]:
        for clip in found:
            yield from _clip_records(clip)


def _clips(folder: Path) -> list[Path]:
    return [c for c in subfolders(folder) if (c / f"{c.name}.json").is_file()]


def _nested(sibling: Path, root: Path) -> list[Path]:
    # Only folders named like the twelve archives: another data set may lie beside this one.
    return _clips(sibling) if root.name.isdigit() and sibling.name.isdigit() else []


def _clip_records(clip: Path) -> Iterator[Record]:
    try:
        notes = json.loads((clip / f"{clip.name}.json").read_text(encoding="utf-8"))
        frames = sorted(notes["frames"].items())
    except (OSError, ValueError, KeyError, AttributeError) as e:
        yield Record(f"{clip.name}/{clip.name}.json", reject=f"JSON cannot be read ({e!r})")
        return
    actor = str(notes.get("actor") or "").strip().casefold()
    for number, labels in frames:
        path = first_existing(clip, (f"{number}.png", f"{number}.jpg"))
        path = path or clip / f"{number}.png"
        # A clip whose actor is not named is a person of its own.
        record = Record(f"{clip.name}/{path.name}", path, group=clip.name)
        record.person = actor or f"clip {clip.name}"
        try:
            record.valence = unit_value(labels.get("valence"), "valence", scale=_SCALE)
            record.arousal = unit_value(labels.get("arousal"), "arousal", scale=_SCALE)
            record.landmarks = _points(labels.get("landmarks"))
        except Reject as e:
            record.reject = str(e)
        yield record


def _points(value: Any) -> np.ndarray | None:
    if not value:
        return None
    points = np.array(value, np.float64)
    if points.shape != (NUM_LANDMARKS, 2):
        raise Reject(f"{len(value)} landmarks instead of {NUM_LANDMARKS}")
    return points
