"""Recognise a full disk in the errors of several libraries, and say what to do."""

import contextlib
import errno
import re
from collections.abc import Iterator

# NumPy and libraries written in C++ (TensorStore, ArrayRecord) pass on only the text.
_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|\b\d+ requested and \d+ written\b", re.IGNORECASE
)
_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = "free some space"


class DiskFullError(OSError):
    """A file could not be written because the disk is full; the message names it."""

    def __str__(self) -> str:
        return str(self.strerror)


def is_full(error: BaseException | None) -> bool:
    """Return whether an error, or a cause of it, is a full disk or an exceeded quota."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in _NUMBERS or _TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def advice(error: BaseException, place: object = "") -> str:
    """Return one line about a full disk: what could not be written, and what to do.

    Args:
      error: for which `is_full` is true; if it already gives advice, that is repeated.
      place: file or folder that could not be written, if the error does not name it.
    """
    own = getattr(error, "strerror", None) or str(error)
    if _ADVICE in own:
        return own
    place = getattr(error, "filename", None) or place
    where = f"cannot write {place}: " if place else ""
    return f"{where}the disk is full or the quota is used up; {_ADVICE} and run the command again"


@contextlib.contextmanager
def explained(place: object = "") -> Iterator[None]:
    """Turn errors of a full disk, from any library, into one that says what to do.

    `place` is the file or folder that is written, named if the error does not name one.

    Raises:
      DiskFullError: with the original error as its cause.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_full(error):
            raise
        raise DiskFullError(errno.ENOSPC, advice(error, place)) from error
