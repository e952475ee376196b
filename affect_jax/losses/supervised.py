"""Losses over the global batch.

Every function is called per replica and returns the value of the global batch, the same on all
replicas: numerators and denominators are `psum`ed over `axis_name` (None: one device). The caller
differentiates that value and averages the gradients with `pmean`. This is correct under `jax.pmap`
and under `jax.shard_map` with and without `check_vma`. A mean per shard would not be correct.

Arithmetic is float32 for inputs of any precision but float64, which stay float64. A missing label
(NaN, or -1 for a class) and the prediction for it are replaced before any arithmetic, because
0 * NaN is NaN, in gradients too.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from affect_jax.config import ConfigError

# Under the root of PCC's denominator: without it the gradient grows as 1 / sd of the predictions.
PCC_EPSILON = 1e-4
# Against 0 / 0 when predictions and labels are constant and equal.
CCC_EPSILON = 1e-8


def as_float(x: jax.Array) -> jax.Array:
    """Return `x` as float32, or unchanged if it is float64."""
    x = jnp.asarray(x)
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def global_sum(tree, axis_name: str | None):
    """Sum every array of `tree` over the replicas of `axis_name`; None: unchanged."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _expand(mask: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast a mask over the leading axes of `shape` to all of it."""
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def masked_mean(values: jax.Array, mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Return the mean of [B, ...] where `mask` is True; 0 if it is True nowhere.

    The mask covers the leading axes.
    """
    values = as_float(values)
    mask = _expand(mask, values.shape)
    total, count = global_sum(
        (jnp.sum(jnp.where(mask, values, 0)), jnp.sum(mask, dtype=values.dtype)), axis_name
    )
    return total / jnp.maximum(count, 1)


# ------------------------------------------------------------------ categories


def label_distribution(labels: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Return labels as distributions float [B, N], and bool [B]: which have a label.

    Args:
      labels: int [B] (anything outside 0 .. N - 1 is missing), or float [B, N] votes or
        probabilities, which are normalised (a row with a NaN, or without any vote, is missing).

    Raises:
      ValueError: the shape or dtype is neither of these.
    """
    labels = jnp.asarray(labels)
    if labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer):
        valid = (labels >= 0) & (labels < num_classes)
        return jax.nn.one_hot(jnp.where(valid, labels, 0), num_classes, dtype=jnp.float32), valid
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        labels = as_float(labels)
        known = jnp.all(jnp.isfinite(labels), axis=1, keepdims=True)
        votes = jnp.where(known, labels, 0)
        total = jnp.sum(votes, axis=1, keepdims=True)
        valid = known & (total > 0)
        return votes / jnp.where(valid, total, 1), valid[:, 0]
    raise ValueError(
        f"labels must be int [B] or float [B, {num_classes}], "
        f"not {labels.dtype} {list(labels.shape)}"
    )


def votes_or_labels(votes: jax.Array, labels: jax.Array) -> jax.Array:
    """Return votes [B, N], or one-hot int labels [B] where there are no votes.

    Rows are NaN where neither exists.
    """
    votes, voted = label_distribution(votes, votes.shape[1])
    one_hot, labelled = label_distribution(labels, votes.shape[1])
    known = jnp.where(voted[:, None], votes, one_hot)
    return jnp.where((voted | labelled)[:, None], known, jnp.nan)


def parse_class_weights(text: str, class_counts: Sequence[int]) -> tuple[float, ...] | None:
    """Return the N class weights of `config.loss.class_weights`; None for "none".

    Args:
      text: "none"; "balanced": in proportion to 1 / count, "sqrt_balanced": to 1 / sqrt(count),
        both with mean 1 over the classes that have examples (the others get 0); or N numbers,
        "1,2.5,1".
      class_counts: training examples of each of the N classes.

    Raises:
      ConfigError: anything else.
    """
    if text == "none":
        return None
    powers = {"balanced": 1.0, "sqrt_balanced": 0.5}
    if text in powers:
        inverse = [n ** -powers[text] if n else 0.0 for n in class_counts]
        scale = sum(n > 0 for n in class_counts) / max(sum(inverse), 1e-300)
        return tuple(x * scale for x in inverse)
    try:
        weights = tuple(float(x) for x in text.split(","))
    except ValueError:
        raise ConfigError(
            f"config.loss.class_weights = {text!r}; use none, balanced, sqrt_balanced or numbers "
            "such as 1,2.5,1"
        ) from None
    if len(weights) != len(class_counts) or not all(0 <= w < math.inf for w in weights):
        raise ConfigError(
            f"config.loss.class_weights = {text!r}; give {len(class_counts)} numbers, one "
            "for each class, none of them negative"
        )
    return weights


