"""What to predict: files, folders, patterns, videos and manifests, as one list of items.

The order is stable: inputs as given, the files of a folder by name. A file that occurs twice is
read once, where it occurs first, with all boxes that manifests give it.
"""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Container, Iterable, Iterator, Sequence

from affect_jax.errors import UserError
from affect_jax.inference import writers
from affect_jax.inference.image_inputs import ImageInput
from data_pipelines.images import image_files
from data_pipelines.schema import DataError
from data_pipelines.sources.manifest_file import read_rows
from data_pipelines.sources.manifest_rows import BadRow, read_box

_VIDEOS = ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ts .mts .m2ts .3gp .ogv .mxf"
VIDEO_SUFFIXES = frozenset(_VIDEOS.split())
MANIFEST_SUFFIXES = frozenset([".csv", ".tsv", ".jsonl", ".ndjson"])
# The columns of a box in a table, where it has no column `box`.
BOX_COLUMNS = (("x0", "y0", "x1", "y1"), ("left", "top", "right", "bottom"))
# Endings of overlays.
_MP4, _PICTURES = frozenset([".mp4"]), frozenset([".jpg", ".jpeg", ".png"])
_PATTERN_SIGNS = frozenset("*?[")
_SYSTEM_FILES = frozenset(["thumbs.db", "desktop.ini"])
# The first bytes of Matroska, Flash video, Ogg, MPEG programs and MPEG video.
_VIDEO_HEADS = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\0\0\x01\xb3")

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Item:
    """A photo or a video to predict.

    Attributes:
      path: of the file, as it stands in the table.
      name: relative path for what is written about it, without `..`.
      is_video: whether it is read as a video.
      boxes: faces that are known already, (left, top, right, bottom) in pixels; None: not known.
      content: the image itself, if it is not in a file.
      fault: why it cannot be read, as far as is known already.
    """

    path: str
    name: str
    is_video: bool = False
    boxes: tuple[Box, ...] | None = None
    content: ImageInput | None = None
    fault: str = ""

    @property
    def overlay(self) -> str:
        """Relative path of its overlay: a JPEG or PNG file, or MP4."""
        kept, ending = (_MP4, ".mp4") if self.is_video else (_PICTURES, ".png")
        suffix = os.path.splitext(self.name)[1].lower()
        return self.name if suffix in kept else self.name + ending


def find(
    inputs: Sequence[str | os.PathLike], own: Sequence[str | os.PathLike | None] = ()
) -> list[Item]:
    """Return the items that inputs of the command name.

    Args:
      inputs: image and video files; folders, read with all folders in them; patterns such as
        `photos/*.jpg`, where `**` stands for folders at any depth; manifests, CSV or JSONL files
        with the column `path` and optionally a box (`box`, or `x0`, `y0`, `x1`, `y1`, or `left`,
        `top`, `right`, `bottom`). A row of a manifest is one face: rows of one image are joined.
      own: files and folders that the command writes, which may lie in a folder it reads.

    Raises:
      UserError: a pattern or folder holds no file, or a manifest cannot be read.
    """
    found: dict[str, Item] = {}
    names: set[str] = set()
    pictures: set[str] = set()
    written = [os.path.abspath(path) for path in own if path is not None]
    for text in map(os.fsdecode, inputs):
        for place in written:
            if os.path.abspath(text).startswith(place + os.sep):
                raise UserError(f"{place} is written to, and holds the input {text}; name another")
    for one in _all(map(os.fsdecode, inputs)):
        path = os.path.abspath(one.path)
        if any(_belongs(path, place) for place in written):
            continue
        if path in found:
            found[path] = _merged(found[path], one)
            continue
        found[path] = named = _distinct(one, names, pictures)
        names.add(named.name)
        pictures.add(named.overlay)
    if not found:
        places = f" other than in {', '.join(written)}, where results go" if written else ""
        raise UserError(f"the inputs hold no file{places}; name images, videos or folders")
    return list(found.values())


def _belongs(path: str, place: str) -> bool:
    """Return whether a file is a table of this command, a record of it, or in its folder."""
    endings = ("", *writers.ENDINGS)
    return path.startswith(place + os.sep) or any(path == place + ending for ending in endings)


