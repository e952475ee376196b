"""Boxes of faces that another program found, from a file.

The file is a CSV, TSV or JSONL table with a column `path` and four numbers a row: `left`, `top`,
`right`, `bottom`, or `x0`, `y0`, `x1`, `y1`, or a column `box` that holds them. They are pixels of
the upright image. A path may have several rows, one a face. A column `score` (0 to 1) may follow;
for videos, `frame` (from 0) must. A photo has one frame, with any number: a manifest of training,
in which `frame` numbers the photos of a video, is such a file.
"""

import itertools
import os
import pathlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from affect_jax.errors import UserError
from affect_jax.inference.faces import Faces, faces_of_boxes
from affect_jax.inference.inputs import BOX_COLUMNS, Item
from data_pipelines.schema import DataError, shorten
from data_pipelines.sources import manifest_file
from data_pipelines.sources.manifest_rows import BadRow, read_box

_FORMS = "left,top,right,bottom or x0,y0,x1,y1 or box"


class BoxFile:
    """The boxes of a file, by image.

    Attributes:
      path: of the file.
      count: boxes in it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Read and check a file.

        Raises:
          UserError: it is missing or not a table, or a row has no numbers or a box without area.
        """
        self.path = pathlib.Path(path).expanduser()
        # real path -> frame -> box and score of each face
        self._found: dict[str, dict[int | None, list[tuple[np.ndarray, float]]]]
        self._found = defaultdict(lambda: defaultdict(list))
        self._named: dict[str, str] = {}  # real path -> as in the file
        try:
            for number, row in manifest_file.read_rows(self.path):
                if not isinstance(row, dict):
                    raise DataError(f"{self.path}:{number}: {row}")
                self._add(f"{self.path}:{number}", row)
        except DataError as error:
            raise UserError(f"boxes: {error}") from error
        self.count = sum(len(faces) for frames in self._found.values() for faces in frames.values())

    def faces(self, image: str | os.PathLike[str], frame: int | None = None) -> Faces:
        """Return the faces of an image; none if the file does not name it.

        Args:
          image: path of the image or video. Relative paths in the file refer to its folder, or else
            to the current one.
          frame: number of the frame of a video, from 0; None: a photo.
        """
        frames = self._found.get(_key(pathlib.Path(image)), {})
        if frame is None:
            found = list(itertools.chain.from_iterable(frames.values()))
        else:
            found = frames.get(frame, [])
        boxes = np.array([box for box, _ in found], np.float32)
        return faces_of_boxes(boxes, np.array([score for _, score in found], np.float32))

    def __contains__(self, image: str | os.PathLike[str]) -> bool:
        return _key(pathlib.Path(image)) in self._found

    def unused(self, items: Iterable[Item]) -> list[str]:
        """Return the paths in the file, as they stand there, that are no inputs.

        Raises:
          UserError: none is an input, or a box of a video has no frame.
        """
        keys = set()
        for item in items:
            keys.add(key := _key(pathlib.Path(item.path)))
            if item.is_video and None in self._found.get(key, {}):
                raise UserError(
                    f"boxes {self.path}: {self._named[key]!r} is a video, and a box of it has no "
                    "frame; give the number of its frame, from 0, in the column `frame`"
                )
        unused = [name for key, name in self._named.items() if key not in keys]
        if len(unused) == len(self._named):
            example = f", such as {unused[0]!r}" if unused else ""
            raise UserError(
                f"boxes {self.path}: no path in it{example}, is an input; paths refer to the "
                "folder of that file, or else to the current one"
            )
        return unused

    def _add(self, where: str, row: dict[str, Any]) -> None:
        name = str(row.get("path") or "").strip()
        if not name:
            raise UserError(f"{where}: the path is empty")
        place = self.path.parent / pathlib.Path(name).expanduser()
        if not place.exists() and pathlib.Path(name).exists():
            place = pathlib.Path(name)
        self._named.setdefault(_key(place), name)
        if (box := _box(where, row)) is None:
            return
        score = np.nan  # not known
        if not _is_empty(row.get("score")):
            score = _number(where, "score", row["score"])
            if not 0 <= score <= 1:
                raise UserError(f"{where}: score = {score:g}; it must lie between 0 and 1")
        frame = None
        if not _is_empty(row.get("frame")):
            number = _number(where, "frame", row["frame"])
            if number < 0 or number != int(number):
                raise UserError(f"{where}: frame = {number:g}; it must be 0, 1, 2 ...")
            frame = int(number)
        self._found[_key(place)][frame].append((box, score))


def _key(path: pathlib.Path) -> str:
    return os.path.realpath(path.expanduser())


def _box(where: str, row: dict[str, Any]) -> np.ndarray | None:
    """Return the box of a row, float32 [4]; None if it has none: an image without a face."""
    if "box" not in row and not any(set(names) <= set(row) for names in BOX_COLUMNS):
        raise UserError(f"{where}: no columns {_FORMS}; its columns are {', '.join(row)}")
    try:
        return read_box(row, BOX_COLUMNS)
    except BadRow as error:
        raise UserError(f"{where}: {error}") from None


def _is_empty(value: Any) -> bool:
    return value is None or not str(value).strip()


def _number(where: str, name: str, cell: Any) -> float:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise UserError(f"{where}: {name} is {shorten(cell)!r}, not a number")
    return number
