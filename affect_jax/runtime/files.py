"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import disk

REPORT_FOLDER = "report"  # in a workdir: stored predictions, tables and figures


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part of it.

    Raises:
        OSError: the file cannot be written; the message says which, and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _explained(path), open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def swap_folder(new: Path, folder: Path) -> None:
    """Puts a folder that was written whole, on the same disk, in the place of an older one."""
    if not folder.exists():
        new.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Adds to an operating system's error which file it was and what can be done about it."""
    try:
        with disk.explained(path):
            yield
    except OSError as error:
        advice = {
            errno.EACCES: "no permission to write there; choose another --workdir",
            errno.EROFS: "the file system is read-only; choose another --workdir",
        }.get(error.errno)
        if advice is None:
            raise
        raise OSError(error.errno, f"cannot write {path}: {advice}") from error
