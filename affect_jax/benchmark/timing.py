"""Timing of predictions: what each side of `benchmark infer` provides, and how it is timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_SECONDS = 0.5  # of a measurement, about


class Engine(NamedTuple):
    """One side's way to predict.

    Attributes:
      place: uint8 [B, S, S, 3] RGB -> the same where the engine wants it.
      predict: placed images -> outputs, which need not be ready.
      wait: outputs -> None, once they are ready.
    """

    place: Callable[[np.ndarray], Any]
    predict: Callable[[Any], Any]
    wait: Callable[[Any], None]


class Paced:
    """Predictions that can be timed and profiled; they are compiled when this is made.

    Args:
      step: one batch -> outputs.
      engine: whose `wait` is used: after every step of a single image, else after the last one.
      images: of a step.
      clock: a key of `CLOCKS`.
      steps: of a measurement; 0: as many as take about a second.
    """

    def __init__(
        self, step: Callable[[], Any], engine: Engine, images: int, clock: str, steps: int = 0
    ):
        self._step, self._wait, self._images = step, engine.wait, images
        self._clock, self._steps = CLOCKS[clock], steps
        self.take(1)

    def take(self, steps: int) -> None:
        """Predict batches and wait until the device has done them."""
        for _ in range(steps):
            last = self._step()
            if self._images == 1:
                self._wait(last)
        self._wait(last)

    def __call__(self) -> float:
        """Return images a second."""
        if self._steps != 1:  # a device's clock and caches need a few short ones
            start = self._clock()
            self.take(2)
            self._steps = self._steps or max(round(2 * _SECONDS / (self._clock() - start)), 1)
        start = self._clock()
        self.take(self._steps)
        return self._steps * self._images / (self._clock() - start)
