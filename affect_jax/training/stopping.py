"""Ending a run early: signals become a flag that the training loop reads."""

import contextlib
import logging
import signal
import threading
import types
from collections.abc import Iterator

import jax

from affect_jax.runtime import parallel

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop, has saved its state and can be resumed."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"stopped at step {step}; run the same command to resume")
        self.exit_status = 128 + signal_number


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag; a second signal acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Handle the signals inside a `with` block, in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: types.FrameType | None) -> None:
            if self.received is not None:
                signal.signal(number, previous[signal.Signals(number)])
                raise KeyboardInterrupt
            self.received = number
            log.info("stopping after this step; repeat the signal to stop at once")

        for number in previous:
            signal.signal(number, handle)
        try:
            yield self
        finally:
            for number, old in previous.items():
                signal.signal(number, old)

    def requested(self, step: int, every: int) -> bool:
        """Return whether to stop after `step`; the same on all processes.

        To agree costs a collective, so several processes do it only every `every` steps.
        """
        if jax.process_count() == 1:
            return self.received is not None
        return step % every == 0 and parallel.any_process(self.received is not None)

    def stopped(self, step: int) -> Stopped:
        """Return the exception that ends the run after `step`."""
        return Stopped(step, self.received or signal.SIGTERM)
