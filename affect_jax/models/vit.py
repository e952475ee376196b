"""Vision transformers Ti, S, B and L (patch 16), with optional squeeze-excitation.

Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, equal to the published networks;
Aouayeb et al., "Learning vision transformer with squeeze and excitation for facial expression
recognition", 2021, for `se`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax.models.attention import IMPLEMENTATIONS, attend, pad_sequence, serves_cudnn
from affect_jax.models.excitation import Excitation
from affect_jax.models.feature_taps import feature_map
from affect_jax.models.fused import add
from affect_jax.models.layers import (
    MLP,
    Layers,
    check_images,
    lecun_normal,
    normal,
    split_outputs,
)
from affect_jax.models.recompute import POLICIES
from affect_jax.models.registry import register
from affect_jax.models.relations import BY_SETTINGS, Comparison, Relations
from affect_jax.models.reliability import Reliability
from affect_jax.runtime.platforms import platform

PATCH = 16
# The published networks'; PyTorch's own default is ten times larger.
LAYER_NORM_EPSILON = 1e-6
POOLS = ("token", "mean")

_small_normal = normal(0.02)


class Size(NamedTuple):
    """Width, blocks and attention heads of a published size."""

    width: int
    depth: int
    heads: int


SIZES = {
    "ti": Size(192, 12, 3),
    "s": Size(384, 12, 6),
    "b": Size(768, 12, 12),
    "l": Size(1024, 24, 16),
}


class Trace(NamedTuple):
    """Outputs and inner values of a call: see `ViT.trace`."""

    outputs: dict[str, jax.Array]
    attention: tuple[jax.Array, ...]
    tokens: tuple[jax.Array, ...]


def resize_positions(positions: jax.Array, grid: tuple[int, int], prefix: int) -> jax.Array:
    """Interpolate position embeddings [1, prefix + side**2, D] to another grid.

    Bicubic (Keys, a = -0.5) with half-pixel centres, and with antialiasing where the grid becomes
    smaller, as timm does by default. The embeddings of the first `prefix` tokens stay.

    Raises:
      ValueError: the source is not a square grid.
    """
    side = math.isqrt(positions.shape[1] - prefix)
    if side * side + prefix != positions.shape[1]:
        raise ValueError(
            f"{positions.shape[1] - prefix} position embeddings do not form a square grid"
        )
    if (side, side) == tuple(grid):
        return positions
    kept, places = positions[:, :prefix], positions[:, prefix:]
    wide = jnp.promote_types(jnp.float32, positions.dtype)
    places = places.astype(wide).reshape(1, side, side, -1)
    shape = (1, *grid, places.shape[-1])
    places = jax.image.resize(places, shape, method="cubic", antialias=True)
    places = places.reshape(1, -1, shape[-1]).astype(positions.dtype)
    return jnp.concatenate([kept, places], axis=1)


def wave_positions(grid: int, width: int) -> jax.Array:
    """Return sine and cosine position embeddings [1, grid * grid, width].

    A quarter of the channels for each sine and cosine, wavelengths from 2 pi to 10,000 * 2 pi
    patches, as in Beyer, Zhai and Kolesnikov, "Better plain ViT baselines for ImageNet-1k", 2022.
    """
    frequencies = 10_000.0 ** -np.linspace(0, 1, width // 4)
    angles = np.arange(grid)[:, None] * frequencies
    row, column = np.repeat(angles, grid, axis=0), np.tile(angles, (grid, 1))
    waves = [np.sin(column), np.cos(column), np.sin(row), np.cos(row)]
    return jnp.asarray(np.concatenate(waves, axis=1)[None], jnp.float32)


class Patches(nnx.Module):
    """Patch embedding (16 x 16, stride 16) as a matrix product: [B, h, w, D]."""

    def __init__(self, width: int, make: Layers):
        self.dtype = make.dtype
        shape = (PATCH, PATCH, 3, width)
        self.kernel = nnx.Param(lecun_normal(make.rngs.params(), shape, make.param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, make.param_dtype))

    def __call__(self, images: jax.Array) -> jax.Array:
        batch, height, width, channels = images.shape
        rows, columns = height // PATCH, width // PATCH
        x = images.astype(self.dtype).reshape(batch, rows, PATCH, columns, PATCH, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)
        kernel = self.kernel[...].astype(self.dtype)
        return add(x @ kernel.reshape(-1, kernel.shape[-1]), self.bias[...])


class Attention(nnx.Module):
    """Self-attention; outputs of `qkv` are ordered (query, key, value), head, dim.

    For `implementation` see `models.attention.attend`.
    """

    def __init__(self, width: int, heads: int, implementation: str, make: Layers):
        self.heads, self.implementation = heads, implementation
        self.qkv = make.linear(width, 3 * width)
        self.out = make.linear(width, width)

    def __call__(
        self, x: jax.Array, weights: list[jax.Array] | None = None, length: int | None = None
    ) -> jax.Array:
        """Attend within the first `length` of [B, T, D] (default: all).

        The attention is appended to `weights` if given.
        """
        batch, tokens, width = x.shape
        packed = self.qkv(x.reshape(-1, width))
        packed = packed.reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (packed[:, :, i] for i in range(3))
        mixed = attend(q, k, v, implementation=self.implementation, weights=weights, length=length)
        return self.out(mixed.reshape(-1, width)).reshape(x.shape)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    In training each branch is dropped for whole examples with probability `drop_path`.
    """

    def __init__(
        self,
        size: Size,
        *,
        dropout: float,
        drop_path: float,
        attention: str,
        make: Layers,
    ):
        self.norm1 = make.layer_norm(size.width, LAYER_NORM_EPSILON)
        self.attention = Attention(size.width, size.heads, attention, make)
        self.norm2 = make.layer_norm(size.width, LAYER_NORM_EPSILON)
        self.mlp = MLP(size.width, dropout, make)
        self.dropout = nnx.Dropout(dropout)
        self.drop_path = nnx.Dropout(drop_path, broadcast_dims=(1, 2))

    def __call__(
        self,
        x: jax.Array,
        rngs: nnx.Rngs | None,
        weights: list[jax.Array] | None = None,
        length: int | None = None,
    ) -> jax.Array:
        """Return [B, T, D]; tokens from `length` on are padding that no other one sees."""
        shape = x.shape
        # As one matrix of all tokens, whose layout is that of the products. With three axes, XLA
        # lays the tokens out in front, and transposes twice a layer.
        x = x.reshape(-1, shape[-1])
        attended = self.attention(self.norm1(x).reshape(shape), weights, length)
        x = x + self._dropped(self.dropout(attended, rngs=rngs), rngs)
        mixed = self.mlp(self.norm2(x), rngs).reshape(shape)
        return (x + self._dropped(mixed, rngs)).reshape(shape)

    def _dropped(self, branch: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.drop_path(branch, rngs=rngs).reshape(-1, branch.shape[-1])


@register("vit_ti16", head="head", size="ti")
@register("vit_s16", head="head", size="s")
@register("vit_b16", head="head", size="b")
@register("vit_l16", head="head", size="l")
class ViT(nnx.Module):
    """A vision transformer with class logits and, optionally, valence and arousal.

    Args:
      size: key of `SIZES`.
      n_expression: classes; 0 without `regression`: the embedding only.
      regression: valence and arousal too.
      se: squeeze and excitation, reduction 4, before the last layer.
      image_size: of the position embeddings; for images of other sizes they are interpolated at
        every call (`resize_positions`).
      depth: blocks; 0: the published number.
      pool: what is classified: "token", the class token, or "mean", the mean of the patches,
        without a class token.
      dropout: rate after the embedding, the attention and the layers of an MLP.
      drop_path: stochastic depth: rate of the last block, growing linearly from 0 at the first.
      attention: "auto" (cuDNN for 16-bit types on a GPU), "xla", "cudnn".
      remat: what training keeps for the backward pass, see `models.recompute`; "blocks": only the
        inputs of the blocks.
      relations: settings of `Relations` in front of the last layers; None: none.
      reliability: settings of a `Reliability` behind the logits; None: no balancing.
    """

    def __init__(
        self,
        *,
        size: str,
        n_expression: int = 8,
        regression: bool = False,
        se: bool = False,
        image_size: int = 224,
        depth: int = 0,
        pool: str = "token",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        attention: str = "auto",
        remat: str = "none",
        relations: Mapping[str, Any] | None = None,
        reliability: Mapping[str, Any] | None = None,
        make: Layers,
    ):
        choices = {
            "pool": (pool, POOLS),
            "attention": (attention, IMPLEMENTATIONS),
            "remat": (remat, POLICIES),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if attention == "cudnn" and not serves_cudnn(make.dtype):
            raise ValueError(
                f"attention='cudnn' needs a GPU and a 16-bit dtype, got {platform().name} "
                f"and {make.dtype.name}; use 'auto' or 'xla'"
            )
        if n_expression < 0 or depth < 0:
            raise ValueError(
                f"n_expression and depth must not be negative, got {n_expression}, {depth}"
            )
        if not (0 <= dropout < 1 and 0 <= drop_path < 1):
            raise ValueError(
                f"dropout and drop_path must lie in [0, 1), got {dropout}, {drop_path}"
            )
        shape = SIZES[size]
        blocks = depth or shape.depth
        self.n_expression = n_expression
        self.pool, self.remat = pool, remat
        self.head_features, self.attention = shape.width // shape.heads, attention
        self.dtype, self.output_dtype = make.dtype, make.output_dtype
        self.prefix = 1 if pool == "token" else 0
        side = _grid(image_size, image_size)[0]

        self.patches = Patches(shape.width, make)
        if self.prefix:
            self.cls_token = nnx.Param(jnp.zeros((1, 1, shape.width), make.param_dtype))
        positions = jnp.pad(wave_positions(side, shape.width), ((0, 0), (self.prefix, 0), (0, 0)))
        self.pos_embed = nnx.Param(positions.astype(make.param_dtype))
        self.dropout = nnx.Dropout(dropout)
        self.blocks = nnx.List(
            Block(
                shape,
                dropout=dropout,
                drop_path=drop_path * i / max(blocks - 1, 1),
                attention=attention,
                make=make,
            )
            for i in range(blocks)
        )
        self.norm = make.layer_norm(shape.width, LAYER_NORM_EPSILON)
        self.se = Excitation(shape.width, make) if se else None
        self.regression = regression
        outputs = n_expression + (2 if regression else 0)
        self.head = make.linear(shape.width, outputs, init=_small_normal) if outputs else None
        self.relations = Relations.of(relations, shape.width, n_expression, make)
        self.reliability = Reliability.of(reliability, shape.width, n_expression, make)

    def __call__(
        self,
        images: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs for normalised images [B, H, W, 3], sides multiples of 16.

        They are `logits` [B, n_expression], with `regression` `valence` and `arousal` [B],
        `embedding` [B, D], the input of the last layer, and the outputs of `relations` and
        `reliability`. In training, unless all rates are 0, dropout draws from the `dropout` stream
        of `rngs`.
        """
        return self._run(images, rngs, None, None, comparison)

    def trace(self, images: jax.Array, *, attention: bool = True) -> Trace:
        """Return the outputs and the inner values of a call.

        Returns:
          `outputs` of a plain call; `attention` of every block after the softmax, [B, heads, T, T],
          rows being queries (none if not asked for: fused kernels do not keep it); `tokens`
          [B, T, D], the residual stream after every block. T = 1 + h * w with the class token in
          front, or h * w with `pool="mean"`.
        """
        weights: list[jax.Array] | None = [] if attention else None
        tokens: list[jax.Array] = []
        outputs = self._run(images, None, weights, tokens)
        return Trace(outputs, tuple(weights or ()), tuple(tokens))

    def _run(
        self,
        images: jax.Array,
        rngs: nnx.Rngs | None,
        weights: list[jax.Array] | None,
        tokens: list[jax.Array] | None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        check_images(images)
        grid = _grid(*images.shape[1:3])
        x = self.dropout(self._embed(images, grid), rngs=rngs)
        count = x.shape[1]
        x = self._padded(x, weights)
        for number, block in enumerate(self.blocks):
            if number == len(self.blocks) - 1:
                x = feature_map(x[:, :count], grid=grid, prefix=self.prefix)
                x = self._padded(x, weights)
            if self.remat == "blocks" and weights is None:
                x = _recomputed(block, x, rngs, count)
            else:
                x = block(x, rngs, weights, count)
            if tokens is not None:
                tokens.append(x[:, :count].astype(self.output_dtype))
        x = x[:, :count]
        x = self.norm(x[:, 0]) if self.pool == "token" else jnp.mean(self.norm(x), axis=1)
        if self.se is not None:
            x = self.se(x)
        return self.classify(x, rngs=rngs, comparison=comparison)

    def classify(
        self,
        features: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs for the backbone's features [B, D]: all that follows it."""
        outputs: dict[str, jax.Array] = {}
        if self.relations is not None:
            features, outputs = self.relations(features, rngs=rngs, comparison=comparison)
        outputs["embedding"] = features.astype(self.output_dtype)
        if self.head is None:
            return outputs
        outputs |= split_outputs(self.head(features), self.n_expression, self.output_dtype)
        return self.reliability(outputs) if self.reliability else outputs

    def _padded(self, x: jax.Array, weights: list[jax.Array] | None) -> jax.Array:
        # Attention whose weights are asked for is not fused.
        return x if weights is not None else pad_sequence(x, self.head_features, self.attention)

    def _embed(self, images: jax.Array, grid: tuple[int, int]) -> jax.Array:
        x = self.patches(images)
        batch, width = x.shape[0], x.shape[-1]
        x = x.reshape(batch, -1, width)
        if self.prefix:
            token = add(jnp.zeros((batch, 1, width), x.dtype), self.cls_token[...])
            x = jnp.concatenate([token, x], axis=1)
        return add(x, resize_positions(self.pos_embed[...], grid, self.prefix))


def _recomputed(block: Block, x: jax.Array, rngs: nnx.Rngs | None, length: int) -> jax.Array:
    @nnx.remat
    def run(block: Block, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return block(x, rngs, length=length)

    return run(block, x, rngs)


def _grid(height: int, width: int) -> tuple[int, int]:
    if height % PATCH or width % PATCH or not height or not width:
        raise ValueError(f"the sides of an image must be multiples of {PATCH}: {height} x {width}")
    return height // PATCH, width // PATCH
