"""Counter-based random numbers: each value is a pure function of its key.

Library generators may change their streams between releases; this arithmetic cannot, so that
labels drawn today are the labels of any later machine.
"""

import functools
from collections.abc import Sequence

import numpy as np

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1
# The same numbers as arrays' elements: NumPy converts a plain int anew each time.
_U64_GOLDEN, _U64_MIX_1, _U64_MIX_2 = (np.uint64(x) for x in (_GOLDEN, _MIX_1, _MIX_2))
_U64_30, _U64_27, _U64_31, _U64_11 = (np.uint64(x) for x in (30, 27, 31, 11))


def _mix_int(x: int) -> int:
    """Apply SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply the same to a uint64 array."""
    x = x ^ (x >> _U64_30)
    x *= _U64_MIX_1
    x ^= x >> _U64_27
    x *= _U64_MIX_2
    x ^= x >> _U64_31
    return x


def extend(key: int, *parts: int) -> int:
    """Hash further integers into a key."""
    for part in parts:
        key = _mix_int((key * _MIX_1 + part + _GOLDEN) & _MASK)
    return key


def fold(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers, or equally long vectors of them, to keys: uint64 [n].

    n = 1 for scalars.
    """
    key: int | np.ndarray = 0
    for part in parts:
        if isinstance(key, int) and not isinstance(part, np.ndarray):
            key = extend(key, int(part))
            continue
        key = np.atleast_1d(np.asarray(key, np.uint64))
        part = np.atleast_1d(np.asarray(part)).astype(np.uint64)
        key = _mix(key * _U64_MIX_1 + part + _U64_GOLDEN)
    return np.array([key], np.uint64) if isinstance(key, int) else key


_COUNTERS = np.arange(1, 513, dtype=np.uint64) * _U64_GOLDEN


def _to_uniforms(bits: np.ndarray) -> np.ndarray:
    """Return float64 numbers in (0, 1) from the counters of a key."""
    return ((_mix(bits) >> _U64_11).astype(np.float64) + 0.5) * 2.0**-53


def uniforms(keys: np.ndarray, count: int) -> np.ndarray:
    """Return uniform float64 [n, count] in the open interval (0, 1); count <= 512."""
    return _to_uniforms(keys[:, None] + _COUNTERS[:count])


def to_normals(u: np.ndarray) -> np.ndarray:
    """Convert uniform numbers to standard normal ones (Box-Muller), float64.

    The last axis must be even.
    """
    half = u.shape[-1] // 2
    radius = np.sqrt(-2.0 * np.log(u[..., :half]))
    angle = 2.0 * np.pi * u[..., half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


@functools.lru_cache(maxsize=16)
def _layout(counts: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return key and counter of each number of `draw`, and how many make normals.

    First come the radii of all normal numbers, then their angles, then the uniform numbers.
    """
    radii = [(k, flat + i) for k, (flat, bell) in enumerate(counts) for i in range(bell // 2)]
    angles = [
        (k, flat + i) for k, (flat, bell) in enumerate(counts) for i in range(bell // 2, bell)
    ]
    rest = [(k, i) for k, (flat, _) in enumerate(counts) for i in range(flat)]
    keys, places = np.array([*radii, *angles, *rest]).T
    return keys, _COUNTERS[places], 2 * len(radii)


def draw(
    keys: Sequence[int], counts: Sequence[tuple[int, int]], limit: float = 2.2
) -> list[tuple[list[float], list[float]]]:
    """Draw, for each key, uniform numbers and normal ones cut at `limit`.

    `counts` has a pair for each key: how many are uniform and how many (even) are normal.
    """
    which, counters, bells = _layout(tuple(counts))
    u = _to_uniforms(np.array(keys, np.uint64)[which] + counters)
    normal = np.minimum(np.maximum(to_normals(u[:bells]), -limit), limit).tolist()
    uniform = u[bells:].tolist()
    drawn, start, first, middle = [], 0, 0, bells // 2
    for flat, bell in counts:
        half = bell // 2
        pair = normal[first : first + half] + normal[middle + first : middle + first + half]
        drawn.append((uniform[start : start + flat], pair))
        start, first = start + flat, first + half
    return drawn
