"""EmoFAN (Toisoul et al., Nature Machine Intelligence 2021): stages and objective.

The equations are those of the paper; which labels a batch holds is found in the batch itself.
"""

import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.losses import supervised as losses
from affect_jax.systems.arbex import reliability_terms
from affect_jax.systems.base import Phase, System, need_outputs
from affect_jax.systems.fan import landmark_loss, landmarks_of
from affect_jax.training import optim

log = logging.getLogger(__name__)

Terms = dict[str, jax.Array]
# Layers of a landmark trunk, the first and the last: one that `optimizer.freeze` spares trains.
_TRUNK = ("fan/stem_conv/kernel", "fan/stacks/0/heatmaps/kernel")
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


class EmoFANSystem(System):
    """EmoFAN, or any model with the same outputs (ResNet-18 as the paper's baseline)."""

    @property
    def supervised(self) -> frozenset[str]:
        section = self.config.loss
        untrained = {
            "expression": not section.categories,
            "valence_arousal": section.regression == "none",
            "landmarks": not (section.heatmap_weight and self._trunk_trains()),
        }
        return frozenset(name for name in super().supervised if not untrained[name])

    @property
    def known(self) -> frozenset[str]:
        # Heatmaps of a trunk that trains on without landmarks are attention, not landmarks.
        learnt_before = self.config.landmark_stage.steps or self.config.init_from
        if learnt_before and not self._trunk_trains():
            return self.supervised | {"landmarks"}
        return self.supervised

    def _trunk_trains(self) -> bool:
        """Returns whether the trunk, if there is one, trains after the landmark stage."""
        frozen = self.config.optimizer.freeze
        return self.config.model.get("train_trunk", True) and not all(
            optim.matches(frozen, path) for path in _TRUNK
        )

    def model_arguments(self) -> dict[str, Any]:
        arguments = super().model_arguments()
        arguments["n_expression"] = self.num_classes if "expression" in self.has else 0
        return arguments

    def first_steps(self, total_steps: int) -> int:
        return min(self.config.landmark_stage.steps, max(total_steps // 2, 1))

    def phases(self, total_steps: int) -> list[Phase]:
        """The landmark trunk first, if the config gives it steps, for at most half of the run; then
        everything else.

        Raises:
          ConfigError: if there are no landmarks to learn from.
        """
        stage = self.config.landmark_stage
        if stage.data not in ("own", "synthetic"):
            raise ConfigError(
                f"config.landmark_stage.data = {stage.data!r}; "
                + nearest(stage.data, ("own", "synthetic"))
            )
        if not stage.steps:
            return [Phase("emotion", 0)]
        if stage.data == "own" and "landmarks" not in self.has:
            raise ConfigError(
                f"config.landmark_stage.steps = {stage.steps}, but the training data have no "
                'landmarks; set landmark_stage.data to "synthetic", or landmark_stage.steps to 0'
            )
        landmarks = Phase("landmarks", 0, stage.learning_rate, synthetic=stage.data == "synthetic")
        steps = self.first_steps(total_steps)
        if steps < stage.steps:
            log.warning(
                "config.landmark_stage.steps = %d is cut to %d, half of the run", stage.steps, steps
            )
        return [landmarks, Phase("emotion", steps)]

    def _trains_trunk(self, phase: Phase) -> bool:
        return phase.name == "landmarks" or self.config.model.train_trunk

    def trainable(self, path: str, phase: Phase) -> bool:
        in_trunk = path.startswith("fan/")
        if phase.name == "landmarks":
            return in_trunk
        if in_trunk and not self._trains_trunk(phase):
            return False
        return super().trainable(path, phase)

    def set_train_mode(self, model: nnx.Module, phase: Phase) -> None:
        """A frozen trunk keeps its statistics too: it stays in evaluation mode."""
        super().set_train_mode(model, phase)
        if hasattr(model, "fan") and not self._trains_trunk(phase):
            model.fan.eval()

    def mixes(self, phase: Phase) -> bool:
        return phase.name != "landmarks"

    def forward(
        self, model: nnx.Module, images: jax.Array, phase: Phase, rngs: nnx.Rngs
    ) -> dict[str, jax.Array]:
        return model.fan(images) if phase.name == "landmarks" else model(images, rngs=rngs)

    def loss(
        self,
        outputs: dict[str, jax.Array],
        batch: dict[str, jax.Array],
        *,
        key: jax.Array,
        axis_name: str | None,
        phase: Phase,
        teacher: dict[str, jax.Array] | None,
    ) -> tuple[jax.Array, Terms]:
        if phase.name == "landmarks":
            loss = landmark_loss(outputs, batch, config=self.config, axis_name=axis_name)
            return loss, {"heatmap": loss}
        return emofan_loss(
            outputs,
            learnt(batch, self.has),
            key=key,
            config=self.config,
            axis_name=axis_name,
            teacher=None if teacher is None else learnt(teacher, self.has),
            class_weights=self.class_weights,
        )

    def predictions(self, outputs: dict[str, jax.Array], image_size: int) -> dict[str, jax.Array]:
        """Outputs that were trained: what data have no labels for, or no loss, would be noise."""
        kept = super().predictions(outputs, image_size)
        if "heatmaps" in outputs and "landmarks" in self.known:
            kept["landmarks"] = landmarks_of(outputs, self.config, image_size)
        return kept
