"""Label disambiguation by neighbours (NNLDL): predictions of similar images should agree.

Liu et al., "RALD", Acta Electronica Sinica 2024, section 3.4. Similar images are those that an
image attends to (`models.relations`).
"""

import jax
import jax.numpy as jnp
from jax import lax

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.losses.supervised import as_float, label_distribution, masked_mean

REDUCTIONS = ("mean", "batchmean")


def check_reduction(reduction: str) -> None:
    """Raise ConfigError for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ConfigError(
            f"config.loss.relations.reduction = {reduction!r}; {nearest(reduction, REDUCTIONS)}"
        )


def neighbour_distribution(
    weights: jax.Array, probabilities: jax.Array, allowed: jax.Array, neighbours: int
) -> tuple[jax.Array, jax.Array]:
    """Return D of eq. 18, [B, N], and bool [B]: which images have a neighbour.

    D is the mean of the predictions of the nearest images, weighted by similarity. With fewer than
    `neighbours` images to choose from, it is the mean of those; without any, D is 0.

    Args:
      weights: similarity r of every image to the M images, float [B, M], none negative.
      probabilities: predictions P of the M images, float [M, N].
      allowed: bool [B, M], False for the image itself and for padding.
      neighbours: k.
    """
    weights = as_float(weights)
    count = min(neighbours, weights.shape[1])
    nearest_weights, places = lax.top_k(jnp.where(allowed, weights, -1), count)
    nearest_weights = jnp.maximum(nearest_weights, 0)
    largest = nearest_weights[:, :1]
    known = largest[:, 0] > 0
    # Divided by the largest first: the sum of tiny weights would lose its digits, or be 0.
    shares = nearest_weights / jnp.where(known[:, None], largest, 1)
    shares = shares / jnp.where(known, jnp.sum(shares, axis=1), 1)[:, None]
    mixed = jnp.einsum("bk,bkn->bn", shares, as_float(probabilities)[places])
    return jnp.where(known[:, None], mixed, 0), known


def neighbour_loss(
    logits: jax.Array,
    weights: jax.Array,
    *,
    neighbours: int = 5,
    reduction: str = "mean",
    labels: jax.Array | None = None,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return -sum_c D_c log P_c of eq. 19 over the global batch, and terms to log.

    D has no gradient. An image without a neighbour adds 0.

    Args:
      logits: float [B, N] of this replica's images.
      weights: their attention to the M images of the global batch, float [B, M].
      neighbours: k.
      reduction: "mean", over images and classes, as printed; "batchmean", over images alone, N
        times larger.
      labels: int [B] or float [B, N]; with them the terms hold `neighbour_accuracy`, the fraction
        of labelled images whose class is the largest of D.
      mask: bool [B], False for padding.
      axis_name: mapped axis of the replicas that share the batch; None: a single device.

    Raises:
      ConfigError: an unknown reduction.
    """
    check_reduction(reduction)
    log_probs = jax.nn.log_softmax(as_float(logits))
    valid = jnp.ones(len(logits), bool) if mask is None else mask
    probabilities, chosen = lax.stop_gradient(jnp.exp(log_probs)), valid
    own = jnp.arange(len(logits))
    if axis_name is not None:
        probabilities = lax.all_gather(probabilities, axis_name, tiled=True)
        chosen = lax.all_gather(valid, axis_name, tiled=True)
        own = own + lax.axis_index(axis_name) * len(logits)
    others = own[:, None] != jnp.arange(len(chosen))
    target, known = neighbour_distribution(
        lax.stop_gradient(weights), probabilities, chosen & others, neighbours
    )
    entropy = -jnp.sum(target * jnp.where(valid[:, None], log_probs, 0), axis=1)
    loss = masked_mean(entropy, valid, axis_name)
    if reduction == "mean":
        loss = loss / logits.shape[1]
    terms = {"neighbour_loss": loss}
    if labels is not None:
        truth, labelled = label_distribution(labels, logits.shape[1])
        right = jnp.argmax(target, axis=1) == jnp.argmax(truth, axis=1)
        terms["neighbour_accuracy"] = masked_mean(right, valid & known & labelled, axis_name)
    return loss, terms
