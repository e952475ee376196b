"""ARBEx (Wasi et al., 2023): what reliability balancing adds to a classifier's objective.

    L = NLL(final distribution, label) + lambda_a anchor loss + lambda_c centre loss

The first term is the cross-entropy that every classifier has (`systems.emofan.emofan_loss`, with
label smoothing, class weights, votes), because `logits` of a model with `model.reliability` are the
log of the final distribution. The factor of that term is 1: under Adam only the ratios matter. So
the system "arbex" is "classifier", and EmoFAN, ViT or a ResNet get all of it by one line,
`config.model.reliability`.
"""

import math
import numbers

import jax
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.losses import reliability as losses

Terms = dict[str, jax.Array]


def check_loss(section: ml_collections.ConfigDict) -> None:
    """Checks the fields of `loss.reliability`.

    Raises:
        ConfigError: an unknown variant, or a number that is negative or none.
    """
    losses.check_variant(section.variant)
    for name in ("lambda_anchor", "lambda_center", "margin", "radius"):
        value = section[name]
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ConfigError(
                f"config.loss.reliability.{name} = {value!r}; it must be 0 or a positive number"
            )


def reliability_terms(
    outputs: dict[str, jax.Array],
    labels: jax.Array,
    *,
    config: ml_collections.ConfigDict,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, Terms]:
    """The weighted anchor and centre losses, and every term by name, of the global batch.

    With `correction="trust"` both are ramped in as the correction is. Terms are `anchor_loss` and
    `center_loss` (not weighted) and those of `losses_reliability.reliability_report`.

    Args:
        outputs: of a model with `Reliability`, in training mode.
        labels: int [B] or float [B, N], see `losses.label_distribution`.
        config: fields of `loss.reliability`: variant, lambda_anchor, lambda_center, margin,
            radius.
        mask: bool [B], False for padding.
        axis_name: mapped axis of the replicas that share the batch; None: there is one.
    """
    section = config.loss.reliability
    terms = losses.reliability_report(outputs, labels, mask=mask, axis_name=axis_name)
    if "anchors" not in outputs:  # K = 0
        return jax.numpy.zeros(()), terms
    anchors = outputs["anchors"]
    terms["anchor_loss"] = losses.anchor_loss(
        anchors, variant=section.variant, margin=section.margin, radius=section.radius
    )
    terms["center_loss"] = losses.center_loss(
        outputs["anchor_distances"],
        labels,
        anchors.shape[-1],
        confidence=outputs["confidence_primary"],
        variant=section.variant,
        mask=mask,
        axis_name=axis_name,
    )
    added = (
        section.lambda_anchor * terms["anchor_loss"] + section.lambda_center * terms["center_loss"]
    )
    return outputs.get("trust", 1.0) * added, terms
