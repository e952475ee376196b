"""Access to a network's last feature map, for Grad-CAM.

A model passes its last feature map through `feature_map`, which returns it unchanged. Inside a
`Tap`, the map is kept and may be shifted: the gradient of a class score with respect to the shift
is the gradient with respect to the map. Training and prediction have no additional cost.
"""

from __future__ import annotations

import contextvars
import dataclasses
from typing import Self

import jax

_CURRENT: contextvars.ContextVar[Tap | None] = contextvars.ContextVar("tap", default=None)


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """A recorded feature map.

    Attributes:
      values: [B, h, w, C], or tokens [B, P + h * w, C].
      grid: (h, w).
      prefix: P, the number of tokens in front that are not a place of the image.
    """

    values: jax.Array
    grid: tuple[int, int]
    prefix: int


class Tap:
    """Records the feature maps of the models that run inside it.

    Args:
      shift: added to map number `at`; of its shape.
      at: 0 for the first map.

    Attributes:
      maps: recorded maps, in order. Their values are tracers if the model is being traced.
    """

    def __init__(self, shift: jax.Array | None = None, at: int = 0):
        self.maps: list[FeatureMap] = []
        self._shift, self._at = shift, at

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *unused) -> None:
        _CURRENT.reset(self._token)

    def keep(self, x: jax.Array, grid: tuple[int, int], prefix: int) -> jax.Array:
        """Record a map and return it, shifted if it is number `at`."""
        if self._shift is not None and len(self.maps) == self._at:
            x = x + self._shift.astype(x.dtype)
        self.maps.append(FeatureMap(x, grid, prefix))
        return x


def feature_map(x: jax.Array, *, grid: tuple[int, int] | None = None, prefix: int = 0) -> jax.Array:
    """Return `x`, recorded by the `Tap` around the call if there is one.

    Of several calls in one forward pass, the last one counts, so a call may be in a loop over
    blocks. It must come before the last mixing of places: before pooling, or before attention if
    only the class token is used afterwards. It must be outside of `jax.checkpoint` and other
    transformations.

    Args:
      x: [B, h, w, C], or tokens [B, prefix + h * w, C].
      grid: (h, w); needed for tokens.
      prefix: tokens in front that are not a place of the image.

    Raises:
      ValueError: tokens do not fill the grid.
    """
    tap = _CURRENT.get()
    if tap is None:
        return x
    if grid is None:
        if x.ndim != 4:
            raise ValueError(f"a feature map must be [B, h, w, C], got {x.shape}; tokens need grid")
        grid = (x.shape[1], x.shape[2])
    elif x.ndim != 3 or x.shape[1] != prefix + grid[0] * grid[1]:
        raise ValueError(
            f"tokens of shape {x.shape} do not fill a grid of {grid} after {prefix} others"
        )
    return tap.keep(x, grid, prefix)
