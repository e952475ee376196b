"""The train step of each phase of a run: pure, per replica, compiled when its phase begins."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from affect_jax.models.layer_depth import layer_numbers
from affect_jax.models.preprocessing import normalise
from affect_jax.models.state import Blueprint, current_stats, select, take_apart
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import AXIS
from affect_jax.systems.base import Phase, System
from affect_jax.training import mixing, optim
from affect_jax.weights.teacher import Teacher


def make_train_step(
    system: System,
    blueprint: Blueprint,
    optimizer: optax.GradientTransformation,
    phase: Phase,
    teacher: Teacher | None = None,
) -> Callable[[dict, dict], tuple[dict, dict]]:
    """The per-replica step of one phase: (state, batch, teacher arrays[, seed]) -> (state, terms).

    The loss and its gradient are those of the global batch, equal on all replicas. The seed, by
    default that of the config, is an argument so that runs which differ in it alone are one
    compiled program.
    """
    config = system.config
    section = config.model

    def step(
        state: dict, batch: dict, teacher_arrays: dict, seed: jax.Array | int = config.seed
    ) -> tuple[dict, dict]:
        step_key = jax.random.fold_in(jax.random.key(seed), state["step"])
        replica_key = jax.random.fold_in(step_key, jax.lax.axis_index(AXIS) + 1)
        if system.mixes(phase):
            # 0 is the one number that replica_key leaves free.
            mixing_key = jax.random.fold_in(step_key, 0)
            batch = mixing.mix(batch, mixing_key, config.mixing, system.num_classes, AXIS)
        images = normalise(batch["image"], section.mean, section.std)
        trained, fixed = select(state["params"], lambda path: system.trainable(path, phase))
        teacher_outputs = None
        if teacher is not None:
            teacher_model = teacher.blueprint.build(**teacher_arrays)
            pictures = normalise(batch["image"], teacher.mean, teacher.std)
            teacher_outputs = teacher.lessons(teacher_model(pictures))

        def loss_of(trained: dict) -> tuple[jax.Array, tuple[dict, dict]]:
            model = blueprint.build({**fixed, **trained}, state["stats"])
            outputs = system.forward(model, images, phase, nnx.Rngs(dropout=replica_key))
            loss, terms = system.loss(
                outputs,
                batch,
                key=step_key,
                axis_name=AXIS,
                phase=phase,
                teacher=teacher_outputs,
            )
            return loss, (terms, current_stats(model))

        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (terms, stats)), gradients = gradient_of(trained)
        gradients = jax.lax.pmean(gradients, AXIS)
        if config.optimizer.sam_rho:
            # The same examples and dropout once more; loss and statistics stay those of the first.
            worse = optim.sharpest(trained, gradients, config.optimizer.sam_rho)
            gradients = jax.lax.pmean(gradient_of(worse)[1], AXIS)
        updates, opt = optimizer.update(gradients, state["opt"], trained, value=loss)
        params = {**fixed, **optax.apply_updates(trained, updates)}
        new = {"step": state["step"] + 1, "params": params, "stats": stats, "opt": opt}
        if "ema" in state:
            ema = optim.ema_update(
                state["ema"], {"params": params, "stats": stats}, config.ema_decay, new["step"]
            )
            # BatchNorm's statistics are averaged with the weights that they belong to.
            counted = {path: stats[path] for path in blueprint.counters}
            new["ema"] = {**ema, "stats": {**ema["stats"], **counted}}
        terms = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradients)}
        if (scale := optim.plateau_scale(opt)) is not None:
            terms["learning_rate_scale"] = scale
        return new, terms

    return step


class Phases:
    """The compiled step, optimizer and blueprint of the phase that a step belongs to."""

    def __init__(
        self,
        system: System,
        model: nnx.Module,
        mapper: parallel.Mapper,
        total_steps: int,
        steps_per_epoch: int,
        teacher: Teacher | None,
    ):
        self._system, self._model, self._mapper = system, model, mapper
        self._total, self._steps_per_epoch, self._teacher = total_steps, steps_per_epoch, teacher
        self.all = system.phases(total_steps)

    def at(self, step: int) -> Phase:
        """The phase in which `step` is trained."""
        return [p for p in self.all if p.start <= step][-1]

    def optimizer(self, phase: Phase, params: dict) -> tuple[optax.GradientTransformation, Any]:
        """(transformation, its schedule) for the parameters trained in `phase`."""
        following = [p.start for p in self.all if p.start > phase.start]
        settings = self._system.config.optimizer.copy_and_resolve_references()
        if phase.learning_rate is not None:
            settings.learning_rate = phase.learning_rate
        return optim.create_optimizer(
            settings,
            total_steps=max((following or [self._total])[0] - phase.start, 1),
            steps_per_epoch=self._steps_per_epoch,
            params=self.trained(phase, params),
            layers=layer_numbers(self._model),
        )

    def trained(self, phase: Phase, params: dict) -> dict:
        """The parameters that `phase` trains."""
        return select(params, lambda path: self._system.trainable(path, phase))[0]

    def compiled(self, phase: Phase, optimizer: optax.GradientTransformation) -> Callable:
        """The mapped train step of `phase`; the state given to it is consumed."""
        self._system.set_train_mode(self._model, phase)
        blueprint = take_apart(self._model)[0]
        self._model.eval()
        step = make_train_step(self._system, blueprint, optimizer, phase, self._teacher)
        mapped = self._mapper.map(step, donate_state=True)
        seed = self._mapper.replicate(np.uint32(self._system.config.seed & 0xFFFFFFFF))
        return lambda state, batch, teacher_arrays: mapped(state, batch, teacher_arrays, seed)
