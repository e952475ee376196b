"""AFEW-VA: 600 film clips with valence, arousal and landmarks in every frame.

Kossaifi et al., 2017.

Each clip is a folder `001` ... `600` with frames `00000.png` ... and a JSON file
`{"actor": ..., "video_id": "001", "frames": {"00000": {"valence", "arousal", "landmarks"}}}`. The
twelve archives may be unpacked into one folder (`001/001.json`) or into several of any name
(`01/001/001.json`); all of them are read, and a clip found in two places is refused.
Valence and arousal are whole numbers from -10 to 10 and are divided by 10, as in EmoFAN.

The group is the clip, whose frames keep their order. The person is the actor, so that no actor is
in two folds. Layout: https://ibug.doc.ic.ac.uk/resources/afew-va-database/ and public loaders of
it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, Reject, unit_value
from data_pipelines.datasets.layout import by_name, existing, subfolders
from data_pipelines.schema import NUM_LANDMARKS

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
    )
    # The number of frames is from the paper, which does not count actors.
    published: Mapping[str, Published] = {"": Published(examples={"full": 30051})}

    def locate(self) -> Mapping[str, Any]:
        folder = self.manual_dir.absolute()
        clips = _clips_below(folder)
        # The user may point to one of the twelve archives, which lie side by side, or to one clip.
        archives = [p for p in subfolders(folder.parent) if p.name.isdigit()]
        if clips and folder in archives:
            clips = [c for p in archives for c in _clips_below(p)]
        clips = clips or _clips_below(folder.parent, depth=0)
        self.need(clips, "there is no clip folder such as 001/001.json")
        places: dict[str, list[Path]] = {}
        for clip in clips:
            places.setdefault(clip.name, []).append(clip)
        twice = [found for found in places.values() if len(found) > 1]
        if twice:
            where = " and ".join(str(p.parent) for p in twice[0])
            raise self.wrong_folder(
                f"{len(twice)} clips lie in several folders; leave one of each. The first: clip "
                f"{twice[0][0].name} in {where}"
            )
        self.places = [c.parent for c in clips]
        return {"full": sorted(clips, key=lambda p: p.name)}

    def records(self, found: list[Path]) -> Iterator[Record]:
        for clip in found:
            yield from _clip_records(clip)


def _clips_below(folder: Path, depth: int = 3) -> list[Path]:
    """Return clip folders in a folder and up to `depth` levels below."""
    clips = []
    for child in subfolders(folder):
        if existing(child, f"{child.name}.json"):
            clips.append(child)
        elif depth:
            clips += _clips_below(child, depth - 1)
    return clips


def _clip_records(clip: Path) -> Iterator[Record]:
    try:
        path = existing(clip, f"{clip.name}.json") or clip / f"{clip.name}.json"
        notes = json.loads(path.read_text(encoding="utf-8-sig"))
        frames = sorted(notes["frames"].items())
    except (OSError, ValueError, KeyError, AttributeError) as e:
        yield Record(f"{clip.name}/{clip.name}.json", reject=f"JSON cannot be read ({e!r})")
        return
    actor = " ".join(str(notes.get("actor") or "").split()).casefold()
    there = by_name(clip)
    for number, labels in frames:
        names = (f"{number}.png", f"{number}.jpg", f"{number}.jpeg")
        path = next((there[n] for n in names if n in there), clip / names[0])
        # A clip whose actor is not named is a person of its own.
        record = Record(f"{clip.name}/{path.name}", path, group=clip.name)
        record.person = actor or f"clip {clip.name}"
        with record.reading():
            record.valence = unit_value(labels.get("valence"), "valence", scale=_SCALE)
            record.arousal = unit_value(labels.get("arousal"), "arousal", scale=_SCALE)
            record.landmarks = _points(labels.get("landmarks"))
        yield record


def _points(value: Any) -> np.ndarray | None:
    if not value:
        return None
    points = np.array(value, np.float64)
    if points.shape != (NUM_LANDMARKS, 2):
        raise Reject(f"{len(value)} landmarks instead of {NUM_LANDMARKS}")
    return points
