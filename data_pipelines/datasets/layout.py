"""Find an official layout in a user's folder, and show what is missing."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.images.image_files import IMAGE_SUFFIXES
from data_pipelines.schema import DataError

_SEARCH_DEPTH = 3
_LISTED = 12


class LayoutError(DataError):
    """A folder does not hold the data set; the message shows both trees."""


def find_root(
    folder: Path, fits: Callable[[Path], bool], *, depth: int = _SEARCH_DEPTH
) -> Path | None:
    """Return the folder nearest to the top for which `fits` holds, or None.

    Users unpack archives one or two folders deeper than the authors meant, or name a folder inside
    the right one; so `folder`, its parent and the folders `depth` levels below are tried.

    Raises:
      LayoutError: several folders of one level fit.
    """
    level = [folder]
    for _ in range(depth + 1):
        fitting = [candidate for candidate in level if fits(candidate)]
        if len(fitting) > 1:
            raise LayoutError(
                f"{len(fitting)} folders could be the data set: "
                f"{', '.join(str(p) for p in fitting[:_LISTED])}; point --manual_dir to one"
            )
        if fitting:
            return fitting[0]
        # Folders with very many children hold images, not the root of a data set.
        level = [child for parent in level for child in subfolders(parent)[:64]]
    return folder.parent if fits(folder.parent) else None


def find(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of `names` in the root that holds any, or None.

    Raises:
      LayoutError: as `find_root`.
    """
    root = find_root(folder, lambda p: first_existing(p, names) is not None)
    return None if root is None else first_existing(root, names)


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders directly in `folder`, sorted.

    Folders that macOS adds are left out.
    """
    if not folder.is_dir():
        return []
    children = (p for p in folder.iterdir() if p.is_dir())
    return sorted(p for p in children if p.name[0] != "." and p.name != "__MACOSX")


def image_files(folder: Path) -> list[Path]:
    """Return the image files directly in `folder`, sorted, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."
    )


def image_files_below(folder: Path, *, depth: int = _SEARCH_DEPTH) -> Iterator[Path]:
    """Yield image files of a folder and up to `depth` levels below, sorted within each folder."""
    yield from image_files(folder)
    for child in subfolders(folder) if depth else ():
        yield from image_files_below(child, depth=depth - 1)


def first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of `folder/name` that exists in any case, or None."""
    return next((p for p in (existing(folder, name) for name in names) if p), None)


def existing(folder: Path, name: str) -> Path | None:
    """Return `folder/name` in any case of letters; None if it does not exist."""
    if (folder / name).exists():
        return folder / name
    for part in PurePosixPath(name).parts:
        if not (folder / part).exists():
            if not folder.is_dir():
                return None
            alike = [n for n in os.listdir(folder) if n.casefold() == part.casefold()]
            if not alike:
                return None
            part = min(alike)
        folder = folder / part
    return folder


def by_name(folder: Path) -> dict[str, Path]:
    """Return files directly in a folder by lower-case name; empty without the folder."""
    if not folder.is_dir():
        return {}
    return {p.name.lower(): p for p in folder.iterdir() if p.name[0] != "."}


def with_suffix(folder: Path, suffix: str | tuple[str, ...]) -> list[Path]:
    """Return sorted files directly in a folder that end in `suffix`, in any case."""
    return [p for name, p in sorted(by_name(folder).items()) if name.endswith(suffix)]


def tree(folder: Path, *, depth: int = 2, indent: str = "  ") -> str:
    """Return a short drawing of a folder's content; long listings are cut."""
    if not folder.exists():
        return f"{indent}(there is no such folder)"
    if not folder.is_dir():
        return f"{indent}(this is a file, not a folder)"
    children = sorted(folder.iterdir(), key=lambda p: (not p.is_dir(), p.name))
    if not children:
        return f"{indent}(empty)"
    lines = []
    for child in children[:_LISTED]:
        lines.append(f"{indent}{child.name}{'/' if child.is_dir() else ''}")
        if child.is_dir() and depth > 1:
            lines.append(tree(child, depth=depth - 1, indent=indent + "  "))
    if len(children) > _LISTED:
        lines.append(f"{indent}... and {len(children) - _LISTED} more")
    return "\n".join(lines)


def layout_error(title: str, folder: Path, expected: str, reason: str) -> LayoutError:
    """Make an error that shows the expected tree and the found one."""
    wanted = "\n".join("  " + line for line in expected.strip().splitlines())
    return LayoutError(
        f"{title} was not found in {folder}: {reason}.\n"
        f"Expected:\n{wanted}\nFound in {folder}:\n{tree(folder)}\n"
        "Point --manual_dir to the folder that holds the expected files."
    )
