"""How far a prediction is: files, frames, faces, frames a second and the time that is left."""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from affect_jax.inference.inputs import Item
from affect_jax.runtime import duration

_INTERVALS = {True: 0.2, False: 10.0}  # seconds between lines: on a terminal, elsewhere
_WIDTH = 78


class PredictionProgress:
    """One line that is replaced on a terminal; a line every ten seconds elsewhere.

    The time left is estimated from the bytes of the files that are done.

    Args:
      items: all of them.
      stream: where to show it; default: stderr.
      clock: seconds, monotonic; replaced in tests.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._sizes = [max(_size(item), 1) for item in items]
        self._total = sum(self._sizes)
        self._stream = sys.stderr if stream is None else stream
        self._replaces = self._stream.isatty()
        self._clock = clock
        self._start = self._shown = clock()
        self._place, self._before, self._from = 0, 0, math.nan
        self._frames = self._faces = self._before_start = 0

    def start_at(self, place: int) -> None:
        """Note that the items before `place` were done earlier."""
        self._before += sum(self._sizes[self._place : place])
        self._place = place

    def update(self, place: int, part: float, frames: int, faces: int) -> None:
        """Count frames and faces more; the fraction `part` of the item `place` is done."""
        if place > self._place:
            self.start_at(place)
        self._frames, self._faces = self._frames + frames, self._faces + faces
        size = self._sizes[place] if place < len(self._sizes) else 0
        done = (self._before + part * size) / max(self._total, 1)
        now = self._clock()
        if math.isnan(self._from):  # the time before was compilation
            self._from, self._start, self._before_start = done, now, self._frames
        elif now - self._shown >= _INTERVALS[self._replaces]:
            self._shown = now
            self._show(self._line(place, done, now))

    def log(self, message: str) -> None:
        """Print a message on a line of its own."""
        clear = f"\r{'':{_WIDTH}}\r" if self._replaces else ""
        print(f"{clear}{message}", file=self._stream, flush=True)

    def close(self) -> None:
        """Remove the line from a terminal."""
        if self._replaces:
            print(f"\r{'':{_WIDTH}}\r", end="", file=self._stream, flush=True)

    def _line(self, place: int, done: float, now: float) -> str:
        elapsed, gained = now - self._start, done - self._from
        rate = (self._frames - self._before_start) / elapsed if elapsed > 0 else 0.0
        left = duration((1 - done) * elapsed / gained) if gained > 0 else "?"
        return (
            f"file {min(place + 1, len(self._sizes))}/{len(self._sizes)} ({100 * done:.0f}%), "
            f"{self._frames} frames, {self._faces} faces, {rate:.1f} frames/s, ETA {left}"
        )

    def _show(self, line: str) -> None:
        if self._replaces:
            print(f"\r{line[:_WIDTH]:{_WIDTH}}", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)


def _size(item: Item) -> int:
    try:
        return os.path.getsize(item.path)
    except (OSError, ValueError):
        return 0
