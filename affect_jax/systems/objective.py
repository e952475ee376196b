"""Terms of the objective that systems share: classes, affect, landmarks, balancing ...

Each function returns a loss of the global batch, equal on all replicas, and its terms by name. What
a batch has no label for adds 0.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.losses import relations, reliability, supervised
from affect_jax.models.landmarks import render_heatmaps

Arrays = dict[str, jax.Array]
Terms = dict[str, jax.Array]

_REGRESSIONS = ("shake_shake", "ccc", "mse", "pcc", "none")


class Reduction(TypedDict):
    """The examples that a mean is over: unmasked ones of the replicas of an axis."""

    mask: jax.Array | None
    axis_name: str | None


@dataclasses.dataclass(frozen=True)
class LossInputs:
    """What the loss of one training step is computed from.

    Attributes:
      outputs: of the model in training mode: `logits` [B, N], `valence` and `arousal` [B],
        `stack_heatmaps`, and what `Reliability` adds, as far as the model has them.
      batch: `expression` int [B] (-1: missing) or `expression_probs` [B, N] (a row of NaN:
        missing), `valence_arousal` [B, 2] (NaN: missing), `landmarks` [B, 68, 2] in pixels of
        `image` (NaN: missing), `mask` bool [B] (False for padding).
      key: random key, the same on all replicas.
      axis_name: mapped axis of the replicas that share the batch; None: a single device.
      teacher: the teacher's trained outputs for the same images, of `logits`, `valence` and
        `arousal`; None: no teacher.
    """

    outputs: Arrays
    batch: Arrays
    key: jax.Array
    axis_name: str | None = None
    teacher: Arrays | None = None

    @property
    def shared(self) -> Reduction:
        """`mask` and `axis_name`, which every loss takes."""
        return {"mask": self.batch.get("mask"), "axis_name": self.axis_name}

    def labels(self) -> jax.Array:
        """Return the votes of the batch, or class ids if it has none."""
        labels = self.batch["expression"]
        if "expression_probs" in self.batch:
            return supervised.votes_or_labels(self.batch["expression_probs"], labels)
        return labels

    def need(self, names: tuple[str, ...], key: str) -> list[jax.Array]:
        """Return the outputs that `config.loss.<key>` needs; ConfigError without one."""
        if not self.outputs.keys() >= set(names):
            raise ConfigError(
                f"config.loss.{key} needs the outputs {', '.join(names)}; config.model gives "
                f"{', '.join(sorted(self.outputs))}"
            )
        return [self.outputs[name] for name in names]


def check(section: ml_collections.ConfigDict) -> None:
    """Check the fields of `config.loss`.

    Raises:
      ConfigError: a value is not allowed; the message names the field.
    """
    if not 0 <= section.label_smoothing < 1:
        raise ConfigError(
            f"config.loss.label_smoothing = {section.label_smoothing}; it must be at least 0 and "
            "below 1: the fraction of a label that is spread over all classes"
        )
    _check_terms(section, bool(section.teacher))
    reliability.check_variant(section.reliability.variant)
    for name in ("lambda_anchor", "lambda_center", "margin", "radius"):
        _check_not_negative(f"reliability.{name}", section.reliability[name])
    relations.check_reduction(section.relations.reduction)
    _check_not_negative("relations.lambda_kl", section.relations.lambda_kl)
    neighbours = section.relations.neighbours
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 1:
        raise ConfigError(
            f"config.loss.relations.neighbours = {neighbours!r}; it must be a whole number of at "
            "least 1"
        )


def _check_not_negative(name: str, value: Any) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigError(f"config.loss.{name} = {value!r}; it must be 0 or a positive number")


def _check_terms(section: ml_collections.ConfigDict, has_teacher: bool) -> None:
    if section.regression not in _REGRESSIONS:
        raise ConfigError(
            f"config.loss.regression = {section.regression!r}; "
            + nearest(section.regression, _REGRESSIONS)
        )
    if section.distillation_weight and not has_teacher:
        raise ConfigError(
            f"config.loss.distillation_weight = {section.distillation_weight} but there is no "
            "config.loss.teacher"
        )


def supervised_objective(
    inputs: LossInputs,
    section: ml_collections.ConfigDict,
    class_weights: Sequence[float] | None = None,
    *,
    affect: bool = True,
) -> tuple[jax.Array, Terms]:
    """Return the loss of expressions with their balancing, valence and arousal.

    Args:
      inputs: outputs, labels and teacher.
      section: `config.loss`.
      class_weights: N weights, see `supervised.parse_class_weights`.
      affect: whether the data have valence and arousal. If not they are left out, in a teacher too.

    Raises:
      ConfigError: an unknown regression, a missing teacher, or an output that the model lacks.
    """
    _check_terms(section, inputs.teacher is not None)
    total, terms = jnp.zeros((), jnp.float32), Terms()
    if section.categories:
        total, terms = expression_loss(inputs, section, class_weights)
        if "primary" in inputs.outputs:
            added, more = balancing_loss(inputs, section.reliability)
            total, terms = total + added, terms | more
        added, more = disambiguation_loss(inputs, section.relations)
        total, terms = total + added, terms | more
    if affect and section.regression != "none":
        added, more = affect_loss(inputs, section)
        total, terms = total + added, terms | more
    return total, terms


def expression_loss(
    inputs: LossInputs,
    section: ml_collections.ConfigDict,
    class_weights: Sequence[float] | None = None,
) -> tuple[jax.Array, Terms]:
    """Return the cross-entropy, EmoFAN eq. 5; with a teacher of classes eq. 7.

    Eq. 7 is (1 - w) CE + w KL(p_teacher || p_student), w being `distillation_weight`.
    """
    (logits,) = inputs.need(("logits",), "categories")
    entropy = supervised.softmax_cross_entropy(
        logits,
        inputs.labels(),
        label_smoothing=section.label_smoothing,
        class_weights=class_weights,
        **inputs.shared,
    )
    weight = section.distillation_weight
    if not weight or not inputs.teacher or "logits" not in inputs.teacher:
        return entropy, {"cross_entropy": entropy}
    divergence = supervised.distillation_divergence(
        logits, inputs.teacher["logits"], **inputs.shared
    )
    terms = {"cross_entropy": entropy, "distillation": divergence}
    return (1 - weight) * entropy + weight * divergence, terms


def affect_loss(inputs: LossInputs, section: ml_collections.ConfigDict) -> tuple[jax.Array, Terms]:
    """Return the loss of valence and arousal, EmoFAN eq. 8 to 10, or a part.

    Eq. 8 is (a L_MSE + b L_PCC + c L_CCC) / (a + b + c) with a, b, c drawn once a step. With a
    teacher of valence and arousal its predictions replace the labels of every example.
    """
    targets = inputs.batch.get("valence_arousal")
    if section.distillation_weight and inputs.teacher and "valence" in inputs.teacher:
        targets = jnp.stack([inputs.teacher["valence"], inputs.teacher["arousal"]], axis=-1)
    if targets is None:
        return jnp.zeros((), jnp.float32), {}
    predictions = jnp.stack(inputs.need(("valence", "arousal"), "regression"), axis=-1)
    losses = supervised.regression_losses(
        predictions, jax.lax.stop_gradient(targets), **inputs.shared
    )
    terms = losses._asdict()
    if section.regression == "shake_shake":
        return supervised.shake_shake(inputs.key, losses), terms
    return terms[section.regression], terms


def balancing_loss(
    inputs: LossInputs, section: ml_collections.ConfigDict
) -> tuple[jax.Array, Terms]:
    """Return lambda_a anchor loss + lambda_c centre loss of `Reliability`.

    With `correction="trust"` both are ramped in as the correction is. Terms are `anchor_loss` and
    `center_loss`, not weighted, and the terms of `losses.reliability.reliability_report`.

    Args:
      inputs: of a model with `Reliability`, in training mode.
      section: `config.loss.reliability`.
    """
    outputs, labels = inputs.outputs, inputs.labels()
    terms = reliability.reliability_report(outputs, labels, **inputs.shared)
    if "anchors" not in outputs:  # K = 0
        return jnp.zeros(()), terms
    anchors = outputs["anchors"]
    terms["anchor_loss"] = reliability.anchor_loss(
        anchors, variant=section.variant, margin=section.margin, radius=section.radius
    )
    terms["center_loss"] = reliability.center_loss(
        outputs["anchor_distances"],
        labels,
        anchors.shape[-1],
        confidence=outputs["confidence_primary"],
        variant=section.variant,
        **inputs.shared,
    )
    added = (
        section.lambda_anchor * terms["anchor_loss"] + section.lambda_center * terms["center_loss"]
    )
    return outputs.get("trust", 1.0) * added, terms


def disambiguation_loss(
    inputs: LossInputs, section: ml_collections.ConfigDict
) -> tuple[jax.Array, Terms]:
    """Return lambda_kl L_KL of RALD eq. 19; 0 for a model without `relations.nnldl`.

    Args:
      inputs: of a model with `Relations`, in training mode.
      section: `config.loss.relations`.
    """
    if "neighbour_weights" not in inputs.outputs:
        return jnp.zeros(()), {}
    loss, terms = relations.neighbour_loss(
        inputs.outputs["logits"],
        inputs.outputs["neighbour_weights"],
        neighbours=section.neighbours,
        reduction=section.reduction,
        labels=inputs.labels(),
        **inputs.shared,
    )
    return section.lambda_kl * loss, terms


def landmark_loss(inputs: LossInputs, section: ml_collections.ConfigDict) -> jax.Array:
    """Return the heatmap regression of the landmark trunk, every stack supervised.

    Args:
      inputs: with `stack_heatmaps`, a tuple of [B, h, h, 68].
      section: `config.loss`; `heatmap_sigma` is in heatmap pixels.
    """
    (stacks,) = inputs.need(("stack_heatmaps",), "heatmap_weight")
    targets, visible = render_heatmaps(
        inputs.batch["landmarks"],
        stacks[0].shape[1],
        section.heatmap_sigma,
        image_size=inputs.batch["image"].shape[1],
    )
    return supervised.heatmap_loss(tuple(stacks), targets, visible, **inputs.shared)
