"""Read the rows of a CSV or JSONL manifest; check column names, but not cells."""

import csv
import json
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from data_pipelines.schema import DataError, shorten
from data_pipelines.sources.manifest_rows import BadRow

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ZIP = b"PK\x03\x04"  # what an .xlsx file is
_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
_AS_UTF8 = 'save it as UTF-8 (in Excel: "CSV UTF-8")'


def split_paths(text: str | os.PathLike) -> list[pathlib.Path]:
    """Return the manifests that a text names: `a.csv`, or `a.csv,b.csv` for several.

    Raises:
      DataError: one is given twice, or a path between commas is empty.
    """
    whole = pathlib.Path(text).expanduser()
    # Many paths together are longer than a name of a file may be, which os.path takes.
    if "," not in str(text) or os.path.exists(whole):
        return [whole]
    parts = [part.strip() for part in str(text).split(",")]
    if "" in parts:
        raise DataError(
            f"{text}: a path is missing before or after a comma; remove the comma, or give paths "
            "with one comma between them, as a.csv,b.csv"
        )
    paths = [pathlib.Path(part).expanduser() for part in parts]
    real = [os.path.realpath(path) for path in paths]
    if twice := [part for part, file in zip(parts, real, strict=True) if real.count(file) > 1]:
        raise DataError(
            f"{text}: {' and '.join(dict.fromkeys(twice))} is one file, given twice; give "
            "different files, as a.csv,b.csv"
        )
    return paths


def common_root(text: str | os.PathLike) -> pathlib.Path:
    """Return the folder that the paths in the records of these manifests refer to."""
    return common_folder([path.parent for path in split_paths(text)])[0]


def common_folder(folders: Sequence[pathlib.Path]) -> tuple[pathlib.Path, list[str]]:
    """Return the folder that holds all, and where each is in it ("" for a single one).

    Raises:
      DataError: they are on different drives.
    """
    if len(folders) == 1:
        return folders[0], [""]
    full = [os.path.abspath(folder) for folder in folders]
    try:
        root = os.path.commonpath(full)
    except ValueError as e:
        raise DataError(
            f"the manifests are on different drives ({', '.join(full)}); put them on one drive"
        ) from e
    return pathlib.Path(root), [_with_slashes(os.path.relpath(folder, root)) for folder in full]


def joined(folder: str, path: str) -> str:
    """Return a path in a folder of `common_folder`, with "/" on every system."""
    return path if folder in ("", os.curdir) else _with_slashes(os.path.join(folder, path))


def _with_slashes(path: str) -> str:
    return path.replace(os.sep, "/")


def read_rows(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Yield the rows of a CSV or JSONL manifest with their line numbers.

    CSV columns are separated by comma, semicolon or tab.

    Column names are stripped and lower-cased. The text is UTF-8, or UTF-16 with a byte order mark;
    Excel's first line `sep=;` is understood. A line that is not a JSON object, or has more or fewer
    cells than the header, comes as `BadRow`; empty cells at the end do not count.

    Raises:
      DataError: the file is missing, is not text, has no header, names a column twice, or is one
        JSON array.
    """
    path = pathlib.Path(path)
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")
    try:
        with open(path, encoding=_encoding(path), newline="") as file:
            if path.suffix.lower() in _JSON_SUFFIXES:
                yield from _json_rows(file, path)
            else:
                yield from _csv_rows(file, path)
    except UnicodeError as e:
        raise DataError(f"{path} is not UTF-8 text ({e}); {_AS_UTF8}") from e
    except csv.Error as e:
        raise DataError(f"{path} is not a readable CSV ({e})") from e


def _encoding(path: pathlib.Path) -> str:
    """Return `utf-16` with that byte order mark, else `utf-8-sig`; refuse binary."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if head.startswith((_ZIP, _OLD_EXCEL)):
        raise DataError(f'{path} is an Excel workbook; in Excel, save it as "CSV UTF-8"')
    if head.startswith(_UTF16):
        return "utf-16"
    if b"\0" in head:
        raise DataError(
            f"{path} holds zero bytes: UTF-16 without a byte order mark, or not text; {_AS_UTF8}"
        )
    return "utf-8-sig"


def _json_rows(
    file: Iterable[str], path: pathlib.Path
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    begun = False
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if line.lstrip().startswith("[") and not begun:
            raise DataError(
                f"{path} is one JSON array; write one object per line "
                '(pandas: to_json(path, orient="records", lines=True))'
            )
        begun = True
        try:
            row = json.loads(line, object_pairs_hook=_Pairs)
        except json.JSONDecodeError as e:
            yield number, BadRow(f"not JSON ({e.msg} at column {e.colno})")
            continue
        if not isinstance(row, _Pairs):
            yield number, BadRow("not a JSON object; each line must be one")
            continue
        names = [str(k).strip().lower() for k, _ in row]
        _check_names(names, f"{path}:{number}")
        yield number, {n: _plain(v) for n, (_, v) in zip(names, row, strict=True)}


class _Pairs(list):
    """The pairs of a JSON object, which may hold a name twice."""


def _plain(value: Any) -> Any:
    """Return a JSON value whose inner objects are dictionaries."""
    if isinstance(value, _Pairs):
        return {k: _plain(v) for k, v in value}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _csv_rows(file: TextIO, path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    header, before = _next_line(file, 0)
    # Excel states the delimiter like this.
    stated = re.fullmatch(r'"?sep=(.)"?[\s;,]*', header, re.IGNORECASE)
    if stated:
        header, before = _next_line(file, before)
    if not header.strip():
        raise DataError(f"{path} is empty; a manifest starts with a header such as path,expression")
    delimiter = stated[1] if stated else max(",;\t", key=header.count)
    names = [n.strip().lower() for n in next(csv.reader([header], delimiter=delimiter))]
    if "path" not in names:
        listed = shorten(", ".join(names))
        raise DataError(f"{path} has no column `path`; its columns are {listed}")
    _check_names(names, str(path))
    least = max(i for i, n in enumerate(names, 1) if n)  # columns without a name may be absent
    reader = csv.reader(file, delimiter=delimiter)
    for cells in reader:
        number = reader.line_num + before
        if not any(c.strip() for c in cells):
            continue  # an empty line, or what Excel leaves below a table
        if len(cells) < least or any(c.strip() for c in cells[len(names) :]):
            yield number, BadRow(f"{len(cells)} cells where the header has {len(names)}")
            continue
        yield number, dict(zip(names, cells, strict=False))


def _next_line(file: TextIO, number: int) -> tuple[str, int]:
    """Return the next line that is not empty, and its number, after line `number`."""
    while (line := file.readline()) and not line.strip():
        number += 1
    return line, number + 1


def _check_names(names: Sequence[str], where: str) -> None:
    """Raise DataError if a column occurs twice; unnamed columns are ignored."""
    twice = [n for n, count in Counter(names).items() if count > 1 and n]
    if twice:
        listed = shorten(", ".join(names))
        raise DataError(
            f"{where}: column {', '.join(twice)} occurs more than once (capitals and spaces around "
            f"a name are ignored); the columns are {listed}. Remove or rename all but one"
        )
