"""Files and folders that are written atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_pipelines import disk

_ADVICE = {
    errno.EACCES: "no permission to write there; choose another --workdir",
    errno.EROFS: "the file system is read-only; choose another --workdir",
}


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new.

    Raises:
        OSError: the file cannot be written; the message says which, and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explained(path), open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends.

    If the block raises, the new folder is removed and an older one stays as it was.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Add to an `OSError` which file could not be written and what to do about it."""
    try:
        with disk.explained(path):
            yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        message = f"cannot write {path}: {_ADVICE[error.errno]}"
        raise OSError(error.errno, message) from error
