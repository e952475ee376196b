"""Ending a run early: signals become a flag that the training loop reads."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop, has saved its state and can be resumed."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.exit_status = 128 + signal_number


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag that the loop reads; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {}

        def handle(number: int, frame: Any) -> None:
            if self.received is not None:
                signal.signal(number, previous[number])
                raise KeyboardInterrupt
            self.received = number
            log.info("stopping after this step; once more to stop at once")

        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
        try:
            yield self
        finally:
            for number, old in previous.items():
                signal.signal(number, old)
