"""From heatmaps to landmarks and back.

*Pixel* coordinates count pixel centres from 0, as in `batch["landmarks"]` and in OpenCV. *Grid*
coordinates, which `decode_heatmaps` gives, measure the heatmap from its corner, so that the centre
of its first cell is 0.5. A heatmap of h cells over an image of H pixels has
pixel = grid * H / h - 0.5.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_REACH = 3  # cells on each side of the maximum in its centroid
_LEAST = 1e-3  # of the maximum; lower values count as this


def decode_heatmaps(heatmaps: jax.Array, decode: str = "quarter") -> tuple[jax.Array, jax.Array]:
    """Return landmarks [B, K, 2] on the grid and scores [B, K] of heatmaps.

    `heatmaps` is [B, h, w, K]; the score is the maximum. A heatmap with a NaN or an infinite
    maximum gives a NaN. `decode` moves the point from the centre of the first maximum's cell

      quarter: by a quarter cell towards the larger neighbour in each axis, unless the maximum is
        on the border: the rule of the released detector;
      parabola: in each axis to the top of the parabola through the logarithms of the maximum and
        its two neighbours, by at most half a cell; exact for a Gaussian (distribution-aware
        decoding, Zhang et al., CVPR 2020, without its smoothing and mixed derivative);
      centroid: to the centre of mass of the positive values in the 7 x 7 cells around it.

    Raises:
      ValueError: an unknown `decode`.
    """
    if decode not in DECODERS:
        raise ValueError(f"decode must be one of {', '.join(map(repr, DECODERS))}, got {decode!r}")
    batch, height, width, count = heatmaps.shape
    maps = heatmaps.transpose(0, 3, 1, 2).reshape(batch, count, height * width)
    best = jnp.argmax(maps, axis=-1)
    row, column = best // width, best % width

    def at(r, c):
        index = jnp.clip(r, 0, height - 1) * width + jnp.clip(c, 0, width - 1)
        return jnp.take_along_axis(maps, index[..., None], axis=-1)[..., 0]

    cells = jnp.stack([column, row], axis=-1).astype(heatmaps.dtype)
    shift = DECODERS[decode](at, row, column, height, width)
    top = at(row, column)  # NaN if any cell is: argmax finds it first
    return jnp.where(jnp.isfinite(top)[..., None], cells + 0.5 + shift, jnp.nan), top


def _quarter(at: Callable, row, column, height: int, width: int) -> jax.Array:
    inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    step_x = jnp.sign(at(row, column + 1) - at(row, column - 1))
    step_y = jnp.sign(at(row + 1, column) - at(row - 1, column))
    return 0.25 * jnp.where(inside[..., None], jnp.stack([step_x, step_y], axis=-1), 0)


def _parabola(at: Callable, row, column, height: int, width: int) -> jax.Array:
    top = at(row, column)

    def shift(before, after, inside):
        # Far below the maximum a heatmap is noise around zero, of which no logarithm is taken.
        low, middle, high = (
            jnp.log(jnp.maximum(x, jnp.maximum(_LEAST * top, 1e-12))) for x in (before, top, after)
        )
        bend = 2 * middle - low - high
        moved = (high - low) / (2 * jnp.where(bend > 0, bend, 1.0))
        return jnp.where(inside & (bend > 0) & (top > 0), jnp.clip(moved, -0.5, 0.5), 0.0)

    x = shift(at(row, column - 1), at(row, column + 1), (column > 0) & (column < width - 1))
    y = shift(at(row - 1, column), at(row + 1, column), (row > 0) & (row < height - 1))
    return jnp.stack([x, y], axis=-1)


def _centroid(at: Callable, row, column, height: int, width: int) -> jax.Array:
    total: jax.Array | float = 0.0
    x: jax.Array | float = 0.0
    y: jax.Array | float = 0.0
    for dy in range(-_REACH, _REACH + 1):
        for dx in range(-_REACH, _REACH + 1):
            r, c = row + dy, column + dx
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            mass = jnp.where(inside, jnp.maximum(at(r, c), 0.0), 0.0)
            total, x, y = total + mass, x + mass * dx, y + mass * dy
    return jnp.stack([x, y], axis=-1) / jnp.where(total > 0, total, 1.0)[..., None]


# The ways of `decode_heatmaps` from the maximum's cell to a point between the cells.
DECODERS: dict[str, Callable[..., jax.Array]] = {
    "quarter": _quarter,
    "parabola": _parabola,
    "centroid": _centroid,
}


def grid_to_pixels(points: jax.Array, grid_size: int, image_size: int) -> jax.Array:
    """Convert grid coordinates [..., 2] to pixels of an image of `image_size`."""
    return points * (image_size / grid_size) - 0.5


def pixels_to_grid(points: jax.Array, grid_size: int, image_size: int) -> jax.Array:
    """Convert pixels [..., 2] of an image of `image_size` to grid coordinates."""
    return (points + 0.5) * (grid_size / image_size)


def render_heatmaps(
    landmarks: jax.Array, size: int, sigma: float, *, image_size: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return target heatmaps [B, size, size, K] and the mask [B, K] of landmarks.

    `landmarks` [B, K, 2] are pixels of an image of `image_size`, or grid coordinates if that is
    None. Each heatmap is a Gaussian of height 1 and standard deviation `sigma` cells around the
    landmark, which may be outside. A landmark with a NaN has mask False and a heatmap of zeros.
    """
    points = landmarks
    if image_size is not None:
        points = pixels_to_grid(points, size, image_size)
    mask = jnp.isfinite(points).all(axis=-1)
    # Replaced before any arithmetic: a NaN times zero is NaN, in gradients too.
    points = jnp.where(mask[..., None], points, 0.0)
    centres = jnp.arange(size, dtype=points.dtype) + 0.5
    distance = (centres - points[..., None]) / sigma  # [B, K, 2, size]
    profile = jnp.exp(-0.5 * distance**2)
    heatmaps = jnp.einsum("bkx,bky->byxk", profile[:, :, 0], profile[:, :, 1])
    return jnp.where(mask[:, None, None, :], heatmaps, 0.0), mask
