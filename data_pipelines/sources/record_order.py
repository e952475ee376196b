"""Compare the order of two lists of the same records."""

from collections.abc import Sequence

import numpy as np


def number(then: Sequence[str], now: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return two lists of strings as int64 numbers; equal strings have equal numbers."""
    numbers: dict[str, int] = {}
    first, second = (
        np.fromiter((numbers.setdefault(s, len(numbers)) for s in side), np.int64, len(side))
        for side in (then, now)
    )
    return first, second


def places(
    then: np.ndarray, now: np.ndarray, contents: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return where each record of `then` is in `now`, int64 [n].

    Records of one name, as several faces of an image, are told apart by their contents: first those
    that are the same in all columns, then the others in the order of their contents.

    Args:
      then: int64 [n] number of each record's name.
      now: int64 [n], the same numbers in any order.
      contents: of further columns: a number of each record then and now, the most telling first.
    """
    found = np.empty(len(then), np.int64)
    found[np.argsort(then, kind="stable")] = np.argsort(now, kind="stable")
    repeated = np.bincount(then) > 1
    a, b = np.flatnonzero(repeated[then]), np.flatnonzero(repeated[now])
    if not len(a):
        return found
    keys = [np.concatenate([old[a], new[b]]) for old, new in [(then, now), *contents]]
    order = np.lexsort(keys[::-1])
    steps = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(steps)])
    old, new = ranks[: len(a)], ranks[len(a) :]
    _, same_old, same_new = np.intersect1d(
        _distinct(old, len(ranks)), _distinct(new, len(ranks)), return_indices=True
    )
    found[a[same_old]] = b[same_new]
    found[a[_rest(old, same_old)]] = b[_rest(new, same_new)]
    return found


def _distinct(ranks: np.ndarray, size: int) -> np.ndarray:
    """Return numbers of which none is repeated: of the rank and of how often it came before."""
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]
    result = np.empty(len(ranks), np.int64)
    result[order] = ordered * size + np.arange(len(ranks)) - np.searchsorted(ordered, ordered)
    return result


def _rest(ranks: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Return the positions that are not done, by rank."""
    left = np.delete(np.arange(len(ranks)), done)
    return left[np.argsort(ranks[left], kind="stable")]


def moved_frame(names: np.ndarray, tracks: np.ndarray, moved_to: np.ndarray) -> int | None:
    """Return the first record whose place in its video another image had, or None.

    Several faces of an image may change places.

    Args:
      names: int64 [n] number of each record's name.
      tracks: int [n] video of each record, -1 = none.
      moved_to: of `places`.
    """
    known = np.flatnonzero(tracks >= 0)
    then = known[np.argsort(tracks[known], kind="stable")]
    now = known[np.lexsort((moved_to[known], tracks[known]))]
    differing = np.flatnonzero(names[then] != names[now])
    return int(now[differing[0]]) if len(differing) else None
