"""A classifier of expressions with any model: ResNet, POSTER++, a transformer ...

Objective: cross-entropy. Valence and arousal are learnt too, where the model gives them
(`model.regression`) and the data have them, and reliability balancing where the model has it
(`model.reliability`, see `systems.arbex`).
"""

import dataclasses

import jax
import ml_collections

from affect_jax.config import ConfigError
from affect_jax.systems.base import Labels, Phase, System
from affect_jax.systems.objective import LossInputs, Terms, supervised_objective


class ClassifierSystem(System):
    """Any model with `logits` and one phase of training.

    `config.loss` sets label smoothing, class weights, distillation and the regression loss. Fields
    that the model does not learn are left out of `has`, and so out of losses and metrics.

    Raises:
      ConfigError: the data have no label that the model could learn.
    """

    def __init__(self, config: ml_collections.ConfigDict, labels: Labels):
        learnt = {"expression"} if config.loss.categories else set()
        if config.model.get("regression") and config.loss.regression != "none":
            learnt.add("valence_arousal")
        if not labels.has & learnt:
            raise ConfigError(
                f"config.system = {config.system!r} learns {sorted(learnt) or 'nothing'}, but the "
                f"training data have {sorted(labels.has)}. Set loss.categories to learn "
                "expressions; model.regression and loss.regression for valence and arousal"
            )
        super().__init__(config, dataclasses.replace(labels, has=frozenset(labels.has & learnt)))

    def loss(self, inputs: LossInputs, phase: Phase) -> tuple[jax.Array, Terms]:
        affect = "valence_arousal" in self.has
        return supervised_objective(inputs, self.config.loss, self.class_weights, affect=affect)


class ExpressionSystem(ClassifierSystem):
    """A classifier of expressions alone.

    Raises:
      ConfigError: the config asks for valence and arousal, or not for expressions.
    """

    def __init__(self, config: ml_collections.ConfigDict, labels: Labels):
        if config.model.get("regression") or not config.loss.categories:
            raise ConfigError(
                f'config.system = "{config.system}" learns expressions alone; for valence and '
                'arousal use config.system = "classifier"'
            )
        super().__init__(config, labels)
