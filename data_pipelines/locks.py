"""File locks that are released when the process that holds them ends."""

import errno
import fcntl
import logging
import os
from typing import IO

log = logging.getLogger(__name__)

# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def take(file: IO, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False if it is already locked.

    On a file system without locks, log a warning and return True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: the file system has no locks; do not start a second process", file.name)
    return True


def is_held(path: str | os.PathLike) -> bool:
    """Return whether a process has locked a file, which may not exist."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
