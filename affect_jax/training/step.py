"""The train step of each phase: pure, per replica, compiled when the phase begins."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from affect_jax.config import ConfigError
from affect_jax.models.layer_depth import layer_numbers
from affect_jax.models.preprocessing import normalise
from affect_jax.models.recompute import keeping_products
from affect_jax.models.state import Blueprint, current_stats, select, take_apart
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import AXIS
from affect_jax.systems.base import Phase, System
from affect_jax.systems.objective import LossInputs
from affect_jax.training import mixing, optim
from affect_jax.training.packing import Packing
from affect_jax.training.schedules import Schedule, plateau_scale
from affect_jax.weights.teacher import Teacher


def make_train_step(
    system: System,
    blueprint: Blueprint,
    optimizer: optax.GradientTransformation,
    phase: Phase,
    teacher: Teacher | None = None,
    packing: Packing | None = None,
) -> Callable[..., tuple[dict, dict]]:
    """Return the step: (state, batch, teacher arrays[, seed]) -> (state, terms).

    Loss and gradient belong to the global batch and are equal on all replicas. The seed (default:
    the config's) is an argument, so that runs that differ only in it share a compiled program.
    With `packing`, the optimizer sees the packed parameters.
    """
    config = system.config
    pack, unpack = (packing.pack, packing.unpack) if packing else (dict, dict)
    section = config.model

    def step(
        state: dict, batch: dict, teacher_arrays: dict, seed: jax.Array | int = config.seed
    ) -> tuple[dict, dict]:
        step_key = jax.random.fold_in(jax.random.key(seed), state["step"])
        replica_key = jax.random.fold_in(step_key, jax.lax.axis_index(AXIS) + 1)
        if system.mixes(phase):
            # Replicas fold in 1, 2, ...: 0 is free.
            mixing_key = jax.random.fold_in(step_key, 0)
            batch = mixing.mix(batch, mixing_key, config.mixing, system.num_classes, AXIS)
        images = normalise(batch["image"], section.mean, section.std)
        trained, fixed = select(state["params"], lambda path: system.trainable(path, phase))
        teacher_outputs = None
        if teacher is not None:
            teacher_model = teacher.blueprint.build(**teacher_arrays)
            inputs = normalise(batch["image"], teacher.mean, teacher.std)
            teacher_outputs = teacher.lessons(teacher_model(inputs))

        def loss_of(trained: dict) -> tuple[jax.Array, tuple[dict, dict]]:
            model = blueprint.build({**fixed, **trained}, state["stats"])
            rngs = nnx.Rngs(dropout=replica_key)
            outputs = system.forward(model, images, phase, rngs, batch.get("mask"))
            inputs = LossInputs(outputs, batch, step_key, AXIS, teacher_outputs)
            loss, terms = system.loss(inputs, phase)
            return loss, (terms, current_stats(model))

        if section.get("remat") == "products":
            loss_of = keeping_products(loss_of)
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (terms, stats)), gradients = gradient_of(trained)
        packed, gradients = pack(trained), parallel.mean_over_replicas(pack(gradients))
        if config.optimizer.sam_rho:
            # The same examples and dropout again; loss and statistics stay from the first pass.
            worse = optim.sharpest(packed, gradients, config.optimizer.sam_rho)
            gradients = parallel.mean_over_replicas(pack(gradient_of(unpack(worse))[1]))
        updates, opt = optimizer.update(gradients, state["opt"], packed, value=loss)
        params = {**fixed, **optax.apply_updates(trained, unpack(updates))}
        new = {"step": state["step"] + 1, "params": params, "stats": stats, "opt": opt}
        if "ema" in state:
            ema = optim.ema_update(
                state["ema"], {"params": params, "stats": stats}, config.ema_decay, new["step"]
            )
            # BatchNorm statistics are averaged with their weights; counters are not.
            kept = {path: stats[path] for path in blueprint.constants}
            new["ema"] = {**ema, "stats": {**ema["stats"], **kept}}
        terms = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradients)}
        if (scale := plateau_scale(opt)) is not None:
            terms["learning_rate_scale"] = scale
        return new, terms

    return step


@dataclasses.dataclass(frozen=True)
class PhaseStep:
    """The train step of one phase.

    Attributes:
      phase: the phase.
      schedule: learning rate of each step of the phase, counted from 0.
      init: parameters -> fresh optimizer state of those that the phase trains.
      run: (state, batch), on the devices -> (state, terms); the given state is consumed.
      program: (state, batch), which may be shapes -> the program that `run` would run.
    """

    phase: Phase
    schedule: Schedule
    init: Callable[[dict], Any]
    run: Callable[[dict, dict], tuple[dict, dict]]
    program: Callable[[dict, dict], parallel.Program]


def resumed(planned: Sequence[Phase], recorded: Mapping[str, int], done: int) -> list[Phase]:
    """Return the phases of a run that is resumed, perhaps with another length.

    The phase of the last step and those before it keep their starts, so that the optimizer state
    fits. Later ones start as planned, but not before the steps that are done.

    Args:
      planned: the phases of a new run of this length.
      recorded: name -> start, of the run until now; a name may be absent.
      done: steps done.
    """

    def start(phase: Phase) -> int:
        before = recorded.get(phase.name, phase.start)
        return before if before < done else max(phase.start, done)

    return [dataclasses.replace(phase, start=start(phase)) for phase in planned]


class Phases:
    """The phases of a run; `begin` makes the train step of one.

    Raises:
      ConfigError: `optimizer.freeze` leaves nothing to train in a phase.
    """

    def __init__(
        self,
        system: System,
        model: nnx.Module,
        mapper: parallel.Mapper,
        total_steps: int,
        steps_per_epoch: int,
        teacher: Teacher | None = None,
    ):
        self._system, self._model, self._mapper = system, model, mapper
        self._total, self._steps_per_epoch, self._teacher = total_steps, steps_per_epoch, teacher
        self.all = system.phases(total_steps)
        paths = take_apart(model)[1]
        for phase in self.all:
            if not any(system.trainable(path, phase) for path in paths):
                raise ConfigError(
                    f"config.optimizer.freeze = {tuple(system.config.optimizer.freeze)} leaves "
                    f"nothing to train in the phase {phase.name!r}; freeze less, or leave out the "
                    "phase"
                )

    def resume(self, recorded: Mapping[str, int], done: int) -> None:
        """Keep the borders of a run that has begun, see `resumed`."""
        self.all = resumed(self.all, recorded, done)

    def at(self, step: int) -> Phase:
        """Return the phase in which `step` is trained."""
        return [p for p in self.all if p.start <= step][-1]

    def begin(self, phase: Phase) -> PhaseStep:
        """Return the train step of `phase`, which is compiled when it is first run."""
        config, model = self._system.config, self._model

        def trained(params: dict) -> dict:
            return select(params, lambda path: self._system.trainable(path, phase))[0]

        settings = config.optimizer.copy_and_resolve_references()
        # Frozen parameters are not given to the optimizer, which sees names of groups.
        settings.freeze = ()
        if phase.learning_rate is not None:
            settings.learning_rate = phase.learning_rate
        end = min((p.start for p in self.all if p.start > phase.start), default=self._total)
        params = trained(take_apart(model)[1])
        layers = layer_numbers(model)
        packing = Packing.of(params, layers, by_layer=settings.layer_decay != 1)
        optimizer, schedule = optim.create_optimizer(
            settings,
            total_steps=max(end - phase.start, 1),
            steps_per_epoch=self._steps_per_epoch,
            params=jax.eval_shape(packing.pack, params),
            # All layers: the top may be frozen.
            layers={**layers, **packing.layers},
            decays=packing.decays,
        )
        self._system.set_train_mode(model, phase)
        blueprint = take_apart(model)[0]
        model.eval()
        step = make_train_step(self._system, blueprint, optimizer, phase, self._teacher, packing)
        mapped = self._mapper.map(step, donate_state=True)
        teacher_arrays = self._teacher.arrays if self._teacher else {}
        seed = self._mapper.replicate(np.uint32(config.seed & 0xFFFFFFFF))
        # One program; else there would be one for each shape.
        fresh = jax.jit(lambda params: optimizer.init(packing.pack(params)))
        return PhaseStep(
            phase,
            schedule,
            init=lambda params: fresh(trained(params)),
            run=lambda state, batch: mapped(state, batch, teacher_arrays, seed),
            program=lambda state, batch: mapped.program(state, batch, teacher_arrays, seed),
        )

    def fresh_state(self, begun: PhaseStep) -> dict[str, Any]:
        """Return the train state of a run that begins now, on the host."""
        _, params, stats = take_apart(self._model)
        state = {"step": np.int32(0), "params": params, "stats": stats, "opt": begun.init(params)}
        if self._system.config.ema_decay:
            state["ema"] = {"params": params, "stats": stats}
        return state
