"""Compare the order of two lists of the same records."""

from collections.abc import Sequence

import numpy as np


def first_moved(then: Sequence[str], now: Sequence[str]) -> str:
    """Return a text about the first place where the names differ."""
    at = next(i for i, (a, b) in enumerate(zip(then, now, strict=True)) if a != b)
    return f"the same records in another order: place {at} has {now[at]!r}, where {then[at]!r} was"


def places(then: Sequence[str], now: Sequence[str]) -> np.ndarray:
    """Return where each record of `then` is in `now`, int64 [n]; the same names in any order.

    Records of one name, as several faces of an image, keep their order.
    """
    left: dict[str, list[int]] = {}
    for place in range(len(now) - 1, -1, -1):
        left.setdefault(now[place], []).append(place)
    return np.array([left[name].pop() for name in then], np.int64)


def moved_frame(tracks: np.ndarray, moved_to: np.ndarray) -> int:
    """Return the first record that is now before the one it followed in its video; 0: none.

    Args:
      tracks: int [n] video of each record, -1 = none.
      moved_to: of `places`.
    """
    last: dict[int, int] = {}
    for i, (track, place) in enumerate(zip(tracks.tolist(), moved_to.tolist(), strict=True)):
        if track >= 0 and place < last.get(track, -1):
            return i
        last[track] = place
    return 0
