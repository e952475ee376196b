"""Reliability balancing: a second and a third opinion on a prediction, weighed by confidence.

Wasi et al., "ARBEx: Attentive feature extraction with reliability balancing for robust facial
expression learning", 2023, sections 3.3 and 3.4. It takes the embedding and the logits of any
classifier. Everything is computed from log-probabilities, in float32 or wider.
"""

import dataclasses
import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from affect_jax.errors import nearest
from affect_jax.models.attention import attend
from affect_jax.models.layers import Counter, Layers, normal

SCOPES = ("example", "batch")
CORRECTIONS = ("weighted", "both", "trust", "off", "geometric", "attentive")

# Under the root of a distance, whose gradient would be NaN at 0; below float32's rounding.
_DISTANCE_EPSILON = 1e-12
# No component of a real embedding is larger. Squares of distances, and the products of three
# components in the gradients of attention, then stay finite in float32.
_LARGEST = 1e9
# What goes into a softmax is cut here, far beyond what it can tell apart. XLA may compute that anew
# beside its maximum, and where the two round differently by 90 and more the result is NaN.
_LARGEST_LOGIT = 1e6
# Stands for log 0, so that weights of 0 do not make NaN of it. Any finite logit is above it.
_LOG_ZERO = -1e4


def confidence(log_probs: jax.Array) -> jax.Array:
    """C(q) = 1 - H(q) / log N of log-probabilities [..., N]: 0 if uniform, 1 if certain.

    The paper prints a division by N; only log N gives the values that its text names.
    """
    log_probs = jnp.maximum(log_probs, _LOG_ZERO)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    # Rounding makes it slightly negative near the uniform distribution.
    return jnp.maximum(1 - entropy / math.log(log_probs.shape[-1]), 0)


def anchor_distances(embedding: jax.Array, anchors: jax.Array) -> jax.Array:
    """Euclidean distances [B, N, K] of embeddings [B, D] to anchors [N, K, D]."""
    difference = embedding[:, None, None, :] - anchors
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1) + _DISTANCE_EPSILON)


def _cut(logits: jax.Array) -> jax.Array:
    return jnp.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)


def geometric_correction(distances: jax.Array, delta: float) -> jax.Array:
    """log t_g [B, N]: softmax of -distance / delta over all anchors, summed within the classes."""
    batch, classes, anchors = distances.shape
    similarity = jax.nn.log_softmax(_cut(-distances.reshape(batch, -1) / delta))
    return jax.nn.logsumexp(similarity.reshape(batch, classes, anchors), axis=-1)


def blend(log_p: jax.Array, log_q: jax.Array, weight: jax.Array) -> jax.Array:
    """log(weight p + (1 - weight) q) for log-probabilities [B, N] and weights [B] of p."""
    weights = jnp.stack([weight, 1 - weight])[:, :, None]
    tiny = jnp.finfo(weights.dtype).tiny
    log_weights = jnp.log(jnp.maximum(weights, tiny))
    mixed = jnp.logaddexp(log_weights[0] + log_p, log_weights[1] + log_q)
    return jnp.maximum(mixed, _LOG_ZERO)


