"""One training at a time in a workdir: a lock that goes with the process that holds it.

Evaluations and reports read a workdir without it.
"""

import contextlib
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from affect_jax.errors import UserError
from affect_jax.runtime import parallel
from data_pipelines import locks

log = logging.getLogger(__name__)

LOCK_FILE = ".train.lock"
_LOOK_S = 0.1  # one that only looks whether the lock is held has it for a moment


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a workdir, which is made if it does not exist; the main process does.

    Raises:
      UserError: on every process of the job, if another training is at work there.
    """
    with contextlib.ExitStack() as stack:
        parallel.from_main(lambda: _take(workdir, stack))
        yield


def _take(workdir: pathlib.Path, stack: contextlib.ExitStack) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    # Not emptied before it is ours: it says whose it is.
    file = open(workdir / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115 (closed by the stack)
    stack.callback(file.close)
    if not locks.take(file):
        time.sleep(_LOOK_S)
        if not locks.take(file):
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise UserError(
                f"a training is at work in {workdir} ({owner}); wait until it has ended, stop it, "
                "or choose another --workdir"
            )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()


def is_held(workdir: pathlib.Path) -> bool:
    """Returns whether a training is at work in a workdir."""
    return locks.is_held(workdir / LOCK_FILE)
