"""EmoFAN: expression, valence and arousal from a face, guided by its landmarks.

Toisoul, Kossaifi, Bulat, Tzimiropoulos and Pantic, "Estimation of continuous valence and arousal
levels from faces in naturalistic conditions", Nature Machine Intelligence 2021; equal to the
released EmoNet at the default settings and 256 x 256 pixels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from affect_jax.models.excitation import Excitation
from affect_jax.models.fan import FAN, ConvBlock
from affect_jax.models.feature_taps import feature_map
from affect_jax.models.fused import multiply
from affect_jax.models.layers import (
    Layers,
    check_images,
    global_average,
    lecun_normal,
    max_pool,
    split_outputs,
)
from affect_jax.models.registry import register
from affect_jax.models.relations import BY_SETTINGS, Comparison, Relations
from affect_jax.models.reliability import Reliability


class EmotionBranch(nnx.Module):
    """From the trunk's features to an embedding, and on to n_expression + 2 numbers."""

    norms_after = (("hidden", "norm"),)

    def __init__(
        self, in_features: int, width: int, blocks: int, n_outputs: int, se: bool, make: Layers
    ):
        self.project = make.conv(in_features, width, 1, bias=True, init=lecun_normal)
        self.blocks = nnx.List(ConvBlock(width, width, make) for _ in range(blocks))
        self.se = Excitation(width, make) if se else None
        self.hidden = make.linear(width, width // 2)
        self.norm = make.norm(width // 2)
        self.output = make.linear(width // 2, n_outputs)

    def embed(self, x: jax.Array) -> jax.Array:
        """Return the embedding [B, width] of the trunk's features [B, h, w, F]."""
        x = self.project(x)
        for block in self.blocks:
            x = max_pool(feature_map(block(x)))
        # The published network averages its last 4 x 4 pixels; averaging all that are left is the
        # same at 256 x 256 and fits any other size.
        embedding = global_average(x)
        return embedding if self.se is None else self.se(embedding)

    def __call__(self, embedding: jax.Array) -> jax.Array:
        """Return [B, n_outputs] of embeddings [B, width]."""
        return self.output(nnx.relu(self.norm(self.hidden(embedding))))


@register("emofan", head="emotion/output")
class EmoFAN(nnx.Module):
    """A FAN trunk (`model.fan`) and an emotion branch (`model.emotion`) on top.

    Args:
      n_expression: classes; 0: valence and arousal only.
      attention: multiply the features of the stacks by the sum of the last heatmaps; False:
        concatenate the heatmaps to the features.
      width, depth, stacks, landmarks, pool: of the trunk: features, levels of an hourglass,
        hourglasses, heatmaps, and pooling ("max", "avg").
      decode: how landmarks are read off heatmaps, see `models.landmarks.DECODERS`.
      emotion_blocks: halvings of the branch after the trunk's quarter-size maps. Images need at
        least 4 * 2**max(depth, emotion_blocks) pixels.
      se: squeeze and excitation on the pooled features of the branch.
      relations: settings of `Relations` in front of the branch's last layers; None: none.
      reliability: settings of a `Reliability` behind the logits; None: no balancing.
    """

    def __init__(
        self,
        *,
        n_expression: int = 8,
        attention: bool = True,
        width: int = 256,
        depth: int = 4,
        stacks: int = 2,
        emotion_blocks: int = 4,
        landmarks: int = 68,
        pool: str = "max",
        decode: str = "quarter",
        se: bool = False,
        relations: Mapping[str, Any] | None = None,
        reliability: Mapping[str, Any] | None = None,
        make: Layers,
    ):
        if n_expression < 0 or emotion_blocks < 1:
            raise ValueError(
                "n_expression must be at least 0 and emotion_blocks at least 1, got "
                f"{n_expression}, {emotion_blocks}"
            )
        self.n_expression = n_expression
        self.attention = attention
        self.smallest = 4 * 2**emotion_blocks
        self.output_dtype = make.output_dtype
        self.fan = FAN(
            width=width,
            depth=depth,
            stacks=stacks,
            landmarks=landmarks,
            pool=pool,
            decode=decode,
            make=make,
        )
        in_features = width * (1 + stacks) + (0 if attention else landmarks)
        self.emotion = EmotionBranch(in_features, width, emotion_blocks, n_expression + 2, se, make)
        self.relations = Relations.of(relations, width, n_expression, make)
        self.reliability = Reliability.of(reliability, width, n_expression, make)

    def __call__(
        self,
        images: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, Any]:
        """Return the outputs for images [B, H, W, 3] in [0, 1].

        They are `logits` [B, n_expression], `valence` and `arousal` [B] (not squashed),
        `embedding` [B, width], the trunk's `heatmaps` and `stack_heatmaps`, and the outputs of
        `relations` and `reliability`. `model.fan(images)` runs the trunk alone. In training
        `relations` draw from the `dropout` stream of `rngs`.
        """
        check_images(images)
        if min(images.shape[1:3]) < self.smallest:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]}; the emotion branch needs at "
                f"least {self.smallest} pixels: build the model with fewer emotion_blocks"
            )
        return self.from_trunk(self.fan(images, rngs=rngs), rngs=rngs, comparison=comparison)

    def from_trunk(
        self,
        trunk: dict[str, Any],
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, Any]:
        """Return the outputs of `__call__` from the outputs of `model.fan(images)`."""
        stem, *features = trunk["features"]
        if self.attention:
            mask = jnp.sum(trunk["heatmaps"], axis=-1, keepdims=True)
            parts = [stem, *(multiply(feature, mask) for feature in features)]
        else:
            parts = [stem, *features, trunk["heatmaps"].astype(stem.dtype)]
        embedding = self.emotion.embed(jnp.concatenate(parts, axis=-1))
        return {
            **self.classify(embedding, rngs=rngs, comparison=comparison),
            "heatmaps": trunk["heatmaps"],
            "stack_heatmaps": trunk["stack_heatmaps"],
        }

    def classify(
        self,
        features: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, Any]:
        """Return the outputs for the backbone's features [B, D]: all that follows it."""
        outputs: dict[str, Any] = {}
        if self.relations is not None:
            features, outputs = self.relations(features, rngs=rngs, comparison=comparison)
        outputs["embedding"] = features.astype(self.output_dtype)
        outputs |= split_outputs(self.emotion(features), self.n_expression, self.output_dtype)
        return self.reliability(outputs) if self.reliability else outputs
