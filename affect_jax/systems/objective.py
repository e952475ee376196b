"""The objective that the systems share: expressions, valence and arousal, landmarks."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.losses import supervised as losses
from affect_jax.models.landmarks import decode_heatmaps, grid_to_pixels, render_heatmaps
from affect_jax.systems.arbex import reliability_terms

Terms = dict[str, jax.Array]


_REGRESSIONS = ("shake_shake", "ccc", "mse", "pcc", "none")


def learnt(arrays: dict[str, jax.Array], has: frozenset[str]) -> dict[str, jax.Array]:
    """Labels or outputs without valence and arousal where the data have none.

    As labels they would add terms that are always 0; a student is not measured by them, and so a
    teacher does not teach them.
    """
    if "valence_arousal" in has:
        return arrays
    absent = ("valence_arousal", "valence", "arousal")
    return {name: array for name, array in arrays.items() if name not in absent}


def emofan_loss(
    outputs: dict[str, jax.Array],
    batch: dict[str, jax.Array],
    *,
    key: jax.Array,
    config: ml_collections.ConfigDict,
    axis_name: str | None,
    teacher: dict[str, jax.Array] | None = None,
    class_weights: Sequence[float] | None = None,
) -> tuple[jax.Array, Terms]:
    """The loss of the global batch, and its terms, equal on all replicas.

    Categories: cross-entropy (eq. 5), with a teacher (1 - w) CE + w KL(p_teacher || p_student)
    (eq. 7, w = `distillation_weight`). Valence and arousal: (a L_MSE + b L_PCC + c L_CCC) /
    (a + b + c) with a, b, c drawn once a step (eq. 8 to 10), or one of the three alone (eq. 6);
    with a teacher, its predictions stand in for the labels of every example. What the teacher does
    not give is learnt from labels alone. Beside these, if
    `heatmap_weight` is not 0, that multiple of the landmark loss; and beside the categories of a
    model with reliability balancing, the losses of `systems.arbex`. What a batch has no label for
    adds 0.

    Args:
        outputs: `logits` [B, N], `valence` and `arousal` [B], `stack_heatmaps`, as far as used.
        batch: `expression` int [B] (-1: missing) or `expression_probs` [B, N] (a row of NaN:
            missing), `valence_arousal` [B, 2] (NaN: missing), `landmarks`, `mask`.
        key: the same on all replicas.
        config: fields of `loss`: regression, categories, label_smoothing, distillation_weight,
            heatmap_weight, heatmap_sigma.
        teacher: the teacher's trained outputs for the same images, of `logits`, `valence` and
            `arousal`; used if `distillation_weight` is not 0.
        class_weights: see `losses.parse_class_weights`.
    Raises:
        ConfigError: an unknown regression, a missing teacher, or an output that the model lacks.
    """
    section, mask = config.loss, batch.get("mask")
    if section.regression not in _REGRESSIONS:
        raise ConfigError(
            f"config.loss.regression = {section.regression!r}; "
            + nearest(section.regression, _REGRESSIONS)
        )
    share = section.distillation_weight
    if share and teacher is None:
        raise ConfigError(
            f"config.loss.distillation_weight = {share} but there is no config.loss.teacher"
        )
    shared = {"mask": mask, "axis_name": axis_name}
    terms: Terms = {}
    total = jnp.zeros((), jnp.float32)

    if section.categories:
        (logits,) = need_outputs(outputs, ("logits",), "categories")
        labels = batch["expression"]
        if "expression_probs" in batch:
            labels = losses.votes_or_labels(batch["expression_probs"], labels)
        terms["cross_entropy"] = losses.softmax_cross_entropy(
            logits,
            labels,
            label_smoothing=section.label_smoothing,
            class_weights=class_weights,
            **shared,
        )
        total = terms["cross_entropy"]
        if share and "logits" in teacher:
            terms["distillation"] = losses.distillation_divergence(
                logits, teacher["logits"], **shared
            )
            total = (1 - share) * total + share * terms["distillation"]
        if "primary" in outputs:
            added, more = reliability_terms(outputs, labels, config=config, **shared)
            total, terms = total + added, terms | more

    targets = batch.get("valence_arousal")
    if share and "valence" in teacher:
        targets = jnp.stack([teacher["valence"], teacher["arousal"]], axis=-1)
    if section.regression != "none" and targets is not None:
        predictions = jnp.stack(
            need_outputs(outputs, ("valence", "arousal"), "regression"), axis=-1
        )
        regression = losses.regression_losses(predictions, jax.lax.stop_gradient(targets), **shared)
        terms |= regression._asdict()
        if section.regression == "shake_shake":
            total += losses.shake_shake(key, regression)
        else:
            total += terms[section.regression]

    if section.heatmap_weight and "landmarks" in batch:
        terms["heatmap"] = landmark_loss(outputs, batch, config=config, axis_name=axis_name)
        total += section.heatmap_weight * terms["heatmap"]
    return total, terms


def landmark_loss(
    outputs: dict[str, jax.Array],
    batch: dict[str, jax.Array],
    *,
    config: ml_collections.ConfigDict,
    axis_name: str | None,
) -> jax.Array:
    """Heatmap regression of the landmark trunk, every stack supervised; 0 without landmarks.

    Args:
        outputs: `stack_heatmaps`, a tuple of [B, h, h, 68].
        batch: `landmarks` [B, 68, 2] in pixels of `image` [B, H, H, 3] (NaN: missing), `mask`.
        config: `loss.heatmap_sigma` in heatmap pixels.
    """
    (stacks,) = need_outputs(outputs, ("stack_heatmaps",), "heatmap_weight")
    targets, visible = render_heatmaps(
        batch["landmarks"],
        stacks[0].shape[1],
        config.loss.heatmap_sigma,
        image_size=batch["image"].shape[1],
    )
    return losses.heatmap_loss(
        stacks, targets, visible, mask=batch.get("mask"), axis_name=axis_name
    )


def landmarks_of(
    outputs: dict[str, jax.Array], config: ml_collections.ConfigDict, image_size: int
) -> jax.Array:
    """Landmarks [B, 68, 2] in pixels of the input, read off `heatmaps` as `model.decode` says."""
    points, _ = decode_heatmaps(outputs["heatmaps"], config.model.get("decode", "quarter"))
    return grid_to_pixels(points, outputs["heatmaps"].shape[1], image_size)


def need_outputs(
    outputs: dict[str, jax.Array], names: tuple[str, ...], key: str
) -> list[jax.Array]:
    """The outputs of these names.

    Raises:
      ConfigError: the model lacks one that `config.loss.<key>` needs.
    """
    missing = [name for name in names if name not in outputs]
    if missing:
        raise ConfigError(
            f"config.loss.{key} needs the outputs {', '.join(names)}; config.model gives "
            f"{', '.join(sorted(outputs))}"
        )
    return [outputs[name] for name in names]
