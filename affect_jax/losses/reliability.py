"""Losses of reliability balancing: one for the anchors, one for the embeddings.

Wasi et al., "ARBEx", 2023, section 3.5, in three variants:

* "paper": as printed. The anchor loss has no lower bound, alone and with the centre loss:
  embedding and anchors can grow together.
* "official": as the authors' code computes them; not bounded either.
* "bounded", the default: the anchor loss ends at a margin, and anchors stay within a radius.

Distances come from `models.reliability.anchor_distances`. All losses are of the global batch, equal
on all replicas.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.losses.supervised import as_float, global_sum, label_distribution, masked_mean

VARIANTS = ("bounded", "paper", "official")


def check_variant(variant: str) -> None:
    """Raise ConfigError for an unknown variant."""
    if variant not in VARIANTS:
        raise ConfigError(
            f"config.loss.reliability.variant = {variant!r}; {nearest(variant, VARIANTS)}"
        )


def anchor_loss(
    anchors: jax.Array, *, variant: str = "bounded", margin: float = 1.0, radius: float = 2.0
) -> jax.Array:
    """Return how close the anchors of different classes are to each other, a scalar.

    "bounded": mean of max(0, margin - d / sqrt(D))^2 over pairs of anchors of different classes,
    plus mean of max(0, |a| / sqrt(D) - radius)^2 over the anchors. The second term is needed
    because the cross-entropy also drives anchors outwards, above all anchors that are nearest to no
    example. "paper": minus the mean squared distance over all pairs of anchors. "official": minus
    the sum of squared distances over ordered pairs of classes, between anchors of the same index,
    divided by sqrt(D) K^2.

    Args:
      anchors: float [N, K, D].
      variant: one of `VARIANTS`.
      margin: least distance wanted, in units of sqrt(D), which is the root mean square difference
        of the components; for "bounded" only.
      radius: largest norm allowed, in the same units; for "bounded" only. A standardised embedding
        has 1 on average, before the trained scale and bias of its standardisation.

    Raises:
      ConfigError: an unknown variant.
    """
    check_variant(variant)
    anchors = as_float(anchors)
    classes, per_class, features = anchors.shape
    if variant == "bounded":
        flat = anchors.reshape(-1, features)
        squares = _mean_squared_differences(flat)
        owner = np.repeat(np.arange(classes), per_class)
        different = owner[:, None] != owner
        # The root has no gradient at 0; the small number gives it one of 0.
        distances = jnp.sqrt(jnp.where(different, squares, 1) + 1e-12)
        short = jnp.maximum(margin - distances, 0)
        hinge = jnp.sum(jnp.where(different, short * short, 0)) / max(int(different.sum()), 1)
        norms = jnp.sqrt(jnp.mean(jnp.square(flat), axis=-1) + 1e-12)
        return hinge + jnp.mean(jnp.square(jnp.maximum(norms - radius, 0)))
    if variant == "paper":
        # The mean over ordered pairs of n points is 2 / (n - 1) times their scatter.
        count = classes * per_class
        centred = anchors - jnp.mean(anchors, axis=(0, 1))
        return -2 * jnp.sum(jnp.square(centred)) / max(count - 1, 1)
    # Over ordered pairs of N points: 2 N times their scatter.
    centred = anchors - jnp.mean(anchors, axis=0)
    scale = math.sqrt(features) * per_class**2
    return -2 * classes * jnp.sum(jnp.square(centred)) / scale


def _mean_squared_differences(points: jax.Array) -> jax.Array:
    """Return [n, n] of [n, D] without a temporary array of n * n * D values."""
    centred = points - jnp.mean(points, axis=0)  # less is lost where |a|^2 + |b|^2 - 2ab cancels
    products = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.diagonal(products)
    return jnp.maximum(squares[:, None] + squares - 2 * products, 0) / points.shape[1]


def center_loss(
    distances: jax.Array,
    labels: jax.Array,
    features: int,
    *,
    confidence: jax.Array | None = None,
    variant: str = "bounded",
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the mean distance of examples to the nearest anchor of their class.

    "paper": min_k d^2. "bounded": the same divided by D. "official": min_k d, times the example's
    confidence, divided by sqrt(D). With soft labels it is the expectation over the classes. Of
    equal anchors the first one gets the gradient.

    Args:
      distances: float [B, N, K] of embeddings to anchors.
      labels: int [B] or float [B, N], see `supervised.label_distribution`.
      features: D, the length of an embedding.
      confidence: float [B] of the primary distribution; used by "official" only, which needs it.
      variant: one of `VARIANTS`.
      mask: bool [B], False for padding.
      axis_name: mapped axis of the replicas that share the batch; None: a single device.

    Raises:
      ConfigError: an unknown variant.
      ValueError: "official" without confidence.
    """
    check_variant(variant)
    distances = as_float(distances)
    targets, valid = label_distribution(labels, distances.shape[1])
    valid = valid if mask is None else valid & mask
    distances = jnp.where(valid[:, None, None], distances, 1)
    winner = jnp.argmin(distances, axis=2, keepdims=True)
    nearest_one = jnp.take_along_axis(distances, winner, axis=2)[:, :, 0]
    if variant == "official":
        if confidence is None:
            raise ValueError('center_loss: variant="official" weighs by confidence; none is given')
        per_class = nearest_one * confidence[:, None] / math.sqrt(features)
    else:
        per_class = jnp.square(nearest_one) / (features if variant == "bounded" else 1)
    per_class = jnp.where(targets > 0, targets.astype(per_class.dtype) * per_class, 0)
    return masked_mean(jnp.sum(per_class, axis=1), valid, axis_name)


