"""Worker processes that are watched, so that no side waits for a dead one.

grain notices most deaths of a worker by itself, but a read that the death interrupts can block
forever, and a worker whose trainer was killed would wait forever to hand over its batch.
"""

import contextlib
import multiprocessing
import os
import queue
import re
import shutil
import signal
import threading
import time
import weakref
from typing import Any

import cv2
import grain.python as grain

from data_pipelines.schema import DataError

_NAME = "grain-process-prefetch"  # how grain names its worker processes
# grain does not tell which worker serves which iterator, and training and evaluation iterate at the
# same time: a worker belongs to the iterator that sees it first. Only running workers are kept.
_claimed: weakref.WeakSet[multiprocessing.process.BaseProcess] = weakref.WeakSet()
_POLL_S = 0.5
_GRACE_S = 3.0  # for grain's own report of a death
_SHARED_MEMORY = "/dev/shm"  # through which workers hand over batches
_ROOM = (
    "make it larger (docker run --shm-size=8g), set data.num_workers=0, or lower data.prefetch or "
    "batch_size"
)


class WorkerDiedError(DataError):
    """A worker process ended before its time."""


def initialise(worker: int, count: int) -> None:
    """Set up a worker: one OpenCV thread; exit when the parent has ended."""
    cv2.setNumThreads(1)
    # The parent may have been killed before this line.
    started_by, parent = multiprocessing.parent_process(), os.getppid()

    def leave_with_parent() -> None:
        while os.getppid() == parent and (started_by is None or started_by.is_alive()):
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _full_memory() -> str:
    """Return what to do when shared memory, small in containers, is full."""
    size = ""
    with contextlib.suppress(OSError):
        size = f" of {shutil.disk_usage(_SHARED_MEMORY).total / 1e6:.0f} MB"
    return f"shared memory ({_SHARED_MEMORY}{size}) is full; {_ROOM}"


class WatchedIterator:
    """Iterate over a data set with worker processes, in a thread of its own.

    Args:
      data: a grain data set that starts worker processes when iterated.

    Raises (from `next`):
      WorkerDiedError: a worker process ended unexpectedly.
    """

    def __init__(self, data: grain.IterDataset):
        self._workers: list[multiprocessing.process.BaseProcess] = []
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._pump, args=(data,), daemon=True)
        self._thread.start()

    def _pump(self, data: grain.IterDataset) -> None:
        iterator: grain.DatasetIterator | None = None
        try:
            iterator = iter(data)
            while not self._closing.is_set():
                self._put((next(iterator), None))
        except BaseException as e:  # raised again in the thread that waits
            self._put((None, e))
        if iterator is not None:
            iterator.close()

    def _put(self, item: Any) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=_POLL_S)
                return

    def __iter__(self) -> "WatchedIterator":
        return self

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error
        item: Any = None
        patience = _GRACE_S
        while item is None:
            try:
                item = self._ready.get(timeout=_POLL_S)
            except queue.Empty:
                dead = self._dead()
                patience = patience - _POLL_S if dead else _GRACE_S
                if patience <= 0:
                    item = (None, self._died(dead))
        value, self._error = item
        dead = self._dead()
        if self._error is None:
            return value
        if "No space left on device" in str(self._error):
            self._error = WorkerDiedError(_full_memory())
            raise self._error
        reported = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(self._error))
        if reported:
            self._error = self._died(dead or [int(reported[1])])
        raise self._error

    def _died(self, dead: list[int]) -> WorkerDiedError:
        codes = ", ".join(map(str, dead))
        if -signal.SIGBUS in dead:
            return WorkerDiedError(
                f"a data worker process ended (exit code {codes}): {_full_memory()}"
            )
        return WorkerDiedError(
            f"a data worker process ended unexpectedly (exit code {codes}; -9 is often a lack of "
            "memory). Start again to resume from the last checkpoint; lower data.num_workers or "
            "data.prefetch to need less memory"
        )

    def _dead(self) -> list[int]:
        """Return the exit codes of workers that have failed."""
        for process in multiprocessing.active_children():
            if process not in _claimed and process.name.startswith(_NAME):
                _claimed.add(process)
                self._workers.append(process)
        codes = [p.exitcode for p in self._workers]
        return [c for c in codes if c not in (None, 0)]

    def close(self) -> None:
        """Stop the workers; kill those that do not stop."""
        self._dead()  # notes workers not seen so far
        self._closing.set()
        self._thread.join(timeout=2 * _GRACE_S)
        for process in self._workers:
            if process.is_alive():
                process.kill()
                process.join()
