"""Memory of batches that is used again once nobody looks at it any more.

Fresh memory is cleared by the system page by page; for a batch of pictures that takes as long as
a colour change. A buffer comes back when the array that was handed out, and every view of it, is
gone.
"""

import math
import weakref

import numpy as np


class Buffers:
    """Gives out uint8 arrays; thread-safe. Copies for other processes start empty."""

    def __init__(self) -> None:
        self._idle: dict[int, list[bytearray]] = {}

    def __reduce__(self):
        return Buffers, ()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape with any content."""
        size = math.prod(shape)
        idle = self._idle.setdefault(size, [])
        try:
            buffer = idle.pop()
        except IndexError:
            buffer = bytearray(size)
        # All views lead back to this array, since its memory belongs to something else.
        whole = np.frombuffer(buffer, np.uint8)
        weakref.finalize(whole, idle.append, buffer).atexit = False
        return whole.reshape(shape)
