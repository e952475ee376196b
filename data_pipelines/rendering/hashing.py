"""Counter-based random numbers: a value is a pure function of its key, with no state to carry.

Library generators may change their streams between releases; this arithmetic cannot, so that
labels drawn today are the labels of any later machine.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def fold(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers, or equally long vectors of them, to keys: uint64 [n] (n = 1 for scalars)."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        part = np.atleast_1d(np.asarray(part)).astype(np.uint64)
        key = _mix(key * _MIX_1 + part + _GOLDEN)
    return key


def uniforms(keys: np.ndarray, count: int) -> np.ndarray:
    """float64 [n, count], uniform in (0, 1), never exactly 0 or 1."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(keys[:, None] + counters[None, :]) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def normals(keys: np.ndarray, count: int) -> np.ndarray:
    """float64 [n, count], standard normal (Box and Muller)."""
    half = (count + 1) // 2
    u = uniforms(keys, 2 * half)
    radius = np.sqrt(-2.0 * np.log(u[:, :half]))
    angle = 2.0 * np.pi * u[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
