"""Checksums of the files below a folder, to detect damage on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKSUMS_FILE = "checksums.json"
_OWN = "sha256"  # key of a record's digest of itself
EDITED = f"it was edited, or is damaged; if this was your edit, remove its key {_OWN}"


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with a digest of what it says."""
    return {**record, _OWN: _digest_of(record)}


def is_as_signed(record: Mapping[str, Any]) -> bool:
    """Return whether a record says what it said when it was `signed`, if it was."""
    return record.get(_OWN) in (None, _digest_of(record))


def _digest_of(record: Mapping[str, Any]) -> str:
    said = {key: value for key, value in record.items() if key != _OWN}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def digests(folder: Path, parts: Sequence[str] = ("",)) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder`.

    Args:
      folder: hidden files, and a `checksums.json` directly in it, are left out.
      parts: only these files of it, and files in these folders; default: all.

    Returns:
      path relative to `folder`, with "/" on every system -> hexadecimal digest, sorted by path.

    Raises:
      OSError: a file cannot be read.
    """
    starts = [folder / part for part in parts]
    files = [f for s in starts for f in ([s] if s.is_file() else s.rglob("*")) if f.is_file()]
    names = {f.relative_to(folder).as_posix(): f for f in files if not f.name.startswith(".")}
    names.pop(CHECKSUMS_FILE, None)
    return {name: _digest(names[name]) for name in sorted(names)}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path, recorded: Mapping[str, str], parts: Sequence[str] = ("",)) -> list[str]:
    """Compare the files of a folder with what `digests` gave; other files are ignored.

    Returns:
      A line for each file that is missing, cannot be read or holds other bytes; empty if none.
    """
    lines = []
    for name, digest in sorted(recorded.items()):
        if not any(not part or name == part or name.startswith(f"{part}/") for part in parts):
            continue
        try:
            if _digest(folder / name) != digest:
                lines.append(f"{name} is not as it was written")
        except FileNotFoundError:
            lines.append(f"{name} is missing")
        except OSError as error:
            lines.append(f"{name} cannot be read ({error.strerror or error})")
    return lines


def write(folder: Path, parts: Sequence[str] = ("",)) -> None:
    """Write the digests of a folder's files into its `checksums.json`.

    Errors of writing (OSError) are not caught.
    """
    content = json.dumps(digests(folder, parts), indent=1) + "\n"
    (folder / CHECKSUMS_FILE).write_text(content, encoding="utf-8")


def check(folder: Path, parts: Sequence[str] = ("",)) -> list[str] | None:
    """Verify a folder by its own `checksums.json`; None if it has none.

    Returns:
      As `verify`; a `checksums.json` that cannot be read is a line of its own.
    """
    try:
        recorded = json.loads((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        if not isinstance(recorded, dict) or not recorded:
            raise ValueError("it holds no checksums")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return [f"{CHECKSUMS_FILE} cannot be read ({error})"]
    return verify(folder, recorded, parts)