def reliability_report(
    outputs: dict[str, jax.Array],
    labels: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """Return scalars of what balancing does to the global batch, without gradient.

      confidence_primary, confidence_corrected: means
      correction_changed: fraction of examples whose class differs from the primary class
      correction_better, correction_worse: fraction of labelled examples that it made right, wrong
      embedding_norm: mean norm of the compared embedding, after the standardisation with its
        trained scale and bias, by which it can grow as the anchors do
      anchor_norm, anchor_norm_max: with anchors
      anchors_never_win: fraction of the anchors that are the nearest of no example of the batch

    Args:
      outputs: of a model with `Reliability`, in training mode.
      labels: int [B] or float [B, N].
      mask: bool [B], False for padding.
      axis_name: mapped axis of the replicas that share the batch; None: a single device.
    """
    outputs = jax.lax.stop_gradient(outputs)
    targets, valid = label_distribution(labels, outputs["primary"].shape[1])
    mask = jnp.ones(valid.shape, bool) if mask is None else mask
    first, last = (jnp.argmax(outputs[name], axis=1) for name in ("primary", "logits"))
    truth = jnp.argmax(targets, axis=1)
    right_before, right_after = first == truth, last == truth
    report = {
        "correction_changed": masked_mean(first != last, mask, axis_name),
        "correction_better": masked_mean(~right_before & right_after, mask & valid, axis_name),
        "correction_worse": masked_mean(right_before & ~right_after, mask & valid, axis_name),
    }
    for name in ("confidence_primary", "confidence_corrected", "embedding_norm"):
        report[name] = masked_mean(outputs[name], mask, axis_name)
    if "anchors" in outputs:
        norms = jnp.sqrt(jnp.sum(jnp.square(outputs["anchors"]), axis=-1))
        report["anchor_norm"], report["anchor_norm_max"] = jnp.mean(norms), jnp.max(norms)
        flat = outputs["anchor_distances"].reshape(mask.size, -1)
        won = jax.nn.one_hot(jnp.argmin(flat, axis=1), flat.shape[1]) * mask[:, None]
        wins = global_sum(jnp.sum(won, axis=0), axis_name)
        report["anchors_never_win"] = jnp.mean(wins == 0)
    return report
