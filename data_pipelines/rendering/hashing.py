"""Counter-based random numbers: a value is a pure function of its key, with no state to carry.

Library generators may change their streams between releases; this arithmetic cannot, so that
labels drawn today are the labels of any later machine.
"""

from collections.abc import Sequence

import numpy as np

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def _mix_int(x: int) -> int:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _mix(x: np.ndarray) -> np.ndarray:
    """The same on a uint64 array."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


def fold(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers, or equally long vectors of them, to keys: uint64 [n] (n = 1 for scalars)."""
    key: int | np.ndarray = 0
    for part in parts:
        if isinstance(key, int) and not isinstance(part, np.ndarray):
            key = _mix_int((key * _MIX_1 + int(part) + _GOLDEN) & _MASK)
            continue
        key = np.atleast_1d(np.asarray(key, np.uint64))
        part = np.atleast_1d(np.asarray(part)).astype(np.uint64)
        key = _mix(key * np.uint64(_MIX_1) + part + np.uint64(_GOLDEN))
    return np.array([key], np.uint64) if isinstance(key, int) else key


_COUNTERS = np.arange(1, 513, dtype=np.uint64) * np.uint64(_GOLDEN)


def uniforms(keys: np.ndarray, count: int) -> np.ndarray:
    """float64 [n, count], uniform in (0, 1), never exactly 0 or 1; count is at most 512."""
    bits = _mix(keys[:, None] + _COUNTERS[:count]) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def to_normals(u: np.ndarray) -> np.ndarray:
    """Standard normal numbers from uniform ones, float64 [..., even] (Box and Muller)."""
    half = u.shape[-1] // 2
    radius = np.sqrt(-2.0 * np.log(u[..., :half]))
    angle = 2.0 * np.pi * u[..., half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def draw(
    keys: Sequence[np.ndarray], counts: Sequence[tuple[int, int]], limit: float = 2.2
) -> list[tuple[list[float], list[float]]]:
    """Of each key (uint64 [1]): as many uniform numbers, and normal ones cut at `limit`, as its
    pair in `counts` says (normal: an even number)."""
    u = uniforms(np.concatenate(keys), max(flat + bell for flat, bell in counts))
    rows = list(zip(u, counts, strict=True))
    # The radii of all normal numbers, then their angles: one transformation for the lot.
    radii = [row[flat : flat + bell // 2] for row, (flat, bell) in rows]
    angles = [row[flat + bell // 2 : flat + bell] for row, (flat, bell) in rows]
    bells = to_normals(np.concatenate([*radii, *angles]))
    bells = np.minimum(np.maximum(bells, -limit), limit).tolist()
    drawn, start, middle = [], 0, len(bells) // 2
    for row, (flat, bell) in rows:
        stop = start + bell // 2
        normal = bells[start:stop] + bells[middle + start : middle + stop]
        drawn.append((row[:flat].tolist(), normal))
        start = stop
    return drawn
