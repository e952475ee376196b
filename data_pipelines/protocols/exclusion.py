"""A list of wrong pictures made by hand: a text file with one picture a line.

A line is a picture's path as the manifest, folder or data set names it, or the end of that path,
with or without the file's ending: `images/a.jpg`, `a.jpg` and `a` all name `images/a.jpg`. Empty
lines and lines that start with `#` are passed over. A line that names no picture, or several, is an
error: it would spoil a test list without a word.
"""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.schema import DataError

_SHOWN = 5


def read(path: str | os.PathLike) -> dict[str, int]:
    """Entries of a list and their line numbers.

    Raises:
      DataError: the file is missing, is no text or names nothing.
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
        raise DataError(f"data.exclude: {path} names no picture; give one path a line")
    return entries


def find(names: Mapping[str, Sequence[str]], path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Marks the pictures of a list.

    Args:
      names: part -> paths of its pictures; all parts of a data set, so that every line is found.
      path: the list.

    Returns:
      part -> bool [n].

    Raises:
      DataError: the list cannot be read, or lines of it name no picture or several.
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
            f"data.exclude: {len(lost)} of {len(entries)} lines of {path} name no picture of these "
            f"data ({'; '.join(lost[:_SHOWN])}{' ...' if len(lost) > _SHOWN else ''}). A line is a "
            f"path such as {next((p[0] for p in names.values() if len(p)), 'images/a.jpg')}"
        )
    marks = {part: np.zeros(len(paths), bool) for part, paths in names.items()}
    for entry, places in found.items():
        best = min(rank for rank, *_ in places)  # a whole path goes before the end of another
        chosen = [place for place in places if place[0] == best]
        if len(chosen) > 1:
            raise DataError(
                f"data.exclude: line {entries[entry]} of {path}, {entry}, names {len(chosen)} "
                f"pictures, among them {chosen[0][3]} ({chosen[0][1]}) and {chosen[1][3]} "
                f"({chosen[1][1]}); write more of the path"
            )
        _, part, i, _ = chosen[0]
        marks[part][i] = True
    return marks


def _ends(name: str) -> Iterator[str]:
    """What a line may call a picture, from the whole path to the bare name."""
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


def report(marks: Mapping[str, np.ndarray], path: str | os.PathLike, used: Sequence[str]) -> str:
    """A line for the log: what was left out of which part, and what stays."""
    counts = {part: int(mark.sum()) for part, mark in marks.items()}
    left_out = ", ".join(f"{part} {counts[part]}" for part in used)
    stays = {part: n for part, n in counts.items() if n and part not in used}
    kept = "".join(f"; {n} of {part} are not touched" for part, n in stays.items())
    return f"{path}: {sum(counts.values())} pictures listed; left out of {left_out}{kept}"


def parts(exclude_train: bool) -> tuple[str, ...]:
    """The splits that a list applies to: validation and test, and training if asked for."""
    return ("train", "validation", "test") if exclude_train else ("validation", "test")
