"""IR-50: a ResNet for faces whose blocks begin and end with BatchNorm.

Deng, Guo, Xue and Zafeiriou, "ArcFace: additive angular margin loss for deep face recognition",
CVPR 2019; equal to the image network of the released POSTER++ at the default settings. Its fourth
stage and its identity embedding, which no expression network reads, are left out.
"""

import jax
from flax import nnx
from jax import lax

from affect_jax.models.layers import Layers, PReLU, check_images, resize_nearest
from affect_jax.models.registry import register


class Unit(nnx.Module):
    """BatchNorm, 3x3 convolution, PReLU, 3x3 convolution, BatchNorm, and a shortcut.

    The second convolution has the stride.

    The shortcut keeps every `stride`-th pixel, or is a strided 1x1 convolution with BatchNorm where
    the number of features changes. Nothing follows the sum.
    """

    norms_after = (("conv2", "norm2"), ("shortcut_conv", "shortcut_norm"))

    def __init__(self, in_features: int, features: int, stride: int, make: Layers):
        self.stride = stride
        self.norm1 = make.norm(in_features)
        self.conv1 = make.conv(in_features, features, 3)
        self.act = PReLU(features, make.param_dtype)
        self.conv2 = make.conv(features, features, 3, stride)
        self.norm2 = make.norm(features)
        self.has_projection = in_features != features
        if self.has_projection:
            self.shortcut_conv = make.conv(in_features, features, 1, stride)
            self.shortcut_norm = make.norm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm2(self.conv2(self.act(self.conv1(self.norm1(x)))))
        if self.has_projection:
            return y + self.shortcut_norm(self.shortcut_conv(x))
        # An index with steps would become a gather where the batch is symbolic.
        return y + lax.slice(x, (0,) * 4, x.shape, (1, self.stride, self.stride, 1))


@register("ir50")
class IR50(nnx.Module):
    """The image network of POSTER++ and ARBEx: three stages, each halving the maps.

    Stage i has `stage_sizes[i]` units of `width * 2**i` features. Images are first brought to
    `input_size` pixels, without interpolation.
    """

    norms_after = (("stem_conv", "stem_norm"),)

    def __init__(
        self,
        *,
        width: int = 64,
        stage_sizes: tuple[int, ...] = (3, 4, 14),
        input_size: int = 112,
        make: Layers,
    ):
        if width < 1 or min(stage_sizes) < 1 or len(stage_sizes) != 3:
            raise ValueError(
                "width must be at least 1 and stage_sizes three numbers of at least 1, got "
                f"{width}, {tuple(stage_sizes)}"
            )
        self.input_size = input_size
        self.dtype, self.output_dtype = make.dtype, make.output_dtype
        self.stem_conv = make.conv(3, width, 3)
        self.stem_norm = make.norm(width)
        self.stem_act = PReLU(width, make.param_dtype)
        self.stages: nnx.List[nnx.List[Unit]] = nnx.List()
        in_features = width
        for stage, size in enumerate(stage_sizes):
            features = width * 2**stage
            units: nnx.List[Unit] = nnx.List()
            for i in range(size):
                units.append(Unit(in_features, features, 1 if i else 2, make))
                in_features = features
            self.stages.append(units)

    def maps(self, images: jax.Array) -> list[jax.Array]:
        """Return the output of every stage for images [B, H, W, 3], without casts."""
        check_images(images)
        x = resize_nearest(images.astype(self.dtype), self.input_size)
        x = self.stem_act(self.stem_norm(self.stem_conv(x)))
        found = []
        for units in self.stages:
            for unit in units:
                x = unit(x)
            found.append(x)
        return found

    def __call__(self, images: jax.Array, *, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        """Return feature maps of normalised images [B, H, W, 3] of any size.

        They are `x1`, `x2`, `x3` [B, s, s, F], s being 1/2, 1/4 and 1/8 of `input_size`.
        """
        del rngs  # nothing is drawn; part of the signature all models share
        names = (f"x{i}" for i in (1, 2, 3))
        found = (x.astype(self.output_dtype) for x in self.maps(images))
        return dict(zip(names, found, strict=True))
