"""MixUp and CutMix on the device, inside the per-replica train step.

Every example of a batch is blended with a partner: MixUp (Zhang et al., ICLR 2018) takes the
weighted mean of the two images, CutMix (Yun et al., ICCV 2019) pastes a box of the partner into
the example. The labels become the mean with the same weights.

Partners are drawn from the global batch by a random permutation: every replica gathers the images
of the others (uint8, 150 KB for 224 px) and takes its own part, so that the same examples meet on
any number of devices. One lambda, one kind and one box are drawn for the global batch: all
replicas have the key of the step.

Features [B, D] in place of images are mixed by MixUp alone.

Pixels are mixed before they are normalised. Normalisation is affine, so the order does not matter,
and a student and a teacher with different means see the same image.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.losses import supervised

Batch = dict[str, jax.Array]
# What an example takes from its partner.
_MIXED_FIELDS = ("image", "expression", "expression_probs", "valence_arousal", "mask")


class Recipe(NamedTuple):
    """How a batch is mixed.

    Attributes:
      partner: int [B], the index of each example's partner in the global batch.
      keep: float32 [H, W] in [0, 1], the weight of the example's own pixels.
      lam: float32 [], the weight of the example's own label.
    """

    partner: jax.Array
    keep: jax.Array
    lam: jax.Array


def check(section: ml_collections.ConfigDict, examples: int) -> bool:
    """Return whether `config.mixing` mixes a global batch of so many examples.

    Raises:
      ConfigError: a value is out of range, or a single example has no partner.
    """
    limits = {"mixup_alpha": math.inf, "cutmix_alpha": math.inf, "switch": 1, "probability": 1}
    for key, limit in limits.items():
        if not (0 <= section[key] <= limit and math.isfinite(section[key])):
            allowed = "0 (off) or a positive number" if limit == math.inf else "from 0 to 1"
            raise ConfigError(f"config.mixing.{key} = {section[key]}; it must be {allowed}")
    on = bool((section.mixup_alpha or section.cutmix_alpha) and section.probability)
    if on and examples < 2:
        raise ConfigError(
            "config.mixing mixes the examples of a batch, and config.batch_size is 1; use a larger "
            "batch, or set mixing.mixup_alpha and mixing.cutmix_alpha to 0"
        )
    return on


def cutmix_box(key: jax.Array, lam: jax.Array, height: int, width: int) -> jax.Array:
    """Return bool [H, W], True in a box around a uniformly drawn pixel.

    Its sides are H sqrt(1 - lam) and W sqrt(1 - lam), rounded; the part outside the image is lost,
    as in the paper.
    """
    fraction = jnp.sqrt(1 - lam)

    def inside(key: jax.Array, size: int) -> jax.Array:
        length = jnp.round(size * fraction).astype(jnp.int32)
        start = jax.random.randint(key, (), 0, size, jnp.int32) - length // 2
        at = jnp.arange(size, dtype=jnp.int32)
        return (at >= start) & (at < start + length)

    row_key, column_key = jax.random.split(key)
    return inside(row_key, height)[:, None] & inside(column_key, width)[None, :]


def draw(
    key: jax.Array, section: ml_collections.ConfigDict, examples: int, height: int, width: int
) -> Recipe:
    """Draw how a batch is mixed.

    Lambda ~ Beta(alpha, alpha); for CutMix it is then replaced by the fraction of the image that
    its box really leaves. It is 1 where the batch is not mixed.
    """
    partner_key, apply_key, kind_key, lam_key, box_key = jax.random.split(key, 5)
    partner = jax.random.permutation(partner_key, examples)
    cut = jnp.asarray(section.cutmix_alpha > 0)
    if section.mixup_alpha and section.cutmix_alpha:
        cut = jax.random.bernoulli(kind_key, jnp.float32(section.switch))
    # Everything in float32, so that the draws do not depend on x64.
    alpha = jnp.where(cut, jnp.float32(section.cutmix_alpha), jnp.float32(section.mixup_alpha))
    lam = jax.random.beta(lam_key, alpha, alpha, dtype=jnp.float32)
    lam = jnp.where(jax.random.bernoulli(apply_key, jnp.float32(section.probability)), lam, 1)
    kept = ~cutmix_box(box_key, lam, height, width)
    keep = jnp.where(cut, kept.astype(jnp.float32), lam)
    kept_fraction = jnp.sum(kept, dtype=jnp.float32) / (height * width)
    return Recipe(partner, keep, jnp.where(cut, kept_fraction, lam))


def combine(
    batch: Batch,
    recipe: Recipe,
    num_classes: int,
    everyone: Batch | None = None,
    first: jax.Array | int = 0,
) -> Batch:
    """Mix a batch by a given recipe; arguments and result as in `mix`.

    `everyone` holds the possible partners (default: the batch itself); example i of the batch has
    index `first` + i in it.
    """
    lam = recipe.lam
    partners = {
        name: (everyone or batch)[name][recipe.partner] for name in _MIXED_FIELDS if name in batch
    }
    votes, known = _votes(batch, num_classes)
    their_votes, theirs_known = _votes(partners, num_classes)

    # No label may be lost because the partner has none.
    va, their_va = batch["valence_arousal"], partners["valence_arousal"]
    same_va = jnp.all(jnp.isfinite(va) == jnp.isfinite(their_va), axis=1)
    neither = ~known & ~theirs_known
    mixed = (known & theirs_known) | (neither & same_va)
    mixed &= (recipe.partner != first + jnp.arange(recipe.partner.size)) & (lam < 1)
    if "mask" in batch:
        mixed &= batch["mask"] & partners["mask"]

    def blend(own: jax.Array, theirs: jax.Array, weight: jax.Array) -> jax.Array:
        # `where` instead of weights of 1 and 0 for unmixed examples: 0 * NaN is NaN.
        mean = weight * own + (1 - weight) * theirs
        return jnp.where(mixed.reshape(-1, *[1] * (own.ndim - 1)), mean, own)

    own, theirs = (b["image"].astype(jnp.float32) for b in (batch, partners))
    votes = jnp.where(known[:, None], blend(votes, their_votes, lam), jnp.nan)
    new = {
        "image": blend(own, theirs, recipe.keep[:, :, None] if own.ndim == 4 else lam),
        "expression": jnp.where(mixed, -1, batch["expression"]),
        "expression_probs": votes,
        "valence_arousal": blend(va, their_va, lam),
    }
    if "landmarks" in batch:
        new["landmarks"] = jnp.where(mixed[:, None, None], jnp.nan, batch["landmarks"])
    return {**batch, **new}


def _votes(batch: Batch, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Return class distributions [B, N], and which examples have one, bool [B]."""
    labels = batch["expression"]
    if "expression_probs" in batch:
        labels = supervised.votes_or_labels(batch["expression_probs"], labels)
    return supervised.label_distribution(labels, num_classes)


