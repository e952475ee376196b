"""Learning-rate schedules from the fields of `config.optimizer`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from affect_jax.config import ConfigError
from affect_jax.errors import nearest

Schedule = Callable[[Any], jax.Array]

SCHEDULES = ("constant", "step", "exponential", "cosine", "plateau")


def create_schedule(
    config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """Return the learning rate of each step, counted from 0.

    `config.schedule` is one of
        constant
        step: times `decay_factor` after every `step_epochs` epochs
        exponential: times `decay_factor` after every epoch
        cosine: half a cosine down to `final_fraction` of the start at `total_steps`
        plateau: times `decay_factor` when the training loss has not fallen for more than
            `plateau_patience` steps; the optimizer state holds the factor (`plateau_scale`)
    The first `warmup_steps` (or, if 0, `warmup_epochs`) are multiplied by a ramp from 1 / warm-up
    to 1. Epochs are counted from step 0, warm-up included.

    Raises:
        ConfigError: the schedule is unknown, or a value is out of range.
    """
    if config.schedule not in SCHEDULES:
        raise ConfigError(
            f"config.optimizer.schedule = {config.schedule!r}; "
            + nearest(config.schedule, SCHEDULES)
        )
    for field in ("learning_rate", "warmup_steps", "warmup_epochs", "decay_factor"):
        if not config[field] >= 0:
            raise ConfigError(
                f"config.optimizer.{field} = {config[field]}; it must not be negative"
            )
    if config.schedule == "step" and not config.step_epochs > 0:
        raise ConfigError(
            f"config.optimizer.step_epochs = {config.step_epochs}; it must be above 0"
        )
    warmup = config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)

    def factor(step: jax.Array) -> jax.Array | float:
        if config.schedule == "step":
            return config.decay_factor ** jnp.floor(step / (config.step_epochs * steps_per_epoch))
        if config.schedule == "exponential":
            return config.decay_factor ** jnp.floor(step / steps_per_epoch)
        if config.schedule == "cosine":
            progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0, 1)
            final = config.final_fraction
            # The half-angle form of (1 + cos) / 2 keeps its digits near the end.
            return final + (1 - final) * jnp.cos(jnp.pi / 2 * progress) ** 2
        return 1.0

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        ramp = jnp.minimum((step + 1) / max(warmup, 1), 1)
        return config.learning_rate * ramp * factor(step)

    return schedule


def reduce_on_plateau(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Return a transform that scales updates down when the loss stops falling.

    The training loss is given as `value`.

    As in PyTorch, the learning rate changes after *more* than `plateau_patience` steps in which no
    loss is lower than the best by a fraction of 1e-4.

    Raises:
        ConfigError: a value is out of range.
    """
    if config.plateau_patience < 0 or not 0 < config.decay_factor < 1:
        raise ConfigError(
            f"config.optimizer.plateau_patience = {config.plateau_patience} and decay_factor = "
            f"{config.decay_factor}; with schedule = 'plateau' the patience must not be negative "
            "and the factor must be in (0, 1)"
        )
    return optax.contrib.reduce_on_plateau(
        factor=config.decay_factor, patience=config.plateau_patience + 1, rtol=1e-4
    )


def plateau_scale(opt_state: Any) -> jax.Array | None:
    """Return the current factor of a plateau schedule; None for other schedules."""

    def is_plateau(value: Any) -> bool:
        return isinstance(value, optax.contrib.ReduceLROnPlateauState)

    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_plateau) if is_plateau(x)]
    return found[0].scale if found else None