def _merged(first: Item, second: Item) -> Item:
    """Return an item with the boxes of both, which are one file."""
    boxes = dict.fromkeys([*(first.boxes or ()), *(second.boxes or ())])
    return dataclasses.replace(first, boxes=tuple(boxes) or None)


def _distinct(one: Item, names: Container[str], overlays: Container[str]) -> Item:
    """Return an item, or with a number in its name where another has that name or overlay."""
    stem, suffix = os.path.splitext(one.name)
    number = 1
    while one.name in names or one.overlay in overlays:
        number += 1
        one = dataclasses.replace(one, name=f"{stem}-{number}{suffix}")
    return one


def shard(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Return the part `index` (from 1) of `count`: every `count`-th item.

    Raises:
      UserError: there is no such part.
    """
    if not 1 <= index <= count:
        raise UserError(f"shard {index}/{count} does not exist; count from 1/{count}")
    return list(items[index - 1 :: count])


def _all(inputs: Iterable[str]) -> Iterator[Item]:
    for text in inputs:
        suffix = os.path.splitext(text)[1].lower()
        if os.path.isdir(text):
            yield from _nonempty(_folder(text, "", (os.path.realpath(text),)), text, "folder")
        elif suffix in MANIFEST_SUFFIXES and os.path.exists(text):
            yield from _nonempty(_manifest(pathlib.Path(text)), text, "manifest")
        elif _PATTERN_SIGNS & set(text) and not os.path.exists(text):
            paths = sorted(glob.glob(text, recursive=True))
            files = (item(path) for path in paths if not os.path.isdir(path))
            yield from _nonempty(files, text, "pattern")
        else:
            yield item(text)


def _nonempty(items: Iterable[Item], text: str, kind: str) -> Iterator[Item]:
    none = True
    for one in items:
        none = False
        yield one
    if none:
        raise UserError(f"the {kind} {text!r} holds no file; name images, videos or folders")


def _folder(place: str, name: str, above: tuple[str, ...]) -> Iterator[Item]:
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError as error:
        yield Item(place, name or _own_name(place), fault=error.strerror or str(error))
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
            continue
        inner = os.path.join(name, entry.name)
        if os.path.isdir(entry.path):
            real = os.path.realpath(entry.path)
            if real not in above:  # a link to a folder above has no end
                yield from _folder(entry.path, inner, (*above, real))
        else:
            yield item(entry.path, inner)


def _own_name(path: str) -> str:
    """Return a relative path for output about a file that was named by itself."""
    return os.path.basename(os.path.normpath(path)) or "input"


def item(path: str, name: str = "", boxes: tuple[Box, ...] | None = None) -> Item:
    """Return the item of a file."""
    return Item(path, name or _own_name(path), _is_video(path), boxes)


def _is_video(path: str) -> bool:
    if image_files.is_image(path, path):
        return False
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
        return True
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return is_avi or head[4:8] == b"ftyp" or head.startswith(_VIDEO_HEADS)


def _manifest(path: pathlib.Path) -> Iterator[Item]:
    faces: dict[str, tuple[str, list[Box]]] = {}  # absolute path -> path as given, boxes
    faults: list[Item] = []
    try:
        for number, row in read_rows(path):
            named = row.get("path") if isinstance(row, dict) else None
            try:
                if isinstance(row, BadRow):
                    raise row
                if not (named and isinstance(named, str)):
                    raise BadRow("the path is empty")
                _check(named)
                box = read_box(row, BOX_COLUMNS)
            except BadRow as error:
                where = f"{path}:{number}"
                faults.append(Item(where, f"{path.name}-{number}", fault=str(error)))
                continue
            _, own = faces.setdefault(os.path.abspath(path.parent / named), (named, []))
            if box is not None:
                own.append(tuple(box.tolist()))
    except (DataError, OSError) as error:
        raise UserError(f"manifest {path}: {error}") from error
    for named, boxes in faces.values():
        file = named if os.path.isabs(named) else str(path.parent / named)
        name = _own_name(named) if os.path.isabs(named) else _below(named)
        yield item(file, name, tuple(boxes) or None)
    yield from faults


def _below(path: str) -> str:
    """Return a relative path without the parts that lead upwards."""
    parts = [part for part in pathlib.PurePath(path).parts if part != ".."]
    return os.path.join("", *parts) or "input"


def _check(path: str) -> None:
    """Raise BadRow unless a file can have such a name."""
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise BadRow(f"no file can be named {path!a}")
