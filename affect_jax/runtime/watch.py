"""Watching the processes of a job: when one is lost, the others stop and say so.

A collective with a lost process would wait for ever, or until the runtime aborts without a word of
what to do. Every process writes a beat into the job's key-value store. Process 0 reads all of them
and writes a verdict, which the others read. If process 0 is lost, the store is too, and JAX aborts
the others at once.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import jax

log = logging.getLogger(__name__)

EXIT_STATUS = 1
_FOLDER = "affect_jax/processes"
_VERDICT = "affect_jax/verdict"
_ENDED = "ended"  # in place of a beat: without an error
_FAILED = "failed"
_PERIOD = 2.0  # seconds between beats
_GRACE = 3.0  # seconds in which an error that all processes share may end them by itself


class Store(Protocol):
    """The part of JAX's key-value store that is used."""

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        """Set `key`."""

    def key_value_try_get(self, key: str) -> str:
        """Return the value of `key`; raise if there is none."""

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        """Return all keys and values below `key`."""


class Judge:
    """Finds lost processes in their beats.

    Args:
      count: processes of the job.
      timeout: seconds without a new beat after which a process is lost.
    """

    def __init__(self, count: int, timeout: float):
        self._timeout = timeout
        self._last: dict[int, tuple[str, float]] = dict.fromkeys(range(count), ("", -1.0))

    def verdict(self, beats: dict[int, str], now: float) -> str:
        """Return what ends the job, or "".

        Args:
          beats: process -> its newest beat, or how it ended.
          now: seconds of any clock.
        """
        for process, (last, since) in self._last.items():
            beat = beats.get(process, "")
            if beat == _FAILED:
                return f"process {process} ended with an error; its output says why"
            if beat != last or since < 0:
                self._last[process] = (beat, now)
            elif beat != _ENDED and now - since > self._timeout:
                return f"process {process} has not answered for {self._timeout:.0f} s"
        return ""


@contextlib.contextmanager
def over_processes(timeout: float) -> Iterator[None]:
    """Watch the other processes of the job in the background, inside of a `with` block.

    An error in the block is told to the others. It does nothing for a process of its own.

    Args:
      timeout: seconds after which a process that does not answer is lost.
    """
    store = _store()
    if store is None:
        yield
        return
    watcher = _Watcher(store, timeout)
    watcher.start()
    try:
        yield
    except BaseException:
        watcher.end(_FAILED)
        raise
    watcher.end(_ENDED)


def _store() -> Store | None:
    if jax.process_count() == 1:
        return None
    from jax._src import distributed  # the store has no public name

    return distributed.global_state.client


class _Watcher(threading.Thread):
    def __init__(self, store: Store, timeout: float, leave: Callable[[], None] | None = None):
        super().__init__(name="affect_jax-watch", daemon=True)
        self._store, self._done = store, threading.Event()
        self._rank, self._leave = jax.process_index(), leave or _leave
        self._judge = Judge(jax.process_count(), timeout)

    def run(self) -> None:
        beat, failed = 0, False
        while not self._done.wait(_PERIOD):
            beat += 1
            try:
                self._say(str(beat))
                verdict = self._verdict()
            except Exception as error:
                # Without the store JAX itself ends the process.
                if not failed:
                    log.warning("the processes of the job cannot be watched: %s", error)
                failed = True
                continue
            if verdict:
                # Said at once: JAX ends this process when the store is lost with process 0.
                log.error(
                    "%s. This process stops too. Start all processes again with the same command; "
                    "the run resumes from the last checkpoint",
                    verdict,
                )
                wait = _GRACE if self._rank else _GRACE + 2 * _PERIOD  # the others read it too
                if not self._done.wait(wait):
                    self._leave()
                return

    def end(self, status: str) -> None:
        """Stop watching and tell the others how this process ended."""
        self._done.set()
        # A beat that has begun must not land after the status, or this process seems to be lost.
        if self.is_alive():
            self.join(_GRACE)
        with contextlib.suppress(Exception):
            self._say(status)
            if status == _FAILED and self._rank == 0:
                text = "process 0 ended with an error; its output says why"
                self._store.key_value_set(_VERDICT, text, allow_overwrite=True)

    def _say(self, text: str) -> None:
        self._store.key_value_set(f"{_FOLDER}/{self._rank}", text, allow_overwrite=True)

    def _verdict(self) -> str:
        if self._rank:
            with contextlib.suppress(Exception):
                return self._store.key_value_try_get(_VERDICT)
            return ""
        found = self._store.key_value_dir_get(_FOLDER)
        beats = {int(key.rsplit("/", 1)[1]): value for key, value in found}
        verdict = self._judge.verdict(beats, time.monotonic())
        if verdict:
            self._store.key_value_set(_VERDICT, verdict, allow_overwrite=True)
        return verdict


def _leave() -> None:
    """End this process at once: its main thread may wait for a lost one for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STATUS)
