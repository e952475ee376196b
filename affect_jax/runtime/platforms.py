"""The platform for which programs are made: the one that is here, or one that is not."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax


class Platform(NamedTuple):
    """What the choice between implementations depends on.

    Attributes:
      name: "cpu", "gpu" or "tpu".
      capability: of a GPU: "9.0" (NVIDIA), "gfx90a" (AMD); None: it does not tell.
    """

    name: str
    capability: str | None = None


_ABSENT: ContextVar[Platform | None] = ContextVar("absent", default=None)


def platform() -> Platform:
    """Return the platform of the first device, or the one of `compiling_for`."""
    absent = _ABSENT.get()
    if absent is not None:
        return absent
    capability = getattr(jax.devices()[0], "compute_capability", None)
    return Platform(jax.default_backend(), None if capability is None else str(capability))


@contextlib.contextmanager
def compiling_for(absent: Platform) -> Iterator[None]:
    """Trace programs for a platform that need not be here."""
    token = _ABSENT.set(absent)
    try:
        yield
    finally:
        _ABSENT.reset(token)
