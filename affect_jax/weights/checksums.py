"""Checksums of the files below a folder, to notice a file that was damaged on disk."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

CHECKSUMS_FILE = "checksums.json"


def digests(folder: str | os.PathLike, parts: Iterable[str] = ()) -> dict[str, str]:
    """Returns the SHA-256 of every file below `folder`.

    Args:
      folder: hidden files, and a `checksums.json` directly in it, are left out.
      parts: only what lies in these folders (or is one of these files) of it; empty: everything.

    Returns:
      path relative to `folder`, with "/" on every system -> hexadecimal digest, in order.

    Raises:
      OSError: a file cannot be read.
    """
    folder = Path(folder)
    starts = [folder / part for part in parts] or [folder]
    files = [f for s in starts for f in ([s] if s.is_file() else s.rglob("*")) if f.is_file()]
    names = {f.relative_to(folder).as_posix(): f for f in files if not f.name.startswith(".")}
    names.pop(CHECKSUMS_FILE, None)
    return {name: _digest(names[name]) for name in sorted(names)}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(
    folder: str | os.PathLike, recorded: Mapping[str, str], parts: Iterable[str] = ()
) -> list[str]:
    """Compares the files below `folder` with what `digests` gave.

    Args:
      folder: files that are not recorded are ignored.
      recorded: path relative to `folder` -> hexadecimal digest.
      parts: only what is recorded in these folders (or is one of these files); empty: everything.

    Returns:
      A line for each file that is missing, cannot be read or holds other bytes; empty if none.
    """
    parts = tuple(parts)
    lines = []
    for name, digest in sorted(recorded.items()):
        if parts and not any(name == part or name.startswith(f"{part}/") for part in parts):
            continue
        path = Path(folder) / name
        try:
            if _digest(path) != digest:
                lines.append(f"{name} is not as it was written")
        except FileNotFoundError:
            lines.append(f"{name} is missing")
        except OSError as error:
            lines.append(f"{name} cannot be read ({error.strerror or error})")
    return lines


def write(folder: str | os.PathLike, parts: Iterable[str] = ()) -> None:
    """Writes the digests of what is in `folder` into its `checksums.json`.

    Raises:
      OSError: a file cannot be read or written.
    """
    content = json.dumps(digests(folder, parts), indent=1) + "\n"
    (Path(folder) / CHECKSUMS_FILE).write_text(content, encoding="utf-8")


def check(folder: str | os.PathLike, parts: Iterable[str] = ()) -> list[str] | None:
    """Verifies a folder by its own `checksums.json`; None if it has none.

    Returns:
      As `verify`; a `checksums.json` that cannot be read is a line of its own.
    """
    path = Path(folder) / CHECKSUMS_FILE
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(recorded, dict) or not recorded:
            raise ValueError("it holds no checksums")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return [f"{CHECKSUMS_FILE} cannot be read ({error})"]
    return verify(folder, recorded, parts)