def negative_log_likelihood(
    log_probs: jax.Array,
    labels: jax.Array,
    *,
    mask: jax.Array | None = None,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the mean of - sum_c w_c t_c log p_c over labelled examples; 0 if none.

    The target t is the label's distribution q moved towards the uniform one by `label_smoothing`.
    With class weights w it is the weighted mean, divided by the sum of sum_c w_c q_c (for int
    labels as PyTorch does).

    Args:
      log_probs: float [B, N] log-probabilities.
      labels: int [B] or float [B, N], see `label_distribution`.
      mask: bool [B], False for padding.
      class_weights: N weights.

    Raises:
      ValueError: labels or class weights of a wrong shape.
    """
    log_probs = as_float(log_probs)
    num_classes = log_probs.shape[1]
    labels, valid = label_distribution(labels, num_classes)
    labels = labels.astype(log_probs.dtype)
    valid = valid if mask is None else valid & mask
    if class_weights is None:
        weights = jnp.ones(num_classes, log_probs.dtype)
    else:
        weights = jnp.asarray(class_weights, log_probs.dtype)
        if weights.shape != (num_classes,):
            raise ValueError(
                f"class_weights must be {num_classes} numbers, one a class, not {weights.size}"
            )
    targets = (1 - label_smoothing) * labels + label_smoothing / num_classes
    log_probs = jnp.where(valid[:, None], log_probs, 0)
    total, normaliser = global_sum(
        (
            -jnp.sum(weights * targets * log_probs),
            jnp.sum(jnp.where(valid[:, None], weights * labels, 0)),
        ),
        axis_name,
    )
    return total / jnp.where(normaliser > 0, normaliser, 1)


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    mask: jax.Array | None = None,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the cross-entropy of softmax(logits), logits [B, N], EmoFAN eq. 5.

    Other arguments as `negative_log_likelihood`.
    """
    logits = as_float(logits)
    _, valid = label_distribution(labels, logits.shape[1])
    valid = valid if mask is None else valid & mask
    return negative_log_likelihood(
        jax.nn.log_softmax(jnp.where(valid[:, None], logits, 0)),
        labels,
        mask=valid,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        axis_name=axis_name,
    )


def distillation_divergence(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the mean KL(p_teacher || p_student) over unmasked examples, EmoFAN eq. 7.

    Logits are [B, N]; the teacher gets no gradient.
    """
    student, teacher = as_float(student_logits), as_float(jax.lax.stop_gradient(teacher_logits))
    mask = jnp.ones(student.shape[0], bool) if mask is None else mask
    student, teacher = (
        jax.nn.log_softmax(jnp.where(mask[:, None], x, 0)) for x in (student, teacher)
    )
    return masked_mean(jnp.sum(jnp.exp(teacher) * (teacher - student), axis=1), mask, axis_name)


# ------------------------------------------------------- valence and arousal


class Moments(NamedTuple):
    """Population moments of the labelled examples of the global batch, each [D]."""

    labelled: jax.Array
    prediction_mean: jax.Array
    target_mean: jax.Array
    prediction_variance: jax.Array
    target_variance: jax.Array
    covariance: jax.Array
    squared_error: jax.Array


def moments(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> Moments:
    """Return centred two-pass moments over the global batch.

    Args:
      predictions: float [B, D].
      targets: float [B, D]; NaN is a missing label, of that dimension only.
      mask: bool [B], False for padding.
    """
    predictions = as_float(predictions)
    # Labels come as float32; their moments are taken in the predictions' precision.
    targets = jnp.asarray(targets).astype(predictions.dtype)
    valid = jnp.isfinite(targets)
    valid = valid if mask is None else valid & mask[:, None]
    predictions = jnp.where(valid, predictions, 0)
    targets = jnp.where(valid, targets, 0)
    count, prediction_mean, target_mean = global_sum(
        (jnp.sum(valid, 0, dtype=predictions.dtype), jnp.sum(predictions, 0), jnp.sum(targets, 0)),
        axis_name,
    )
    n = jnp.maximum(count, 1)
    prediction_mean, target_mean = prediction_mean / n, target_mean / n
    p = jnp.where(valid, predictions - prediction_mean, 0)
    t = jnp.where(valid, targets - target_mean, 0)
    sums = (p * p, t * t, p * t, jnp.square(predictions - targets))
    sums = global_sum(tuple(jnp.sum(x, 0) for x in sums), axis_name)
    return Moments(count, prediction_mean, target_mean, *(x / n for x in sums))


class RegressionLosses(NamedTuple):
    """The three regression losses, scalars."""

    mse: jax.Array
    pcc: jax.Array
    ccc: jax.Array


def regression_losses(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> RegressionLosses:
    """Return EmoFAN eq. 9 (MSE), eq. 10 (1 - mean PCC) and eq. 6 (1 - mean CCC).

    MSE is summed over the dimensions. PCC = cov / sqrt(var var + 1e-4) and
    CCC = 2 cov / (var + var + (mean difference)^2 + 1e-8). A dimension with fewer than two labels
    adds 0 to all three, without gradient. If one of two dimensions has no labels, the PCC and CCC
    losses are half of the losses of the other. Arguments as `moments`.
    """
    m = moments(predictions, targets, mask=mask, axis_name=axis_name)
    pcc = m.covariance / jnp.sqrt(m.prediction_variance * m.target_variance + PCC_EPSILON)
    bias = jnp.square(m.prediction_mean - m.target_mean)
    ccc = 2 * m.covariance / (m.prediction_variance + m.target_variance + bias + CCC_EPSILON)
    mse, pcc, ccc = (jnp.where(m.labelled >= 2, x, 0) for x in (m.squared_error, 1 - pcc, 1 - ccc))
    return RegressionLosses(jnp.sum(mse), jnp.mean(pcc), jnp.mean(ccc))


def shake_shake_weights(key: jax.Array) -> jax.Array:
    """Return three weights a, b, c ~ U(0, 1) divided by their sum, float32 [3].

    They are drawn in float32, so that they do not depend on x64.
    """
    tiny = jnp.finfo(jnp.float32).tiny  # never 0 / 0
    weights = jax.random.uniform(key, (3,), jnp.float32, minval=tiny)
    return weights / jnp.sum(weights)


def shake_shake(key: jax.Array, losses: RegressionLosses) -> jax.Array:
    """Return (a L_MSE + b L_PCC + c L_CCC) / (a + b + c), part of EmoFAN eq. 8.

    `key` must be the same on all replicas: the weights are drawn once for the global batch.
    """
    a, b, c = shake_shake_weights(key).astype(losses.mse.dtype)
    return a * losses.mse + b * losses.pcc + c * losses.ccc


# ------------------------------------------------------------------- landmarks


def heatmap_loss(
    stacks: Sequence[jax.Array],
    targets: jax.Array,
    visible: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the mean squared error of heatmaps, summed over the stacks.

    The mean is over the pixels of all visible landmarks of the global batch; 0 without any.

    Args:
      stacks: heatmaps [B, h, w, K] of every stack.
      targets: rendered heatmaps [B, h, w, K]; ignored where not visible.
      visible: bool [B, K], the landmarks that have a label.
      mask: bool [B], False for padding.
    """
    visible = visible if mask is None else visible & mask[:, None]
    shown = visible[:, None, None, :]
    targets = jnp.where(shown, as_float(targets), 0)
    errors = [
        jnp.mean(jnp.square(jnp.where(shown, as_float(heatmaps), 0) - targets), axis=(1, 2))
        for heatmaps in stacks
    ]
    return masked_mean(functools.reduce(operator.add, errors), visible, axis_name)
