"""How fast a run goes and how far it is: throughput and progress bar."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Throughput:
    """Images per second and fraction of time waiting for input, between log lines.

    The first step, which holds the compilation, counts in neither. Steps are dispatched
    asynchronously: call `snapshot` after the step's loss has been fetched.

    Args:
        batch_size: the global batch size.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, batch_size: int, *, clock: Callable[[], float] = time.perf_counter):
        self._batch_size = batch_size
        self._clock = clock
        self._compiled = False
        self._start = clock()
        self._steps = 0
        self._waited = self._paused = 0.0

    def _restart(self) -> None:
        self._start = self._clock()
        self._steps = 0
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wrap the call that fetches the next batch."""
        begin = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - begin

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Wrap work other than training, such as an evaluation pass."""
        begin = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - begin

    def step(self) -> None:
        """Count one training step. After the first one the window starts afresh."""
        if self._compiled:
            self._steps += 1
        else:
            self._compiled = True
            self._restart()

    def snapshot(self) -> dict[str, float]:
        """End the window and start the next.

        Returns:
            `images_per_second` (of the whole run, all devices) and `input_wait_share` in [0, 1];
            both NaN if the window held no step but the first.
        """
        elapsed = self._clock() - self._start - self._paused
        steps, waited = self._steps, self._waited
        self._restart()
        if steps == 0 or elapsed <= 0:
            return {"images_per_second": math.nan, "input_wait_share": math.nan}
        return {
            "images_per_second": steps * self._batch_size / elapsed,
            "input_wait_share": min(waited / elapsed, 1.0),
        }


class Progress:
    """A progress bar on a terminal; a plain line every `interval` seconds elsewhere.

    Args:
        total_steps: the step at which the run ends.
        start_step: the step at which it starts (0, or the checkpoint's).
        is_main: False in all processes but the first, which show nothing.
        stream: where to show it; default: stderr.
        interval: seconds between plain lines.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        is_main: bool = True,
        *,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._step = total_steps, start_step
        self._is_main, self._interval, self._clock = is_main, interval, clock
        self._stream = sys.stderr if stream is None else stream
        self._loss: float | None = None
        self._rate: float | None = None
        self._first: tuple[int, float] | None = None
        self._last_line = clock()
        self._bar = None
        if is_main and self._stream.isatty():
            self._bar = _make_bar(total_steps, start_step, self._stream)

    def update(
        self, step: int, *, loss: float | None = None, images_per_second: float | None = None
    ) -> None:
        """Show that `step` steps are done; values not given stay as last shown."""
        if not self._is_main:
            return
        self._step = step
        self._loss = _finite(loss, self._loss)
        self._rate = _finite(images_per_second, self._rate)
        now = self._clock()
        if self._first is None:  # the time before was compilation, and would spoil the ETA
            self._first = (step, now)
        if self._bar is not None:
            self._bar.set_description_str("train", refresh=False)
            self._bar.set_postfix_str(self._details(now), refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_line >= self._interval or step >= self._total:
            self._last_line = now
            share = 100 * step // max(self._total, 1)
            line = f"step {step}/{self._total} ({share}%), {self._details(now)}"
            print(line, file=self._stream, flush=True)

    def status(self, text: str) -> None:
        """Name what happens now when it is not training, such as `validation`."""
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=True)

    def log(self, message: str) -> None:
        """Print a message above the bar."""
        if self._bar is not None:
            self._bar.write(message, file=self._stream)
        elif self._is_main:
            print(message, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar on the screen and move on to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _details(self, now: float) -> str:
        parts = []
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if self._rate is not None:
            parts.append(f"{self._rate:.{0 if self._rate >= 100 else 1}f} images/s")
        left = self._seconds_left(now)
        parts.append("ETA " + ("?" if left is None else duration(left)))
        return ", ".join(parts)

    def _seconds_left(self, now: float) -> float | None:
        """Return the time to the end at the mean pace since the first step, if known."""
        step, then = self._first or (self._step, now)
        if self._step <= step or now <= then:
            return None
        return (self._total - self._step) * (now - then) / (self._step - step)


def _make_bar(total: int, initial: int, stream: TextIO) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        # tqdm's watchdog thread has no use here, and threads make forked input workers risky.
        monitor_interval = 0

    return Bar(
        total=total,
        initial=initial,
        desc="compiling",
        file=stream,
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {elapsed}{postfix}",
    )


def _finite(value: Any, otherwise: float | None) -> float | None:
    number = None if value is None else float(value)
    return otherwise if number is None or math.isnan(number) else number


def duration(seconds: float) -> str:
    """Return `1:15` for 75 and `1:01:15` for 3675."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
