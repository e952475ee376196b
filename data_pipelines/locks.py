"""File locks that go with the process that holds them, however it ends."""

import errno
import fcntl
import logging
import os
from typing import IO

log = logging.getLogger(__name__)

# What file systems without locks answer with.
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def take(file: IO, *, wait: bool = False) -> bool:
    """Locks an open file until it is closed; False where another process has it.

    On a file system without locks the answer is True, and a warning says so.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NONE:
            raise
        log.warning("%s: the file system keeps no locks; start no second process", file.name)
    return True


def is_held(path: str | os.PathLike) -> bool:
    """Whether a process has the lock of a file, which need not exist."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
