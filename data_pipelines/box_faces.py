"""Photos and drawn faces in one manifest, on which `configs/box.py` trains.

python -m data_pipelines.box_faces --manifest PHOTOS.csv --output FOLDER

PHOTOS.csv has the columns path, expression and person. Each photo is cut round the main face that
the detector finds, and photos of test persons are left out. Drawn faces have valence, arousal and
landmarks instead of an expression, because a class of drawings would be learnt as "drawing".
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from data_pipelines import disk
from data_pipelines.face_finder import FaceFinder, load_face_finder
from data_pipelines.images.decode import decode
from data_pipelines.schema import DataError
from data_pipelines.sources import make
from data_pipelines.sources.synthetic import SyntheticFaces

DRAWN = {"train": 600, "validation": 60, "test": 100}
MANIFEST = "box.csv"
_COLUMNS = ("path", "expression", "valence", "arousal", "person", "split")
_NEEDED = ("path", "expression", "person")  # of the photos
_BOX = ("x0", "y0", "x1", "y1")
_FACE = 104  # mean side of a face's box in the files, pixels: a little more than training sees
_ROOM = 0.95  # half the side of the square that is kept, over the mean side of the box
_SIDE = 160  # of a drawing
_SEED = 1
_QUALITY = 92

Row = dict[str, Any]


def write(manifest: pathlib.Path, output: pathlib.Path, find: FaceFinder) -> tuple[int, int]:
    """Write the images and the manifest atomically; return the number of photos and of drawings.

    Raises:
      DataError: the photos cannot be read, a column is missing, or `output` exists.
    """
    if output.exists():
        raise DataError(f"{output} exists; remove it, or name another folder")
    output = output.absolute()
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        counts = _write(manifest, partial, find)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _write(manifest: pathlib.Path, output: pathlib.Path, find: FaceFinder) -> tuple[int, int]:
    (output / "photos").mkdir(parents=True)
    (output / "drawn").mkdir()
    photos = list(_photos(manifest, output, find))
    drawn = [row for split, count in DRAWN.items() for row in _drawings(output, split, count)]
    with open(output / MANIFEST, "w", newline="") as file:
        writer = csv.DictWriter(file, (*_COLUMNS, *_BOX, "landmarks"))
        writer.writeheader()
        writer.writerows([*photos, *drawn])
    return len(photos), len(drawn)


def _photos(manifest: pathlib.Path, output: pathlib.Path, find: FaceFinder) -> Iterator[Row]:
    """Yield the rows of the photos in which a face is found, without those of test persons."""
    options = {"source": "manifest", "manifest": str(manifest), "crop": "whole"}
    splits = {
        person: split
        for split, source in make.make_sources(options).items()
        for person in source.persons
    }
    with open(manifest, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if absent := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
        raise DataError(f"{manifest} lacks the column {', '.join(absent)}; see --help")
    for number, row in enumerate(rows):
        split = splits.get(row["person"], "test")
        if split == "test":
            continue
        image = decode((manifest.parent / row["path"]).read_bytes())
        box = find(image)
        if box is None:
            print(f"no face: {row['path']}", file=sys.stderr)
            continue
        name = f"photos/{number:05d}.jpg"
        known = {"expression": row["expression"], "person": row["person"], "split": split}
        yield {"path": name, **known, **_cut(output / name, image, box)}


def _cut(path: pathlib.Path, image: np.ndarray, box: np.ndarray) -> Row:
    """Write the surroundings of a box, reduced; return the box in there."""
    side = (box[2:] - box[:2]).mean()
    centre, half = (box[:2] + box[2:]) / 2, _ROOM * side
    x0, y0 = np.maximum(np.floor(centre - half), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(centre + half), image.shape[1::-1]).astype(int)
    zoom = min(1.0, _FACE / side)
    size = (max(round((x1 - x0) * zoom), 1), max(round((y1 - y0) * zoom), 1))
    _save(path, cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA))
    scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)] * 2)
    return _columns((box - np.array([x0, y0, x0, y0])) * scale)


def _drawings(output: pathlib.Path, split: str, count: int) -> Iterator[Row]:
    """Yield the rows of drawn faces, each of another person."""
    source = SyntheticFaces(
        count, seed=_SEED, split=split, image_size=_SIDE, frames_per_video=1, videos_per_person=1
    )
    for i in range(count):
        example = source[i]
        image, box = example["image"], example["box"]
        zoom = min(1.0, _FACE / float((box[2:] - box[:2]).mean()))
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        name = f"drawn/{split}_{i:04d}.jpg"
        _save(output / name, image)
        zoom = image.shape[0] / _SIDE
        valence, arousal = (round(float(v), 4) for v in example["valence_arousal"])
        landmarks = ((example["landmarks"] + 0.5) * zoom - 0.5).round(1).tolist()
        yield {
            "path": name,
            "valence": valence,
            "arousal": arousal,
            "person": f"drawn_{split}_{i}",
            "split": split,
            "landmarks": json.dumps(landmarks),
            **_columns((box + 0.5) * zoom - 0.5),
        }


def _columns(box: np.ndarray) -> Row:
    return {name: round(float(v), 2) for name, v in zip(_BOX, box, strict=True)}


def _save(path: pathlib.Path, image: np.ndarray) -> None:
    image = image[..., ::-1] if image.ndim == 3 else image
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise DataError(f"{path} cannot be encoded")
    path.write_bytes(data.tobytes())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m data_pipelines.box_faces", description=__doc__)
    parser.add_argument("--manifest", required=True, type=pathlib.Path, help="table of photos")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        with disk.explained(options.output):
            photos, drawn = write(options.manifest, options.output, load_face_finder())
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{photos} photos and {drawn} drawn faces in {options.output / MANIFEST}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
