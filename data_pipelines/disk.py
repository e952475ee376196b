"""A full disk: how it shows in the errors of different libraries, and what to tell the user."""

import errno
import re

# Libraries written in C++ (TensorStore, ArrayRecord) and NumPy pass on the text alone.
_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|\b\d+ requested and \d+ written\b", re.IGNORECASE
)
_NUMBERS = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or one that led to it, comes from a full disk or used-up quota."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) in _NUMBERS or _TEXT.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def advice(error: BaseException, place: object = "") -> str:
    """One line about a full disk: which file or folder, and what to do.

    Args:
      error: for which `is_full` is true.
      place: what could not be written, where the error does not name it.
    """
    named = place or getattr(error, "filename", None) or getattr(error, "filename2", None)
    if not named and isinstance(error, UserWarning | OSError) and error.strerror is None:
        named = ""
    where = f"cannot write {named}: " if named else ""
    return f"{where}the disk is full or your quota is used up; free some space and run it again"
