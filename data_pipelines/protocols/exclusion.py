"""The list of wrong images in `data.exclude`: a text file, one image per line.

A line is the path of an image as the manifest, folder or data set names it, or the end of that
path, with or without the file's suffix: `images/a.jpg`, `a.jpg` and `a` all name `images/a.jpg`.
Empty lines and lines that start with `#` are skipped. A line that names no image, or several, is an
error, because a typing error would otherwise change a test set unnoticed.
"""

import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.defaults import DataConfig
from data_pipelines.protocols.persons import SPLIT_NAMES
from data_pipelines.schema import DataError

log = logging.getLogger(__name__)

_SHOWN = 5


def read(path: str | os.PathLike) -> dict[str, int]:
    """Read the entries of a list and their line numbers.

    Raises:
      DataError: the file is missing, is not text or is empty.
    """
    path = pathlib.Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise DataError(f"data.exclude: {path} cannot be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise DataError(f"data.exclude: {path} is not UTF-8 text ({e})") from e
    stripped = ((line.strip(), number) for number, line in enumerate(lines, 1))
    entries = {
        text.replace("\\", "/").removeprefix("./"): number
        for text, number in stripped
        if text and text[0] != "#"
    }
    if not entries:
        raise DataError(f"data.exclude: {path} lists no image; give one path per line")
    return entries


def find(names: Mapping[str, Sequence[str]], path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Mark the images of a list.

    Args:
      names: part -> paths of its images; all parts of a data set, so that every line is found.
      path: the list.

    Returns:
      part -> bool [n].

    Raises:
      DataError: the list cannot be read, or a line names no image or several.
    """
    entries = read(path)
    found: dict[str, list[tuple[int, str, int, str]]] = {entry: [] for entry in entries}
    for part, paths in names.items():
        for i, name in enumerate(paths):
            for rank, end in enumerate(_ends(name)):
                if end in found:
                    found[end].append((rank, part, i, name))
    lost = [f"line {entries[e]}: {e}" for e, places in found.items() if not places]
    if lost:
        raise DataError(
            f"data.exclude: {len(lost)} of {len(entries)} lines of {path} name no image of these "
            f"data ({'; '.join(lost[:_SHOWN])}{' ...' if len(lost) > _SHOWN else ''}). A line is a "
            f"path such as {next((p[0] for p in names.values() if len(p)), 'images/a.jpg')}"
        )
    marks = {part: np.zeros(len(paths), bool) for part, paths in names.items()}
    for entry, places in found.items():
        best = min(rank for rank, *_ in places)  # a whole path wins over the end of another
        chosen = [place for place in places if place[0] == best]
        if len(chosen) > 1:
            raise DataError(
                f"data.exclude: line {entries[entry]} of {path}, {entry}, names {len(chosen)} "
                f"images, among them {chosen[0][3]} ({chosen[0][1]}) and {chosen[1][3]} "
                f"({chosen[1][1]}); write more of the path"
            )
        _, part, i, _ = chosen[0]
        marks[part][i] = True
    return marks


def _ends(name: str) -> Iterator[str]:
    """Yield what a line may call an image, from the whole path to the bare name."""
    name = name.replace("\\", "/").removeprefix("./")
    yield name
    stem = os.path.splitext(name)[0]
    if stem != name:
        yield stem
    while "/" in name:
        name, stem = name.partition("/")[2], stem.partition("/")[2]
        yield name
        if stem != name:
            yield stem


def keep(
    names: Mapping[str, Sequence[str]], unused: Mapping[str, Sequence[str]], data: DataConfig
) -> dict[str, np.ndarray]:
    """Return which images of each split stay under `data.exclude`; log the counts.

    Args:
      names: split -> paths of its images.
      unused: the same of images that are in no split, but may be listed.

    Returns:
      split -> bool [n]; training images stay unless `data.exclude_train`.
    """
    marks = find({**names, **unused}, data.exclude)
    counts = {part: int(mark.sum()) for part, mark in marks.items()}
    used = SPLIT_NAMES if data.exclude_train else SPLIT_NAMES[1:]
    left_out = ", ".join(f"{part} {counts[part]}" for part in used)
    untouched = {part: n for part, n in counts.items() if n and part not in used}
    kept = "".join(f"; {n} of {part} are not touched" for part, n in untouched.items())
    total = sum(counts.values())
    log.info("%s: %d images listed; left out of %s%s", data.exclude, total, left_out, kept)
    return {part: ~marks[part] | (part not in used) for part in names}