class TokenAttention(nnx.Module):
    """Self-attention between the pieces of one embedding; no example sees another.

    The embedding is cut into `tokens` pieces, for with a single one attention would be a linear
    layer whose queries and keys never matter. A learned position tells the pieces apart.
    """

    def __init__(self, features: int, n_outputs: int, tokens: int, heads: int, make: Layers):
        self.tokens, self.heads = tokens, heads
        self.width = -(-features // tokens)
        inner = heads * -(-self.width // heads)
        shape = (tokens, self.width)
        self.positions = nnx.Param(normal(0.02)(make.rngs.params(), shape, make.param_dtype))
        self.query, self.key, self.value = (make.linear(self.width, inner) for _ in range(3))
        self.out = make.linear(tokens * inner, n_outputs)

    def __call__(self, embedding: jax.Array) -> jax.Array:
        """log t_a [B, N] of embeddings [B, D]."""
        rest = self.tokens * self.width - embedding.shape[1]
        pieces = jnp.pad(embedding, ((0, 0), (0, rest)))
        positions = self.positions[...].astype(embedding.dtype)
        pieces = pieces.reshape(-1, self.tokens, self.width) + positions
        q, k, v = self.query(pieces), self.key(pieces), self.value(pieces)
        attended = _attend(q, k, v, self.heads)
        return jax.nn.log_softmax(_cut(self.out(attended.reshape(attended.shape[0], -1))))


class BatchAttention(nnx.Module):
    """Self-attention between the examples of the batch, as the official code has it.

    What is predicted for a picture depends on the others of its batch, padding included; this is
    for comparison with that code. In training mode the batch is that of all replicas, in
    evaluation mode what the caller gives. Outputs are [B, N * per_class], summed within the
    classes.

    Raises:
      ValueError: if the heads do not divide the outputs.
    """

    def __init__(
        self,
        features: int,
        n_outputs: int,
        per_class: int,
        heads: int,
        make: Layers,
    ):
        width = n_outputs * per_class
        if width % heads:
            raise ValueError(
                f'reliability: with scope "batch" heads must divide {width} '
                f"(classes * attention_per_class), got {heads}"
            )
        self.n_outputs, self.heads, self.axis_name = n_outputs, heads, make.axis_name
        self.deterministic = False  # switched by `model.train()` and `model.eval()`
        self.query, self.key, self.value = (make.linear(features, width) for _ in range(3))
        self.in_proj = make.linear(width, 3 * width)
        self.out = make.linear(width, width)

    def __call__(self, embedding: jax.Array) -> jax.Array:
        """log t_a [B, N] of embeddings [B, D]."""
        kernels = jnp.split(self.in_proj.kernel[...].astype(embedding.dtype), 3, axis=1)
        biases = jnp.split(self.in_proj.bias[...].astype(embedding.dtype), 3)
        first = (self.query, self.key, self.value)
        q, k, v = (
            layer(embedding) @ kernel + bias
            for layer, kernel, bias in zip(first, kernels, biases, strict=True)
        )
        k, v = self._of_all_replicas(k), self._of_all_replicas(v)
        mixed = self.out(_attend(q[None], k[None], v[None], self.heads)[0])
        log_probs = jax.nn.log_softmax(_cut(mixed)).reshape(len(embedding), self.n_outputs, -1)
        return jax.nn.logsumexp(log_probs, axis=-1)

    def _of_all_replicas(self, x: jax.Array) -> jax.Array:
        if self.axis_name is None or self.deterministic:
            return x
        return lax.all_gather(x, self.axis_name, tiled=True)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Multi-head attention of [S, Q, F] to [S, K, F]; heads are cut from the last axis."""

    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    attended = attend(q, k, v, largest=_LARGEST_LOGIT)
    return attended.reshape(*attended.shape[:2], -1)


class Reliability(nnx.Module):
    """Corrects the class distribution of a model by anchors and by attention.

    With the primary distribution l = softmax(logits / temperature), anchors give t_g and attention
    gives t_a; t is their average, weighted by their confidences, and the final distribution L that
    of l and t. A weight is (c_1 + epsilon) / (c_1 + c_2 + 2 epsilon), smooth where both are unsure;
    one half where that is 0 / 0. Components of an embedding are cut at 1e9 in size.

    Args:
      features, n_expression: sizes of embedding and logits.
      normalise: standardise every component of the embedding over the batch (BatchNorm) before it
        is compared; not in the paper, but backbones differ a hundredfold in the scale of their
        embeddings, and anchors are to be drawn at that scale. It has a trained scale and bias, so
        that only at the start is a component's standard deviation 1: see `embedding_norm`.
      anchors: anchors per class K; 0: none, t = t_a.
      anchor_scale: standard deviation of the anchors' components at the start. (All at zero, as
        in the official code, they tie and never part.)
      delta: temperature of the distances, in units of the compared embedding.
      scope: "example": attention within an embedding (`TokenAttention`); "batch": across the batch
        (`BatchAttention`).
      tokens, heads: of the attention; tokens, at most `features`, with scope "example" only.
      attention_per_class: attention outputs per class, with scope "batch" only.
      correction: "weighted" or "both": as above. "geometric", "attentive": t is that one alone.
        "off": L = l. "trust": the official blend, L = (1 - r) l + r (c_l l + (1 - c_l) t), where r
        rises from 0 to 1 in `ramp_steps` training steps.
      ramp_steps: of "trust"; 0: r is 1 from the start. (In a config 0 is what trains the classes,
        which `systems.base` puts in.)
      temperature: divides the primary logits.
      epsilon: of the confidence weights.
      detach_confidence: no gradient through confidences.
      make: factory of layers, with random streams, parameter dtype and replica axis of the model.

    Raises:
      ValueError: for values of the wrong type or out of range, and for those that make no sense
        together.
    """

    def __init__(
        self,
        features: int,
        n_expression: int,
        *,
        normalise: bool = True,
        anchors: int = 10,  # 8 to 10 are best in the paper
        anchor_scale: float = 1.0,
        delta: float = 1.0,
        scope: str = "example",
        tokens: int = 8,
        heads: int = 4,
        attention_per_class: int = 1,
        correction: str = "weighted",
        ramp_steps: int = 0,
        temperature: float = 1.0,
        epsilon: float = 1e-4,
        detach_confidence: bool = False,
        make: Layers,
    ):
        if n_expression < 2:
            raise ValueError(f"reliability needs at least 2 classes, the model has {n_expression}")
        for name, choice, choices in (
            ("scope", scope, SCOPES),
            ("correction", correction, CORRECTIONS),
        ):
            if choice not in choices:
                raise ValueError(
                    f"reliability.{name} = {choice!r}; {nearest(str(choice), choices)}"
                )
        _check_switches(normalise=normalise, detach_confidence=detach_confidence)
        _check_counts(0, anchors=anchors, ramp_steps=ramp_steps)
        _check_counts(1, tokens=tokens, heads=heads, attention_per_class=attention_per_class)
        _check_numbers(delta=delta, temperature=temperature, anchor_scale=anchor_scale)
        _check_numbers(or_zero=True, epsilon=epsilon)
        if scope == "example" and tokens > features:
            raise ValueError(
                f"reliability.tokens = {tokens}: an embedding of {features} numbers cannot be cut "
                "into as many pieces"
            )
        if correction == "geometric" and not anchors:
            raise ValueError('reliability.correction = "geometric" needs anchors, there are 0')
        make = dataclasses.replace(make, dtype=make.output_dtype)
        self.delta, self.temperature, self.epsilon = delta, temperature, epsilon
        self.correction, self.detach_confidence = correction, detach_confidence
        self.n_anchors, self.ramp_steps = anchors, ramp_steps
        self.deterministic = False  # switched by `model.train()` and `model.eval()`
        self.norm = make.norm(features) if normalise else None
        if anchors:
            shape = (n_expression, anchors, features)
            draw = normal(anchor_scale)
            self.anchors = nnx.Param(draw(make.rngs.params(), shape, make.param_dtype))
        if scope == "example":
            self.attention = TokenAttention(features, n_expression, tokens, heads, make)
        else:
            self.attention = BatchAttention(
                features, n_expression, attention_per_class, heads, make
            )
        if correction == "trust" and ramp_steps:
            self.steps = Counter(jnp.zeros((), make.output_dtype))

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any] | bool | None,
        features: int,
        n_expression: int,
        make: Layers,
    ) -> "Reliability | None":
        """The part that a model's `reliability` keyword asks for; None: none, see `settings_of`.

        Raises:
          ValueError: as `settings_of` and the constructor.
        """
        chosen = settings_of(settings)
        return None if chosen is None else cls(features, n_expression, **chosen, make=make)

    def __call__(
        self, outputs: Mapping[str, Any], *, rngs: nnx.Rngs | None = None
    ) -> dict[str, Any]:
        """`outputs` of a model, with `embedding` [B, D] and `logits` [B, N], corrected.

        `logits` become log L [B, N]. New are the distributions `primary` (l) and `corrected` (t)
        [B, N] and their confidences `confidence_primary` and `confidence_corrected` [B]; with
        anchors `anchor_distances` [B, N, K]; and in training mode what losses and logs need beside
        them: `embedding_norm` [B] of the embedding as it is compared, `anchors` [N, K, D] and, for
        "trust", the ramp `trust` [].
        """
        del rngs  # nothing is drawn; part of the signature all models share
        wide = jnp.promote_types(jnp.float32, outputs["logits"].dtype)
        embedding = outputs["embedding"].astype(wide)
        if self.norm is not None:
            embedding = self.norm(embedding)
        embedding = jnp.clip(embedding, -_LARGEST, _LARGEST)
        logits = outputs["logits"].astype(wide) / self.temperature
        primary = jnp.maximum(jax.nn.log_softmax(_cut(logits)), _LOG_ZERO)
        new: dict[str, Any] = {}
        if not self.deterministic:
            new["embedding_norm"] = jnp.linalg.norm(lax.stop_gradient(embedding), axis=1)
        geometric = None
        if self.n_anchors:
            anchors = self.anchors[...].astype(wide)
            new["anchor_distances"] = anchor_distances(embedding, anchors)
            geometric = geometric_correction(new["anchor_distances"], self.delta)
            if not self.deterministic:
                new["anchors"] = anchors
        corrected = self._corrected(geometric, embedding)
        certainty = confidence(primary), confidence(corrected)
        if self.correction == "off":
            final = primary
        elif self.correction == "trust":
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
        """log t [B, N]."""
        if self.correction == "geometric":
            return geometric
        attentive = self.attention(embedding)
        if geometric is None or self.correction == "attentive":
            return attentive
        share = self._share(confidence(geometric), confidence(attentive))
        return blend(geometric, attentive, share)

    def _weighing(self, certainty: jax.Array) -> jax.Array:
        return lax.stop_gradient(certainty) if self.detach_confidence else certainty

    def _share(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Weight [B] of the first of two distributions with these confidences."""
        first, second = self._weighing(first), self._weighing(second)
        total = first + second + 2 * self.epsilon
        # With epsilon = 0 and two uniform distributions it would be 0 / 0, also in the gradient.
        share = (first + self.epsilon) / jnp.where(total > 0, total, 1)
        return jnp.where(total > 0, share, 0.5)

    def _ramp(self) -> jax.Array:
        """How far "trust" has been ramped in; counts training steps."""
        if not self.ramp_steps:
            return jnp.ones((), jnp.float32)
        ramp = jnp.minimum(self.steps[...] / self.ramp_steps, 1)
        if not self.deterministic:
            self.steps[...] = self.steps[...] + 1
        return ramp


_NOT_SETTINGS = ("self", "features", "n_expression", "make")
SETTINGS = {
    name: parameter.default
    for name, parameter in inspect.signature(Reliability.__init__).parameters.items()
    if name not in _NOT_SETTINGS
}


def settings_of(given: Mapping[str, Any] | bool | None) -> dict[str, Any] | None:
    """Keywords of the `Reliability` that `given` asks for, None if for none.

    None and False are none, True and an empty mapping the defaults, `SETTINGS`; what a mapping
    leaves out has its default too. Whoever has to know whether a model is balanced asks here.

    Raises:
      ValueError: for anything else, and for settings that do not exist.
    """
    if given is None or given is False:
        return None
    if given is True:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f"reliability = {given!r}: give None, True, or settings as {{'anchors': 4}}"
        )
    for name in given:
        if name not in SETTINGS:
            raise ValueError(f"reliability has no setting {name!r}; {nearest(str(name), SETTINGS)}")
    return dict(given)


def _check_switches(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"reliability.{name} = {value!r}; it is True or False")


def _check_counts(least: int, **values: Any) -> None:
    for name, value in values.items():
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(
                f"reliability.{name} = {value!r}; it must be a whole number of at least {least}"
            )


def _check_numbers(or_zero: bool = False, **values: Any) -> None:
    for name, value in values.items():
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
            kind = "0 or a positive number" if or_zero else "a positive number"
            raise ValueError(f"reliability.{name} = {value!r}; it must be {kind}")
