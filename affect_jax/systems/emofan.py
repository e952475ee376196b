"""EmoFAN (Toisoul et al., Nature Machine Intelligence 2021): stages and objective.

The equations are those of the paper; which labels a batch holds is found in the batch itself.
"""

import logging
from typing import Any

import jax
from flax import nnx

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.models import state
from affect_jax.systems.base import Phase, System
from affect_jax.systems.objective import (
    Terms,
    emofan_loss,
    landmark_loss,
    landmarks_of,
    learnt,
)

log = logging.getLogger(__name__)

# Layers of a landmark trunk, the first and the last: one that `optimizer.freeze` spares trains.
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
        """Returns whether the trunk, if there is one, trains after the landmark stage."""
        frozen = self.config.optimizer.freeze
        return self.config.model.get("train_trunk", True) and not all(
            state.matches(frozen, path) for path in _TRUNK
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
