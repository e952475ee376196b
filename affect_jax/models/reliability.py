"""Reliability balancing: two further predictions, weighted by confidence.

Wasi et al., "ARBEx: Attentive feature extraction with reliability balancing for robust facial
expression learning", 2023, sections 3.3 and 3.4. It takes the embedding and the logits of any
classifier. Everything is computed from log-probabilities, in float32 or wider.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from affect_jax.models.layers import Counter, Layers, normal
from affect_jax.models.reliability_attention import BatchAttention, TokenAttention, clip_logits
from affect_jax.models.reliability_settings import parse

# Under the root of a distance, whose gradient would be NaN at 0; below float32's rounding.
_DISTANCE_EPSILON = 1e-12
# Larger than any component of a real embedding. Squares of distances, and the products of three
# components in the gradients of attention, then stay finite in float32.
_LARGEST = 1e9
# In place of log 0, so that weights of 0 do not make it NaN. Below any finite logit.
_LOG_ZERO = -1e4


def confidence(log_probs: jax.Array) -> jax.Array:
    """Return C(q) = 1 - H(q) / log N of log-probabilities [..., N], in [0, 1].

    It is 0 for the uniform distribution and 1 for a certain one.

    The paper prints a division by N; only log N gives the values that its text names.
    """
    log_probs = jnp.maximum(log_probs, _LOG_ZERO)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    # Rounding makes it slightly negative near the uniform distribution.
    return jnp.maximum(1 - entropy / math.log(log_probs.shape[-1]), 0)


def anchor_distances(embedding: jax.Array, anchors: jax.Array) -> jax.Array:
    """Return Euclidean distances [B, N, K] of embeddings [B, D] to anchors [N, K, D]."""
    difference = embedding[:, None, None, :] - anchors
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1) + _DISTANCE_EPSILON)


def geometric_correction(distances: jax.Array, delta: float) -> jax.Array:
    """Return log t_g [B, N]: softmax over the distances to anchors, summed by class."""
    batch, classes, anchors = distances.shape
    similarity = jax.nn.log_softmax(clip_logits(-distances.reshape(batch, -1) / delta))
    return jax.nn.logsumexp(similarity.reshape(batch, classes, anchors), axis=-1)


def blend(log_p: jax.Array, log_q: jax.Array, weight: jax.Array) -> jax.Array:
    """Return log(w p + (1 - w) q) of log-probabilities [B, N] and weights [B]."""
    weights = jnp.stack([weight, 1 - weight])[:, :, None]
    tiny = jnp.finfo(weights.dtype).tiny
    log_weights = jnp.log(jnp.maximum(weights, tiny))
    mixed = jnp.logaddexp(log_weights[0] + log_p, log_weights[1] + log_q)
    return jnp.maximum(mixed, _LOG_ZERO)


class Reliability(nnx.Module):
    """Corrects the class distribution of a model by anchors and by attention.

    With the primary distribution l = softmax(logits / temperature), anchors give t_g and attention
    gives t_a. t is their average, weighted by their confidences, and the final distribution L the
    average of l and t. A weight is (c_1 + epsilon) / (c_1 + c_2 + 2 epsilon), smooth where both are
    unsure; one half where that is 0 / 0. Components of an embedding are clipped at 1e9.

    Args:
      features, n_expression: sizes of embedding and logits.
      make: factory of layers, with random streams, parameter dtype and replica axis of the model.
      **settings: see `ReliabilitySettings`.

    Raises:
      ValueError: settings that cannot be, or do not fit the sizes.
    """

    def __init__(self, features: int, n_expression: int, *, make: Layers, **settings: Any):
        chosen = parse(settings)
        if n_expression < 2:
            raise ValueError(f"reliability needs at least 2 classes, the model has {n_expression}")
        if chosen.scope == "example" and chosen.tokens > features:
            raise ValueError(
                f"reliability.tokens = {chosen.tokens}: an embedding of {features} numbers cannot "
                "be cut into that many pieces"
            )
        make = dataclasses.replace(make, dtype=make.output_dtype)
        self.settings = chosen
        self.deterministic = False  # switched by `model.train()` and `model.eval()`
        self.norm = make.norm(features) if chosen.normalise else None
        if chosen.anchors:
            shape = (n_expression, chosen.anchors, features)
            draw = normal(chosen.anchor_scale)
            self.anchors = nnx.Param(draw(make.rngs.params(), shape, make.param_dtype))
        self.attention: TokenAttention | BatchAttention
        if chosen.scope == "example":
            self.attention = TokenAttention(
                features, n_expression, chosen.tokens, chosen.heads, make
            )
        else:
            self.attention = BatchAttention(
                features, n_expression, chosen.attention_per_class, chosen.heads, make
            )
        if chosen.correction == "trust" and chosen.ramp_steps:
            self.steps = Counter(jnp.zeros((), make.output_dtype))

    @classmethod
    def of(
        cls, settings: Mapping[str, Any] | None, features: int, n_expression: int, make: Layers
    ) -> "Reliability | None":
        """Return the balancing that a model's `reliability` argument asks for, or None.

        Raises:
          ValueError: as the constructor.
        """
        if settings is None or settings is False:  # False is in model directories of early runs
            return None
        parse(settings)
        return cls(features, n_expression, make=make, **settings)

    def __call__(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model's outputs with balanced `logits` and further outputs.

        `logits` become log L [B, N]. New are the distributions `primary` (l) and `corrected` (t)
        [B, N], their confidences `confidence_primary` and `confidence_corrected` [B], and with
        anchors `anchor_distances` [B, N, K]. In training mode there are also `embedding_norm` [B]
        of the compared embedding, `anchors` [N, K, D] and, for "trust", the ramp `trust` [].
        """
        settings = self.settings
        wide = jnp.promote_types(jnp.float32, outputs["logits"].dtype)
        embedding = outputs["embedding"].astype(wide)
        if self.norm is not None:
            embedding = self.norm(embedding)
        embedding = jnp.clip(embedding, -_LARGEST, _LARGEST)
        logits = outputs["logits"].astype(wide) / settings.temperature
        primary = jnp.maximum(jax.nn.log_softmax(clip_logits(logits)), _LOG_ZERO)
        new: dict[str, Any] = {}
        if not self.deterministic:
            new["embedding_norm"] = jnp.linalg.norm(lax.stop_gradient(embedding), axis=1)
        geometric = None
        if settings.anchors:
            anchors = self.anchors[...].astype(wide)
            new["anchor_distances"] = anchor_distances(embedding, anchors)
            geometric = geometric_correction(new["anchor_distances"], settings.delta)
            if not self.deterministic:
                new["anchors"] = anchors
        corrected = self._corrected(geometric, embedding)
        certainty = confidence(primary), confidence(corrected)
        if settings.correction == "off":
            final = primary
        elif settings.correction == "trust":
            ramp = self._ramp()
            if not self.deterministic:
                new["trust"] = ramp
            share = ramp * (1 - self._weighing(certainty[0]))
            final = blend(corrected, primary, share)
        else:
            final = blend(primary, corrected, self._share(*certainty))
        return {
            **outputs,
            **new,
            "logits": final,
            "primary": jnp.exp(primary),
            "corrected": jnp.exp(corrected),
            "confidence_primary": certainty[0],
            "confidence_corrected": certainty[1],
        }

    def _corrected(self, geometric: jax.Array | None, embedding: jax.Array) -> jax.Array:
        """Return log t [B, N]."""
        if geometric is not None and self.settings.correction == "geometric":
            return geometric
        attentive = self.attention(embedding)
        if geometric is None or self.settings.correction == "attentive":
            return attentive
        share = self._share(confidence(geometric), confidence(attentive))
        return blend(geometric, attentive, share)

    def _weighing(self, certainty: jax.Array) -> jax.Array:
        return lax.stop_gradient(certainty) if self.settings.detach_confidence else certainty

    def _share(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Return the weight [B] of the first of two distributions with these confidences."""
        epsilon = self.settings.epsilon
        first, second = self._weighing(first), self._weighing(second)
        total = first + second + 2 * epsilon
        # With epsilon = 0 and two uniform distributions it would be 0 / 0, also in the gradient.
        share = (first + epsilon) / jnp.where(total > 0, total, 1)
        return jnp.where(total > 0, share, 0.5)

    def _ramp(self) -> jax.Array:
        """Return how far "trust" has been ramped in, in [0, 1]; count training steps."""
        if not self.settings.ramp_steps:
            return jnp.ones((), jnp.float32)
        ramp = jnp.minimum(self.steps[...] / self.settings.ramp_steps, 1)
        if not self.deterministic:
            self.steps[...] = self.steps[...] + 1
        return ramp
