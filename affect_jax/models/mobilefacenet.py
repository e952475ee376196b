"""MobileFaceNet: a small network of depthwise convolutions, here for landmarks.

Chen, Liu, Gao and Han, "MobileFaceNets: efficient CNNs for accurate real-time face verification on
mobile devices", CCBR 2018; equal to the landmark network of the released POSTER++ at the default
settings. The layers that turn its last map into coordinates, which POSTER++ computes and never
reads, are left out.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from affect_jax.models.fused import multiply
from affect_jax.models.layers import Layers, PReLU, check_images, he_normal, resize_nearest
from affect_jax.models.registry import register


class DepthwiseConv(nnx.Module):
    """A 3x3 depthwise convolution, padded by 1 on every side.

    Written as a sum of nine weighted shifts of the image: on CPU it is 20 times faster than
    XLA's grouped convolution, its gradient 4 to 30 times.
    """

    def __init__(self, features: int, stride: int, make: Layers):
        self.stride = stride
        self.dtype = make.dtype
        shape = (3, 3, 1, features)
        self.kernel = nnx.Param(he_normal(make.rngs.params(), shape, make.param_dtype))
        self.bias: nnx.Param | None = nnx.data(None)  # only in the inference form

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = jnp.promote_types(jnp.float32, self.dtype)
        kernel = self.kernel[...]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        b, *last, c = x.shape
        last = [(n - 3) // self.stride * self.stride + 1 for n in last]
        strides = (1, self.stride, self.stride, 1)
        terms = (
            multiply(
                lax.slice(x, (0, i, j, 0), (b, i + last[0], j + last[1], c), strides),
                kernel[i, j, 0],
            ).astype(wide)
            for i in range(3)
            for j in range(3)
        )
        y = functools.reduce(operator.add, terms).astype(self.dtype)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class ConvUnit(nnx.Module):
    """A convolution, BatchNorm and optionally PReLU; kernel 0 is depthwise 3x3."""

    norms_after = (("conv", "norm"),)

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel: int,
        stride: int,
        make: Layers,
        act: bool = True,
    ):
        self.conv: nnx.Conv | DepthwiseConv = (
            make.conv(in_features, features, kernel, stride)
            if kernel
            else DepthwiseConv(features, stride, make)
        )
        self.norm = make.norm(features)
        self.act = PReLU(features, make.param_dtype) if act else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


class Bottleneck(nnx.Module):
    """1x1 to `hidden` features, depthwise 3x3 with the stride, 1x1 to `features`.

    With `residual` the input is added; nothing follows the sum.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        features: int,
        make: Layers,
        stride: int = 1,
        residual: bool = False,
    ):
        self.residual = residual
        self.expand = ConvUnit(in_features, hidden, 1, 1, make)
        self.depthwise = ConvUnit(hidden, hidden, 0, stride, make)
        self.project = ConvUnit(hidden, features, 1, 1, make, act=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Stage(nnx.Module):
    """A unit that halves the maps, and `size` residual units."""

    def __init__(
        self, in_features: int, down: int, hidden: int, features: int, size: int, make: Layers
    ):
        self.down = Bottleneck(in_features, down, features, make, stride=2)
        self.units = nnx.List(
            Bottleneck(features, hidden, features, make, residual=True) for _ in range(size)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.down(x)
        for unit in self.units:
            x = unit(x)
        return x


@register("mobilefacenet")
class MobileFaceNet(nnx.Module):
    """The landmark network of POSTER++ and ARBEx: maps of 1/4, 1/8 and 1/16 size.

    They have `width`, `2 * width` and `8 * width` features; a stage has `stage_sizes[i]` residual
    units. Images are first brought to `input_size` pixels, without interpolation.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        stage_sizes: tuple[int, ...] = (4, 6, 2),
        input_size: int = 112,
        make: Layers,
    ):
        if width < 1 or min(stage_sizes) < 0 or len(stage_sizes) != 3:
            raise ValueError(
                "width must be at least 1 and stage_sizes three numbers of at least 0, got "
                f"{width}, {tuple(stage_sizes)}"
            )
        self.input_size = input_size
        self.dtype, self.output_dtype = make.dtype, make.output_dtype
        w = width
        self.stem = ConvUnit(3, w, 3, 2, make)
        self.stem_depthwise = ConvUnit(w, w, 0, 1, make)
        self.stages = nnx.List(
            [
                Stage(w, 2 * w, 2 * w, w, stage_sizes[0], make),
                Stage(w, 4 * w, 4 * w, 2 * w, stage_sizes[1], make),
                Stage(2 * w, 8 * w, 4 * w, 2 * w, stage_sizes[2], make),
            ]
        )
        self.features = ConvUnit(2 * w, 8 * w, 1, 1, make)

    def maps(self, images: jax.Array) -> list[jax.Array]:
        """Return the three maps for normalised images [B, H, W, 3], as computed."""
        check_images(images)
        x = resize_nearest(images.astype(self.dtype), self.input_size)
        x = self.stem_depthwise(self.stem(x))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return [*found[:2], self.features(x)]

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        """Return feature maps of normalised images [B, H, W, 3] of any size.

        They are `out3`, `out4` and `conv_features` [B, s, s, F], s being 1/4, 1/8 and 1/16 of
        `input_size`.
        """
        del rngs  # nothing is drawn; part of the signature all models share
        names = ("out3", "out4", "conv_features")
        found = (x.astype(self.output_dtype) for x in self.maps(images))
        return dict(zip(names, found, strict=True))
