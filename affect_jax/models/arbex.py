"""ARBEx: POSTER++ features, a classification head, and reliability balancing.

Wasi et al., "ARBEx: Attentive feature extraction with reliability balancing for robust facial
expression learning", 2023. Paper and official code differ in the head, and so there are two
configurations: "arbex" is the paper's, "arbex_official" the code's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from affect_jax.models.layers import BatchNorm, Layers
from affect_jax.models.poster import TINY, Poster
from affect_jax.models.registry import register, section
from affect_jax.models.relations import BY_SETTINGS, Comparison, Relations
from affect_jax.models.reliability import Reliability

# The paper's best number of anchors per class.
PAPER_RELIABILITY = {"anchors": 10}
# The official script: one anchor per class, drawn here at the embedding's scale instead of 0.
OFFICIAL_RELIABILITY = {
    "normalise": False,
    "anchors": 1,
    "scope": "batch",
    "heads": 1,
    "correction": "trust",
}
# Every size of the feature extractor that a config can set.
BACKBONE = {
    name: value
    for name, value in section("poster_v2").items()
    if name not in ("regression", "relations", "reliability", "dtype")
}


class Head(nnx.Module):
    """A classification head: hidden layers (linear, ReLU, BatchNorm, dropout), linear.

    The normalisation after the activation is the official order.
    """

    def __init__(
        self, features: int, hidden: Sequence[int], outputs: int, dropout: float, make: Layers
    ):
        self.hidden: nnx.List[nnx.Linear] = nnx.List()
        self.norms: nnx.List[BatchNorm] = nnx.List()
        for width in hidden:
            self.hidden.append(make.linear(features, width))
            self.norms.append(make.norm(width))
            features = width
        self.dropout = nnx.Dropout(dropout)
        self.output = make.linear(features, outputs)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return numbers [B, outputs] of embeddings [B, features]."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = self.dropout(norm(nnx.relu(layer(x))), rngs=rngs)
        return self.output(x)


@register(
    "arbex_official",
    head="head/output",
    preset={"reduction": 0, "hidden": (384, 192, 96), "reliability": OFFICIAL_RELIABILITY},
)
@register(
    "arbex_tiny",
    head="head/output",
    preset={"reduction": 64, "hidden": (64,), "dropout": 0.2, "backbone": BACKBONE | TINY},
)
@register("arbex", head="head/output")
class ARBEx(nnx.Module):
    """A `Poster` without a head (`model.backbone`), and what ARBEx puts behind it.

    Args:
      n_expression: classes.
      reduction: features of the linear layer on the backbone's embedding; 0: no such layer. Its
        output is the embedding that head, anchors and attention see.
      hidden, dropout: of the `Head`.
      relations: settings of `Relations` in front of the head; None: none.
      reliability: settings of the `Reliability`; None: no balancing. They replace all settings of
        "arbex_official", which are the defaults of that model.
      backbone: arguments of the `Poster`, such as its sizes.

    Raises:
      ValueError: values out of range, and as `Poster` and `Reliability`.
      TypeError: an argument that the `Poster` does not have.
    """

    def __init__(
        self,
        *,
        n_expression: int = 8,
        reduction: int = 128,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.5,
        relations: Mapping[str, Any] | None = None,
        reliability: Mapping[str, Any] | None = PAPER_RELIABILITY,
        backbone: Mapping[str, Any] = BACKBONE,
        make: Layers,
    ):
        if n_expression < 2 or reduction < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "n_expression must be at least 2, reduction at least 0 and dropout in [0, 1), got "
                f"{n_expression}, {reduction}, {dropout}"
            )
        self.output_dtype = make.output_dtype
        self.backbone = Poster(**{**(backbone or {}), "n_expression": 0}, make=make)
        features = self.backbone.transformer.cls_token.shape[-1]
        self.reduce = make.linear(features, reduction) if reduction else None
        features = reduction or features
        self.head = Head(features, hidden, n_expression, dropout, make)
        self.relations = Relations.of(relations, features, n_expression, make)
        self.reliability = Reliability.of(reliability, features, n_expression, make)

    def __call__(
        self,
        images: jax.Array,
        *,
        rngs: nnx.Rngs | None = None,
        comparison: Comparison = BY_SETTINGS,
    ) -> dict[str, jax.Array]:
        """Return the outputs for normalised images [B, H, W, 3].

        They are `logits` [B, n_expression] and `embedding` [B, D], D being `reduction` or the
        backbone's; with `relations` and `reliability` also their outputs. In training, dropout,
        stochastic depth and `relations` draw from the `dropout` stream of `rngs`.
        """
        features = self.backbone(images, rngs=rngs)["embedding"]
        embedding = features if self.reduce is None else self.reduce(features)
        return self.classify(embedding, rngs=rngs, comparison=comparison)

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
        outputs["logits"] = self.head(features, rngs=rngs).astype(self.output_dtype)
        return self.reliability(outputs) if self.reliability else outputs