def mix(
    batch: Batch,
    key: jax.Array,
    section: ml_collections.ConfigDict,
    num_classes: int,
    axis_name: str | None = None,
) -> Batch:
    """Return a batch with its examples mixed in pairs; itself if mixing is off.

    A pair is mixed if both examples have an expression, or if neither has one and both lack the
    same of valence and arousal. All other examples, including padding, do not change.

    Args:
      batch: `image` uint8 [B, H, W, 3], `expression` int [B], `valence_arousal` float [B, 2], and
        if the data have them `expression_probs` [B, N] (votes), `landmarks` [B, 68, 2] and `mask`
        bool [B]. Missing labels are -1 or NaN.
      key: the same on all replicas.
      section: `config.mixing`.
      num_classes: N.
      axis_name: axis over which the global batch is split; None: `batch` is all of it.

    Returns:
      The batch with `image` float32, still in [0, 255], and `expression_probs` [B, N], the
      distribution of every example (NaN: missing). Mixed examples have mixed valence and arousal
      (NaN where one of the two is missing), `expression` -1, since they have no single class, and
      landmarks NaN, since two faces share no landmarks.

    Raises:
      ConfigError: see `check`.
    """
    own, *sides = batch["image"].shape
    height, width = sides[:2] if len(sides) == 3 else (1, 1)  # features have no places
    if len(sides) != 3 and section.cutmix_alpha:
        raise ConfigError(
            f"config.mixing.cutmix_alpha = {section.cutmix_alpha}: CutMix pastes a part of an "
            "image, and the data are features; set it to 0. mixing.mixup_alpha works on features"
        )
    examples = own if axis_name is None else own * jax.lax.axis_size(axis_name)
    if not check(section, examples):
        return batch
    recipe = draw(key, section, examples, height, width)
    if axis_name is None:
        return combine(batch, recipe, num_classes)
    first = own * jax.lax.axis_index(axis_name)
    recipe = recipe._replace(partner=jax.lax.dynamic_slice(recipe.partner, (first,), (own,)))
    everyone = {
        name: jax.lax.all_gather(batch[name], axis_name, tiled=True)
        for name in _MIXED_FIELDS
        if name in batch
    }
    return combine(batch, recipe, num_classes, everyone, first)
