"""EmoFAN (Toisoul et al., 2021): affect from a face, guided by its landmarks.

Parts:
  trunk      a FAN (`models.fan`): features, and heatmaps of 68 landmarks
  attention  the features are multiplied by the sum of the heatmaps (`models.emofan`)
  branch     convolutions and a linear layer: expression, valence, arousal

Objective:

  phase "landmarks"  heatmap regression of the trunk alone, for `landmark_stage.steps`
  phase "emotion"    cross-entropy (eq. 5), with a teacher eq. 7
                     + (a L_MSE + b L_PCC + c L_CCC) / (a + b + c), a, b, c drawn anew for each
                       batch (eq. 8 to 10)
                     + `heatmap_weight` times the heatmap regression

The paper freezes the trunk in the second phase (`model.train_trunk=False`).
"""

import logging

import jax
from flax import nnx

from affect_jax import models
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.models.emofan import EmoFAN
from affect_jax.systems.base import Phase, System
from affect_jax.systems.objective import (
    Arrays,
    LossInputs,
    Terms,
    landmark_loss,
    supervised_objective,
)

log = logging.getLogger(__name__)

# The first and the last layer of a landmark trunk.
_TRUNK = ("fan/stem_conv/kernel", "fan/stacks/0/heatmaps/kernel")


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
        """Return whether any of the trunk trains in the emotion phase."""
        emotion = Phase("emotion", 0)
        return any(self.trainable(path, emotion) for path in _TRUNK)

    def first_steps(self, total_steps: int) -> int:
        return min(self.config.landmark_stage.steps, max(total_steps // 2, 1))

    def phases(self, total_steps: int) -> list[Phase]:
        """Return the landmark phase, for at most half of the run, and the emotion phase.

        Raises:
          ConfigError: the data have no landmarks to learn from.
        """
        stage, sources = self.config.landmark_stage, ("own", "synthetic")
        if stage.data not in sources:
            raise ConfigError(
                f"config.landmark_stage.data = {stage.data!r}; {nearest(stage.data, sources)}"
            )
        if not stage.steps:
            return [Phase("emotion", 0)]
        if not models.takes(self.config.model.name, "landmarks"):
            raise ConfigError(
                f"config.landmark_stage.steps = {stage.steps}, but the model "
                f"{self.config.model.name!r} has no landmark trunk; set landmark_stage.steps to 0"
            )
        if stage.data == "own" and "landmarks" not in self.has:
            raise ConfigError(
                f"config.landmark_stage.steps = {stage.steps}, but the training data have no "
                'landmarks; set landmark_stage.data to "synthetic", or landmark_stage.steps to 0'
            )
        steps = self.first_steps(total_steps)
        if steps < stage.steps:
            log.warning(
                "config.landmark_stage.steps = %d is reduced to %d, half of the run",
                stage.steps,
                steps,
            )
        landmarks = Phase("landmarks", 0, stage.learning_rate, synthetic=stage.data == "synthetic")
        return [landmarks, Phase("emotion", steps)]

    def _freezes_trunk(self, phase: Phase) -> bool:
        return phase.name != "landmarks" and not self.config.model.get("train_trunk", True)

    def trainable(self, path: str, phase: Phase) -> bool:
        in_trunk = path.startswith("fan/")
        if phase.name == "landmarks":
            return in_trunk and super().trainable(path, phase)
        return super().trainable(path, phase) and not (in_trunk and self._freezes_trunk(phase))

    def set_train_mode(self, model: nnx.Module, phase: Phase) -> None:
        """Put what trains into training mode; a frozen trunk keeps its statistics too."""
        super().set_train_mode(model, phase)
        if isinstance(model, EmoFAN) and self._freezes_trunk(phase):
            model.fan.eval()

    def mixes(self, phase: Phase) -> bool:
        return phase.name != "landmarks"

    def forward(
        self,
        model: nnx.Module,
        images: jax.Array,
        phase: Phase,
        rngs: nnx.Rngs,
        mask: jax.Array | None = None,
    ) -> Arrays:
        if phase.name == "landmarks" and isinstance(model, EmoFAN):
            return model.fan(images)
        return super().forward(model, images, phase, rngs, mask)

    def loss(self, inputs: LossInputs, phase: Phase) -> tuple[jax.Array, Terms]:
        section = self.config.loss
        if phase.name == "landmarks":
            heatmap = landmark_loss(inputs, section)
            return heatmap, {"heatmap": heatmap}
        affect = "valence_arousal" in self.has
        total, terms = supervised_objective(inputs, section, self.class_weights, affect=affect)
        if section.heatmap_weight and "landmarks" in inputs.batch:
            terms["heatmap"] = landmark_loss(inputs, section)
            total += section.heatmap_weight * terms["heatmap"]
        return total, terms

    def predictions(self, outputs: Arrays, image_size: int) -> Arrays:
        """Return the trained outputs: others would be noise."""
        kept = super().predictions(outputs, image_size)
        if "heatmaps" in outputs and "landmarks" in self.known:
            kept["landmarks"] = self.landmarks(outputs, image_size)
        return kept
