"""A classifier of expressions, whatever its model: ViT with SE, ResNet, POSTER++ ...

Cross-entropy, and valence and arousal beside it where the model gives them (`model.regression`) and
the data have them.
"""

from typing import Any

import jax
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.systems.base import Phase, System
from affect_jax.systems.objective import Terms, emofan_loss, learnt


class ClassifierSystem(System):
    """Any model with `logits` and one stage of training.

    The terms are those of `systems.emofan.emofan_loss` with the same fields of `config.loss`: label
    smoothing, class weights, votes and mixed labels, distillation, and a regression loss. Fields
    that the model does not learn are left out of `has`, and so out of losses and metrics.

    Raises:
      ConfigError: if the data have no label that the model could learn.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        class_names: tuple[str, ...],
        has: frozenset[str],
        class_counts: tuple[int, ...],
    ):
        learnt = {"expression"} if config.loss.categories else set()
        if config.model.get("regression") and config.loss.regression != "none":
            learnt.add("valence_arousal")
        if not has & learnt:
            raise ConfigError(
                f"config.system = {config.system!r} would learn {sorted(learnt) or 'nothing'}, the "
                f"training data have {sorted(has)}; see loss.categories, and model.regression with "
                "loss.regression for valence and arousal"
            )
        super().__init__(config, class_names, frozenset(has & learnt), class_counts)

    def model_arguments(self) -> dict[str, Any]:
        arguments = super().model_arguments()
        arguments["n_expression"] = self.num_classes if "expression" in self.has else 0
        return arguments

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
        labels = {name: array for name, array in batch.items() if name != "landmarks"}
        return emofan_loss(
            outputs,
            learnt(labels, self.has),
            key=key,
            config=self.config,
            axis_name=axis_name,
            teacher=None if teacher is None else learnt(teacher, self.has),
            class_weights=self.class_weights,
        )
