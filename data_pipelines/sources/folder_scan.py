"""Find the images in a tree of folders.

Links to folders are followed. The log counts the files that are not used.
"""

import logging
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from data_pipelines.images import image_files
from data_pipelines.schema import DataError

log = logging.getLogger(__name__)


@dataclass
class Folder:
    """A folder with its images and the folders in it.

    Attributes:
      parts: names of the folders from the root to this one.
      images: names of the image files directly in it, sorted.
      folders: sorted by name.
      total: images at any depth.
    """

    parts: tuple[str, ...] = ()
    images: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    total: int = 0

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else ""

    @property
    def filled(self) -> list["Folder"]:
        """The folders in it that hold an image at any depth."""
        return [f for f in self.folders if f.total]

    def walk(self) -> Iterator["Folder"]:
        """Yield this folder and all below it that hold images."""
        yield self
        for below in self.filled:
            yield from below.walk()


def scan(root: pathlib.Path) -> Folder:
    """Return the tree below a folder, and log what was not used.

    Raises:
      DataError: a folder cannot be read.
    """
    reader = _Reader()
    tree = reader.folder(str(root), (), (os.path.realpath(root),))
    _log_counts(root, "files that are not images", reader.files)
    _log_counts(root, "files in folders that start with . or _", reader.folders)
    for link in reader.links:
        log.warning("%s: %s", root, link)
    return tree


def joined(parts: Collection[str]) -> str:
    """Return the path of a folder or file below the root."""
    return str(pathlib.PurePath(*parts))


def _log_counts(root: pathlib.Path, what: str, counts: Mapping[str, int]) -> None:
    if counts:
        ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        kinds = ", ".join(f"{n} {kind}" for kind, n in ordered)
        log.warning("%s: %d %s were left out: %s", root, sum(counts.values()), what, kinds)


class _Reader:
    """Reads folders and counts what it leaves out."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()  # that are not images, by kind
        self.folders: dict[str, int] = {}  # left out by name -> files in them
        self.links: list[str] = []

    def folder(self, place: str, parts: tuple[str, ...], above: tuple[str, ...]) -> Folder:
        folder = Folder(parts)
        try:
            entries = sorted(os.scandir(place), key=lambda e: e.name)
            folders = {e.name for e in entries if _is(e.is_dir)}
        except OSError as e:
            raise DataError(f"{place} cannot be read ({e.strerror or e})") from e
        for entry in entries:
            if entry.name in folders:
                self._subfolder(folder, entry, above)
            elif entry.name.startswith("."):
                self.files["hidden"] += 1
            elif not _is(entry.is_file):
                self.links.append(f"link to nothing left out: {joined((*parts, entry.name))}")
            elif image_files.is_image(entry.path, entry.name):
                folder.images.append(entry.name)
            else:
                self.files[os.path.splitext(entry.name)[1].lower() or "without suffix"] += 1
        folder.total = len(folder.images) + sum(f.total for f in folder.folders)
        return folder

    def _subfolder(self, folder: Folder, entry: os.DirEntry, above: tuple[str, ...]) -> None:
        parts = (*folder.parts, entry.name)
        if entry.name[0] in "._":
            self.folders[joined(parts)] = sum(len(f) for _, _, f in os.walk(entry.path))
            return
        real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
        if real in above:
            self.links.append(f"link to a folder above it left out: {joined(parts)}")
            return
        folder.folders.append(self.folder(entry.path, parts, (*above, real)))


def _is(question: Callable[[], bool]) -> bool:
    """Return the answer of a directory entry; False for a link that leads to itself."""
    try:
        return question()
    except OSError:
        return False
