"""FAN: stacked hourglasses that give one heatmap per landmark of a face.

Bulat and Tzimiropoulos, "How far are we from solving the 2D & 3D face alignment problem?",
ICCV 2017; equal to the released networks at their settings (4 stacks and average pooling for the
stand-alone detector, 2 stacks and max pooling inside EmoNet).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from affect_jax.models.landmarks import DECODERS
from affect_jax.models.layers import (
    Layers,
    avg_pool,
    check_images,
    lecun_normal,
    max_pool,
    normal,
    upsample_nearest,
)
from affect_jax.models.registry import register

POOLS = {"max": max_pool, "avg": avg_pool}


class ConvBlock(nnx.Module):
    """Three pre-activation 3x3 convolutions, concatenated, plus a shortcut.

    The convolutions give out/2, out/4 and out/4 channels. The shortcut is the input itself, or
    BatchNorm, ReLU and a 1x1 convolution of it where the number of channels changes.
    """

    def __init__(self, in_features: int, out_features: int, make: Layers):
        half, quarter = out_features // 2, out_features // 4
        self.norm1, self.conv1 = make.norm(in_features), make.conv(in_features, half, 3)
        self.norm2, self.conv2 = make.norm(half), make.conv(half, quarter, 3)
        self.norm3, self.conv3 = make.norm(quarter), make.conv(quarter, quarter, 3)
        self.has_projection = in_features != out_features
        if self.has_projection:
            self.shortcut_norm = make.norm(in_features)
            self.shortcut_conv = make.conv(in_features, out_features, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        first = self.conv1(nnx.relu(self.norm1(x)))
        second = self.conv2(nnx.relu(self.norm2(first)))
        third = self.conv3(nnx.relu(self.norm3(second)))
        if self.has_projection:
            x = self.shortcut_conv(nnx.relu(self.shortcut_norm(x)))
        return x + jnp.concatenate([first, second, third], axis=-1)


class HourGlass(nnx.Module):
    """One level of an hourglass: a skip branch, and an hourglass at half the size."""

    def __init__(self, depth: int, features: int, pool: str, make: Layers):
        self.pool = pool
        self.skip = ConvBlock(features, features, make)
        self.down = ConvBlock(features, features, make)
        self.inner: HourGlass | ConvBlock = (
            HourGlass(depth - 1, features, pool, make)
            if depth > 1
            else ConvBlock(features, features, make)
        )
        self.up = ConvBlock(features, features, make)

    def __call__(self, x: jax.Array) -> jax.Array:
        low = self.up(self.inner(self.down(POOLS[self.pool](x))))
        return self.skip(x) + upsample_nearest(low)


class Stack(nnx.Module):
    """An hourglass with its heatmaps, and the bridge to the next stack if any."""

    norms_after = (("conv", "norm"),)

    def __init__(
        self, depth: int, features: int, landmarks: int, pool: str, last: bool, make: Layers
    ):
        self.hourglass = HourGlass(depth, features, pool, make)
        self.block = ConvBlock(features, features, make)
        self.conv = make.conv(features, features, 1, bias=True)
        self.norm = make.norm(features)
        # Small heatmaps at first: nearly all of their targets are zero, and their sum is the
        # attention mask of EmoFAN.
        self.heatmaps = make.conv(features, landmarks, 1, bias=True, init=normal(0.01))
        self.last = last
        if not last:
            self.feature_bridge = make.conv(features, features, 1, bias=True, init=lecun_normal)
            self.heatmap_bridge = make.conv(landmarks, features, 1, bias=True, init=lecun_normal)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heatmaps, the feature for other branches, and the next stack's input."""
        feature = nnx.relu(self.norm(self.conv(self.block(self.hourglass(x)))))
        heatmaps = self.heatmaps(feature)
        if self.last:
            return heatmaps, feature, x
        feature = self.feature_bridge(feature)
        return heatmaps, feature, x + feature + self.heatmap_bridge(heatmaps)


@register("fan")
class FAN(nnx.Module):
    """Landmark network of any width, depth and number of stacks.

    Both sides of an image must be multiples of 4 * 2**depth pixels; heatmaps have a quarter of the
    size.

    Args:
      width: features, a multiple of 16.
      depth: levels of an hourglass.
      stacks: hourglasses.
      landmarks: heatmaps.
      pool: "max" (as in EmoNet) or "avg" (as in the stand-alone FAN). Weights trained with one are
        useless with the other.
      decode: how callers decode the heatmaps, see `landmarks.decode_heatmaps`.
    """

    norms_after = (("stem_conv", "stem_norm"),)

    def __init__(
        self,
        *,
        width: int = 256,
        depth: int = 4,
        stacks: int = 4,
        landmarks: int = 68,
        pool: str = "avg",
        decode: str = "quarter",
        make: Layers,
    ):
        if width < 16 or width % 16:
            raise ValueError(f"width must be a positive multiple of 16, got {width}")
        if depth < 1 or stacks < 1 or landmarks < 1:
            raise ValueError(
                f"depth, stacks and landmarks must be at least 1, got {depth}, {stacks}, "
                f"{landmarks}"
            )
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(map(repr, POOLS))}, got {pool!r}")
        if decode not in DECODERS:
            raise ValueError(
                f"decode must be one of {', '.join(map(repr, DECODERS))}, got {decode!r}"
            )
        self.width, self.depth = width, depth
        self.pool, self.decode = pool, decode
        self.multiple = 4 * 2**depth
        self.dtype, self.output_dtype = make.dtype, make.output_dtype
        self.stem_conv = make.conv(3, width // 4, 7, stride=2, bias=True)
        self.stem_norm = make.norm(width // 4)
        self.stem_block1 = ConvBlock(width // 4, width // 2, make)
        self.stem_block2 = ConvBlock(width // 2, width // 2, make)
        self.stem_block3 = ConvBlock(width // 2, width, make)
        self.stacks = nnx.List(
            Stack(depth, width, landmarks, pool, i == stacks - 1, make) for i in range(stacks)
        )

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> dict[str, Any]:
        """Return the heatmaps of images [B, H, W, 3] in [0, 1].

        They are `heatmaps` [B, H/4, W/4, landmarks] of the last stack, `stack_heatmaps`, a tuple
        with the heatmaps of every stack, and `features`, a tuple of the stem's output and one
        feature per stack, each [B, H/4, W/4, width] in the dtype of the computation.
        """
        del rngs  # nothing is drawn; part of the signature all models share
        check_images(images)
        height, width = images.shape[1:3]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"images are {height} x {width}; both sides must be multiples of {self.multiple} "
                "(4 * 2**depth): resize them or build the model with another depth"
            )
        x = nnx.relu(self.stem_norm(self.stem_conv(images.astype(self.dtype))))
        x = POOLS[self.pool](self.stem_block1(x))
        x = self.stem_block3(self.stem_block2(x))
        features, stack_heatmaps = [x], []
        for stack in self.stacks:
            heatmaps, feature, x = stack(x)
            features.append(feature)
            stack_heatmaps.append(heatmaps.astype(self.output_dtype))
        return {
            "heatmaps": stack_heatmaps[-1],
            "stack_heatmaps": tuple(stack_heatmaps),
            "features": tuple(features),
        }
