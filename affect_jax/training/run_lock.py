"""A lock on a workdir: one training at a time, released when its process ends.

Evaluations and reports read a workdir without it.
"""

import contextlib
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from affect_jax.errors import UserError
from affect_jax.runtime import parallel
from data_pipelines import locks

LOCK_FILE = ".train.lock"
_LOOK_S = 0.1  # a process that only looks whether the lock is held has it for a moment


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Hold the lock of a workdir, which is made, on the main process.

    Raises:
      UserError: on every process of the job, if another process trains there.
    """
    with contextlib.ExitStack() as stack:
        parallel.from_main(lambda: _take(workdir, stack))
        yield


def _take(workdir: pathlib.Path, stack: contextlib.ExitStack) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    # Opened without emptying it: it names the owner.
    file = open(workdir / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115 (closed by the stack)
    stack.callback(file.close)
    mine = locks.take(file)
    if not mine:
        time.sleep(_LOOK_S)
        mine = locks.take(file)
    if not mine:
        file.seek(0)
        owner = file.read(200).strip() or "another process"
        raise UserError(
            f"another process trains in {workdir} ({owner}); wait until it has ended, stop it, or "
            "choose another --workdir"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()


def is_held(workdir: pathlib.Path) -> bool:
    """Return whether a process trains in a workdir."""
    return locks.is_held(workdir / LOCK_FILE)
