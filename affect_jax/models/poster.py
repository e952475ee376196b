"""POSTER++, the backbone of ARBEx: landmark features attend to image features.

Mao et al., "POSTER++: a simpler and stronger facial expression recognition network", 2023, and
Wasi et al., "ARBEx: attentive feature extraction with reliability balancing for robust facial
expression learning", 2023; equal to the released networks at the default settings.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax.models.attention import attend, pad_sequence
from affect_jax.models.excitation import Excitation
from affect_jax.models.feature_taps import feature_map
from affect_jax.models.fused import add, multiply
from affect_jax.models.ir50 import IR50
from affect_jax.models.layers import Layers, check_images, lecun_normal, normal, split_outputs
from affect_jax.models.mobilefacenet import MobileFaceNet
from affect_jax.models.registry import register
from affect_jax.models.relations import BY_SETTINGS, Comparison, Relations
from affect_jax.models.reliability import Reliability
from affect_jax.models.vit import LAYER_NORM_EPSILON, MLP, Block, Size, wave_positions

_WINDOW_EPSILON = 1e-5  # of the LayerNorms outside of the transformer
_small_normal = normal(0.02)
POSITIONS = ("normal", "waves")

# Sizes that train on a CPU with a few thousand images of 32 pixels or more.
TINY = {
    "input_size": 32,
    "image_width": 16,
    "image_stages": (1, 1, 1),
    "landmark_width": 16,
    "landmark_stages": (0, 0, 0),
    "dims": (32, 64, 128),
    "windows": (8, 4, 2),
    "embedding": 128,
    "vit_heads": 4,
    "layer_scale": 0.1,
    "drop_path": 0.0,
    "positions": "waves",
}


@functools.cache
def relative_positions(size: int) -> np.ndarray:
    """Return the bias-table row of each pair of places, int32 [size**2, size**2].

    Entry [query, key] is (row difference + size - 1) * (2 size - 1) + column difference + size - 1.
    """
    rows, columns = np.divmod(np.arange(size**2), size)
    row_shift = rows[:, None] - rows + size - 1
    column_shift = columns[:, None] - columns + size - 1
    index = (row_shift * (2 * size - 1) + column_shift).astype(np.int32)
    index.flags.writeable = False
    return index


class WindowCrossAttention(nnx.Module):
    """Attention inside windows; queries from another map, relative position bias."""

    def __init__(self, features: int, heads: int, window: int, make: Layers):
        if heads < 1 or features % heads:
            raise ValueError(f"{features} features cannot be divided among {heads} heads")
        self.heads, self.window = heads, window
        self.key_value = make.linear(features, 2 * features, init=_small_normal)
        self.output = make.linear(features, features, init=_small_normal)
        shape = ((2 * window - 1) ** 2, heads)
        self.position_bias = nnx.Param(_small_normal(make.rngs.params(), shape, make.param_dtype))

    def __call__(self, queries: jax.Array, x: jax.Array) -> jax.Array:
        """Attend from `queries` to `x`, both [B, P, C], P = window**2 places row by row."""
        b, p, c = x.shape
        split = (b, p, self.heads, c // self.heads)
        key, value = (y.reshape(split) for y in jnp.split(self.key_value(x), 2, axis=-1))
        wide = jnp.promote_types(jnp.float32, x.dtype)
        bias = self.position_bias[...].astype(wide)[relative_positions(self.window)]
        y = attend(queries.reshape(split), key, value, bias=bias.transpose(2, 0, 1))
        return self.output(y.reshape(b, p, c))


class CrossFusion(nnx.Module):
    """One scale: the normalised image map plus the landmark map's attention to it.

    The shortcut starts after the LayerNorm, as in the released networks. Both branches are scaled
    by trained factors that start at `layer_scale`, and dropped with probability `drop`.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        window: int,
        layer_scale: float,
        drop: float,
        make: Layers,
    ):
        self.window = window
        self.norm = make.layer_norm(features, _WINDOW_EPSILON)
        self.attention = WindowCrossAttention(features, heads, window, make)
        self.mlp_norm = make.layer_norm(features, _WINDOW_EPSILON)
        self.mlp = MLP(features, 0.0, make)
        self.drop = nnx.Dropout(drop, broadcast_dims=(1, 2))
        self.attention_scale = nnx.Param(jnp.full(features, layer_scale, make.param_dtype))
        self.mlp_scale = nnx.Param(jnp.full(features, layer_scale, make.param_dtype))

    def __call__(
        self, landmark_map: jax.Array, image_map: jax.Array, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """Fuse two maps [B, s, s, C], s a multiple of the window, to one."""
        b, s, _, c = image_map.shape
        x = self.norm(image_map)
        found = self.attention(_to_windows(landmark_map, self.window), _to_windows(x, self.window))
        x, found = x.reshape(b, s * s, c), _from_windows(found, self.window, s)
        x = x + self.drop(multiply(found, self.attention_scale[...]), rngs=rngs)
        y = self.mlp(self.mlp_norm(x), rngs)
        x = x + self.drop(multiply(y, self.mlp_scale[...]), rngs=rngs)
        return x.reshape(b, s, s, c)


def _to_windows(x: jax.Array, window: int) -> jax.Array:
    """Cut [B, s, s, C] into windows: [B * windows, window**2, C].

    The order is by image, then by row of windows, then by column.
    """
    b, s, _, c = x.shape
    n = s // window
    x = x.reshape(b, n, window, n, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b * n * n, window * window, c)


def _from_windows(x: jax.Array, window: int, size: int) -> jax.Array:
    """Invert `_to_windows`, with the places of an image in one axis: [B, s * s, C]."""
    n, c = size // window, x.shape[-1]
    x = x.reshape(-1, n, n, window, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, size * size, c)


class MultiScaleTransformer(nnx.Module):
    """A transformer over the tokens of three maps, with a gate on its output.

    A class token comes first. Each map becomes as many tokens as the others.
    """

    def __init__(
        self,
        dims: tuple[int, ...],
        tokens: int,
        features: int,
        depth: int,
        heads: int,
        make: Layers,
        positions: str,
    ):
        # The larger maps are halved, once or twice, to the size of the smallest.
        self.embed: nnx.List[nnx.List[nnx.Conv]] = nnx.List()
        for scale, in_features in enumerate(dims):
            halvings = len(dims) - 1 - scale
            widths = [in_features] + [features] * max(halvings, 1)
            kernel, stride = (3, 2) if halvings else (1, 1)
            self.embed.append(
                nnx.List(
                    make.conv(i, o, kernel, stride, bias=True, init=lecun_normal)
                    for i, o in itertools.pairwise(widths)
                )
            )

        def embedding(shape):
            return nnx.Param(_small_normal(make.rngs.params(), shape, make.param_dtype))

        self.cls_token = embedding((1, 1, features))
        self.pos_embed = embedding((1, 1 + len(dims) * tokens, features))
        if positions == "waves":
            waves = jnp.tile(wave_positions(math.isqrt(tokens), features), (1, len(dims), 1))
            waves = jnp.pad(waves, ((0, 0), (1, 0), (0, 0)))
            self.pos_embed[...] = self.pos_embed[...] + waves.astype(make.param_dtype)
        self.heads = heads
        size = Size(features, depth, heads)
        self.blocks = nnx.List(
            Block(size, dropout=0.0, drop_path=0.0, attention="auto", make=make)
            for _ in range(depth)
        )
        self.norm = make.layer_norm(features, LAYER_NORM_EPSILON)
        self.gate = Excitation(features, make, reduction=1)

    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        tokens = []
        for x, convs in zip(maps, self.embed, strict=True):
            for conv in convs:
                x = conv(x)
            tokens.append(x.reshape(x.shape[0], -1, x.shape[-1]))
        start = jnp.zeros((x.shape[0], 1, x.shape[-1]), x.dtype)
        x = jnp.concatenate([add(start, self.cls_token[...]), *tokens], axis=1)
        x = add(x, self.pos_embed[...])
        count = x.shape[1]
        x = pad_sequence(x, x.shape[-1] // self.heads)
        for block in self.blocks:
            x = block(x, None, length=count)
        return self.gate(self.norm(x[:, 0]))


@register("poster_v2_tiny", head="head", preset=TINY)
@register("poster_v2", head="head")
@register("arbex_backbone", head="head", preset={"n_expression": 0})
class Poster(nnx.Module):
    """POSTER++ with a linear classifier, or a feature extractor (`n_expression=0`).

    Args:
      n_expression: classes; 0 leaves `embedding` (and, with `regression`, the two numbers).
      regression: valence and arousal too.
      input_size: images are brought to this many pixels; a multiple of 16.
      image_width, image_stages: `width` and `stage_sizes` of the IR50.
      landmark_width, landmark_stages: `width` and `stage_sizes` of the MobileFaceNet.
      dims, windows, heads: of the cross-attention at 1/4, 1/8 and 1/16 of `input_size`; a map
        larger than a window is cut into windows.
      layer_scale: initial factors of the cross-attention's branches.
      drop_path: stochastic depth of the third scale; half of it at the second, none at the first.
      embedding, vit_depth, vit_heads: of the transformer over all scales.
      positions: initial position embeddings of its tokens. "normal": small, as in the released
        networks; they are much weaker than untrained features. "waves" adds sines and cosines of
        row and column.
      relations: settings of `Relations` in front of the last layers; None: none.
      reliability: settings of a `Reliability` behind the logits; None: no balancing.

    Attributes:
      image_net, landmark_net: the two networks, which may start from their own weights and be
        frozen by `optimizer.freeze` ("landmark_net" in POSTER++).

    Raises:
      ValueError: sizes that do not go together.
    """

    def __init__(
        self,
        *,
        n_expression: int = 7,
        regression: bool = False,
        input_size: int = 112,
        image_width: int = 64,
        image_stages: tuple[int, ...] = (3, 4, 14),
        landmark_width: int = 64,
        landmark_stages: tuple[int, ...] = (4, 6, 2),
        dims: tuple[int, ...] = (64, 128, 256),
        windows: tuple[int, ...] = (28, 14, 7),
        heads: tuple[int, ...] = (2, 4, 8),
        layer_scale: float = 1e-5,
        drop_path: float = 0.25,
        embedding: int = 768,
        vit_depth: int = 2,
        vit_heads: int = 8,
        positions: str = "normal",
        relations: Mapping[str, Any] | None = None,
        reliability: Mapping[str, Any] | None = None,
        make: Layers,
    ):
        _check_sizes(n_expression, input_size, dims, windows, heads)
        if positions not in POSITIONS or (positions == "waves" and embedding % 4):
            raise ValueError(
                f"positions must be one of {', '.join(POSITIONS)}, the latter with an embedding "
                f"that is a multiple of 4; got {positions!r} and {embedding}"
            )
        self.n_expression = n_expression
        self.output_dtype = make.output_dtype
        self.image_net = IR50(
            width=image_width, stage_sizes=image_stages, input_size=input_size, make=make
        )
        self.landmark_net = MobileFaceNet(
            width=landmark_width, stage_sizes=landmark_stages, input_size=input_size, make=make
        )
        self.image_convs: nnx.List[nnx.Conv] = nnx.List()
        self.landmark_convs: nnx.List[nnx.Conv | None] = nnx.List()
        self.fusions: nnx.List[CrossFusion] = nnx.List()
        landmark_features = (landmark_width, 2 * landmark_width, 8 * landmark_width)
        for scale, features in enumerate(dims):
            self.image_convs.append(
                make.conv(image_width * 2**scale, features, 3, 2, bias=True, init=lecun_normal)
            )
            self.landmark_convs.append(
                None
                if landmark_features[scale] == features
                else make.conv(landmark_features[scale], features, 3, bias=True, init=lecun_normal)
            )
            self.fusions.append(
                CrossFusion(
                    features,
                    heads[scale],
                    windows[scale],
                    layer_scale,
                    drop_path * scale / 2,
                    make,
                )
            )
        self.transformer = MultiScaleTransformer(
            dims, (input_size // 16) ** 2, embedding, vit_depth, vit_heads, make, positions
        )
        self.regression = regression
        outputs = n_expression + (2 if regression else 0)
        self.head = make.linear(embedding, outputs) if outputs else None
        self.relations = Relations.of(relations, embedding, n_expression, make)
        self.reliability = Reliability.of(reliability, embedding, n_expression, make)

    def __call__(
        self,
        images: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs for normalised images [B, H, W, 3] of any size.

        They are `embedding` [B, embedding], `logits` [B, n_expression] unless that is 0, with
        `regression` `valence` and `arousal` [B], and the outputs of `relations` and `reliability`.
        In training, stochastic depth and `relations` draw from the `dropout` stream of `rngs`.
        """
        check_images(images)
        maps = []
        scales = zip(
            self.image_net.maps(images),
            self.landmark_net.maps(images),
            self.image_convs,
            self.landmark_convs,
            self.fusions,
            strict=True,
        )
        for image_map, landmark_map, image_conv, landmark_conv, fusion in scales:
            if landmark_conv is not None:
                landmark_map = landmark_conv(landmark_map)
            maps.append(feature_map(fusion(landmark_map, image_conv(image_map), rngs)))
        return self.classify(self.transformer(maps), rngs=rngs, comparison=comparison)

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


def _check_sizes(n_expression, input_size, dims, windows, heads) -> None:
    if n_expression < 0:
        raise ValueError(f"n_expression must be at least 0, got {n_expression}")
    if input_size < 16 or input_size % 16:
        raise ValueError(f"input_size must be a multiple of 16, got {input_size}")
    if not len(dims) == len(windows) == len(heads) == 3:
        raise ValueError(
            f"dims, windows and heads need one number for each of the three scales, got {dims}, "
            f"{windows}, {heads}"
        )
    for scale, window in enumerate(windows):
        size = input_size // (4 * 2**scale)
        if window < 1 or size % window:
            raise ValueError(
                f"windows[{scale}] = {window} does not divide the map of {size} pixels that "
                f"input_size = {input_size} gives"
            )
