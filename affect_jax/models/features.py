"""A head on stored features: what comes after the backbone of another model, alone.

The features come from `--mode=eval --config.eval.features=PATH` (see docs/features.md). With the
linear layer alone this is a linear probe.
"""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from affect_jax.models.layers import Layers, split_outputs
from affect_jax.models.registry import register
from affect_jax.models.relations import BY_SETTINGS, Comparison, Relations
from affect_jax.models.reliability import Reliability


@register("features", head="head")
class Features(nnx.Module):
    """Class logits and, with `regression`, valence and arousal from features.

    Args:
      n_features: numbers of a feature vector D.
      n_expression: classes; 0 with `regression`: valence and arousal only.
      regression: valence and arousal too.
      relations: settings of `Relations` in front of the last layer; None: none.
      reliability: settings of a `Reliability` behind the logits; None: no balancing.

    Attributes:
      input_shape: (D,), see `models.input_shape`.
    """

    def __init__(
        self,
        *,
        n_features: int = 512,
        n_expression: int = 8,
        regression: bool = False,
        relations: Mapping[str, Any] | None = None,
        reliability: Mapping[str, Any] | None = None,
        make: Layers,
    ):
        if n_features < 1:
            raise ValueError(f"n_features must be at least 1, got {n_features}")
        if n_expression < 0 or (n_expression == 0 and not regression):
            raise ValueError(
                f"n_expression must be at least 1, or 0 with regression, got {n_expression}"
            )
        self.input_shape = (n_features,)
        self.n_expression = n_expression
        self.dtype, self.output_dtype = make.dtype, make.output_dtype
        self.head = make.linear(n_features, n_expression + (2 if regression else 0))
        self.relations = Relations.of(relations, n_features, n_expression, make)
        self.reliability = Reliability.of(reliability, n_features, n_expression, make)

    def __call__(
        self,
        features: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs for features [B, D].

        They are `logits` [B, n_expression], with `regression` `valence` and `arousal` [B],
        `embedding` [B, D], what the last layer sees, and the outputs of `relations` and
        `reliability`. In training `relations` draw from the `dropout` stream of `rngs`.
        """
        if features.ndim != 2 or features.shape[1:] != self.input_shape:
            raise ValueError(f"features must be [B, {self.input_shape[0]}], got {features.shape}")
        return self.classify(features.astype(self.dtype), rngs=rngs, comparison=comparison)

    def classify(
        self,
        features: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs of `__call__`, all that comes after the backbone."""
        outputs: dict[str, jax.Array] = {}
        if self.relations is not None:
            features, outputs = self.relations(features, rngs=rngs, comparison=comparison)
        outputs["embedding"] = features.astype(self.output_dtype)
        outputs |= split_outputs(self.head(features), self.n_expression, self.output_dtype)
        return self.reliability(outputs) if self.reliability else outputs
