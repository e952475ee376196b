"""ResNet-18, 34 and 50, equal to torchvision's.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, with
torchvision's one change: in the bottleneck the 3x3 convolution has the stride. In a fresh network
every block is its shortcut alone (Goyal et al., "Accurate, large minibatch SGD", 2017,
5.1), as timm's do.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from affect_jax.models.excitation import Excitation
from affect_jax.models.feature_taps import feature_map
from affect_jax.models.layers import (
    Layers,
    check_images,
    global_average,
    he_normal_fan_out,
    max_pool,
    split_outputs,
)
from affect_jax.models.registry import register
from affect_jax.models.relations import BY_SETTINGS, Comparison, Relations
from affect_jax.models.reliability import Reliability


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1
    norms_after = (("conv1", "norm1"), ("conv2", "norm2"), ("shortcut_conv", "shortcut_norm"))

    def __init__(self, in_features: int, features: int, stride: int, make: Layers):
        self.conv1 = make.conv(in_features, features, 3, stride, init=he_normal_fan_out)
        self.norm1 = make.norm(features)
        self.conv2 = make.conv(features, features, 3, init=he_normal_fan_out)
        self.norm2 = make.norm(features, scale=0.0)
        _add_shortcut(self, in_features, features, stride, make)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(y)) + _shortcut(self, x))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as many features out, and a shortcut."""

    expansion = 4
    norms_after = (*BasicBlock.norms_after, ("conv3", "norm3"))

    def __init__(self, in_features: int, features: int, stride: int, make: Layers):
        out_features = features * self.expansion
        self.conv1 = make.conv(in_features, features, 1, init=he_normal_fan_out)
        self.norm1 = make.norm(features)
        self.conv2 = make.conv(features, features, 3, stride, init=he_normal_fan_out)
        self.norm2 = make.norm(features)
        self.conv3 = make.conv(features, out_features, 1, init=he_normal_fan_out)
        self.norm3 = make.norm(out_features, scale=0.0)
        _add_shortcut(self, in_features, out_features, stride, make)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        return nnx.relu(self.norm3(self.conv3(y)) + _shortcut(self, x))


def _add_shortcut(block, in_features: int, out_features: int, stride: int, make: Layers) -> None:
    block.has_projection = stride != 1 or in_features != out_features
    if block.has_projection:
        block.shortcut_conv = make.conv(
            in_features, out_features, 1, stride, init=he_normal_fan_out
        )
        block.shortcut_norm = make.norm(out_features)


def _shortcut(block, x: jax.Array) -> jax.Array:
    return block.shortcut_norm(block.shortcut_conv(x)) if block.has_projection else x


@register("resnet18", head="head", block=BasicBlock, stage_sizes=(2, 2, 2, 2))
@register("resnet34", head="head", block=BasicBlock, stage_sizes=(3, 4, 6, 3))
@register("resnet50", head="head", block=Bottleneck, stage_sizes=(3, 4, 6, 3))
class ResNet(nnx.Module):
    """A ResNet that gives class logits and, with `regression`, valence and arousal.

    Args:
      n_expression: classes; 0 with `regression`: valence and arousal only.
      regression: valence and arousal too.
      width: features of the first stage (64 in the published networks).
      se: squeeze and excitation between the pooled features and the last layer.
      relations: settings of `Relations` in front of the last layers; None: none.
      reliability: settings of a `Reliability` behind the logits; None: no balancing.
    """

    norms_after = (("stem_conv", "stem_norm"),)

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        stage_sizes: tuple[int, ...],
        n_expression: int = 8,
        regression: bool = False,
        width: int = 64,
        se: bool = False,
        relations: Mapping[str, Any] | None = None,
        reliability: Mapping[str, Any] | None = None,
        make: Layers,
    ):
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if n_expression < 0 or (n_expression == 0 and not regression):
            raise ValueError(
                f"n_expression must be at least 1, or 0 with regression, got {n_expression}"
            )
        self.n_expression = n_expression
        self.dtype, self.output_dtype = make.dtype, make.output_dtype
        self.stem_conv = make.conv(3, width, 7, stride=2, init=he_normal_fan_out)
        self.stem_norm = make.norm(width)
        self.stages: nnx.List[nnx.List[BasicBlock | Bottleneck]] = nnx.List()
        in_features = width
        for stage, size in enumerate(stage_sizes):
            features = width * 2**stage
            blocks: nnx.List[BasicBlock | Bottleneck] = nnx.List()
            for i in range(size):
                blocks.append(block(in_features, features, 2 if stage and i == 0 else 1, make))
                in_features = features * block.expansion
            self.stages.append(blocks)
        self.se = Excitation(in_features, make) if se else None
        self.regression = regression
        self.head = make.linear(in_features, n_expression + (2 if regression else 0))
        self.relations = Relations.of(relations, in_features, n_expression, make)
        self.reliability = Reliability.of(reliability, in_features, n_expression, make)

    def __call__(
        self,
        images: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs for normalised images [B, H, W, 3] of any size.

        They are `logits` [B, n_expression], with `regression` `valence` and `arousal` [B];
        `layer1`, `layer2` ... the output of every stage [B, h, w, F]; `avgpool` [B, F], the
        average of the last stage; `embedding`, the same after squeeze and excitation and
        `relations`; and the outputs of `relations` and `reliability`. In training `relations` draw
        from the `dropout` stream of `rngs`.
        """
        check_images(images)
        x = nnx.relu(self.stem_norm(self.stem_conv(images.astype(self.dtype))))
        x = max_pool(x, window=3, stride=2, padding=1)
        outputs = {}
        for number, blocks in enumerate(self.stages, start=1):
            for block in blocks:
                x = block(x)
            outputs[f"layer{number}"] = x.astype(self.output_dtype)
        x = global_average(feature_map(x))
        outputs["avgpool"] = x.astype(self.output_dtype)
        if self.se is not None:
            x = self.se(x)
        return outputs | self.classify(x, rngs=rngs, comparison=comparison)

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
        outputs |= split_outputs(self.head(features), self.n_expression, self.output_dtype)
        return self.reliability(outputs) if self.reliability else outputs
