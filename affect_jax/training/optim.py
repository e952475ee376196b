"""Optimizers, learning-rate schedules and weight averages from the fields of `config.optimizer`.

Parameters are any pytree of arrays; a parameter is named by its path, such as
`trunk/conv1/kernel`. The optimizer state is a plain optax pytree, so checkpoints hold it as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.models.state import matches, path_name

Schedule = Callable[[Any], jax.Array]


def decays(name: str, parameter: jax.Array) -> bool:
    """Returns whether weight decay applies: to kernels of linear layers and convolutions alone.

    For other parameters 0 is no simpler value, and with little gradient decay takes them there:
    anchors, position embeddings, tables of position biases, class tokens, factors of layer scale,
    slopes, biases, the parameters of normalisation layers.
    """
    return jnp.ndim(parameter) > 1 and name.rsplit("/", 1)[-1] == "kernel"


def _decay_mask(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, p: decays(path_name(path), p), params)


# -------------------------------------------------------------------- schedules


def _constant(config: ml_collections.ConfigDict, total: int, per_epoch: int, warmup: int):
    return lambda step: 1.0


def _step(config: ml_collections.ConfigDict, total: int, per_epoch: int, warmup: int):
    every = config.step_epochs * per_epoch
    if every <= 0:
        raise ConfigError(
            f"config.optimizer.step_epochs = {config.step_epochs}; it must be above 0"
        )
    return lambda step: config.decay_factor ** jnp.floor(step / every)


def _exponential(config: ml_collections.ConfigDict, total: int, per_epoch: int, warmup: int):
    return lambda step: config.decay_factor ** jnp.floor(step / per_epoch)


def _cosine(config: ml_collections.ConfigDict, total: int, per_epoch: int, warmup: int):
    final = config.final_fraction

    def factor(step):
        progress = jnp.clip((step - warmup) / max(total - warmup, 1), 0, 1)
        # The half-angle form of (1 + cos) / 2 keeps its digits near the end.
        return final + (1 - final) * jnp.cos(jnp.pi / 2 * progress) ** 2

    return factor


_SCHEDULES = {
    "constant": _constant,
    "step": _step,
    "exponential": _exponential,
    "cosine": _cosine,
    "plateau": _constant,  # and what `_plateau` makes of it
}


def _plateau(config: ml_collections.ConfigDict) -> list[optax.GradientTransformation]:
    """Scales updates down when the training loss, given as `value`, no longer falls.

    As in PyTorch, the learning rate changes once *more* than `plateau_patience` steps have passed
    without a loss that is 1e-4 of it below the best.
    """
    if config.schedule != "plateau":
        return []
    if config.plateau_patience < 0 or not 0 < config.decay_factor < 1:
        raise ConfigError(
            f"config.optimizer.plateau_patience = {config.plateau_patience} and decay_factor = "
            f"{config.decay_factor}; the patience must not be negative, and with schedule = "
            "'plateau' the factor must be in (0, 1)"
        )
    return [
        optax.contrib.reduce_on_plateau(
            factor=config.decay_factor, patience=config.plateau_patience + 1, rtol=1e-4
        )
    ]


def plateau_scale(opt_state: Any) -> jax.Array | None:
    """What a plateau schedule multiplies the learning rate by now; None for other schedules."""

    def is_plateau(value: Any) -> bool:
        return isinstance(value, optax.contrib.ReduceLROnPlateauState)

    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_plateau) if is_plateau(x)]
    return found[0].scale if found else None


def create_schedule(
    config: ml_collections.ConfigDict, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """The learning rate of each step, counted from 0.

    `config.schedule` is one of
        constant
        step: times `decay_factor` after every `step_epochs` epochs
        exponential: times `decay_factor` after every epoch
        cosine: half a cosine down to `final_fraction` of the start at `total_steps`
        plateau: times `decay_factor` when the training loss has not fallen for more than
            `plateau_patience` steps; the factor is in the optimizer's state (see `plateau_scale`)
    and the first `warmup_steps` (or, if 0, `warmup_epochs`) are multiplied by a ramp from
    1 / warm-up to 1. Epochs are counted from step 0, warm-up included.

    Raises:
        ConfigError: an unknown schedule, or a value out of range.
    """
    if config.schedule not in _SCHEDULES:
        raise ConfigError(
            f"config.optimizer.schedule = {config.schedule!r}; "
            + nearest(config.schedule, _SCHEDULES)
        )
    for field in ("learning_rate", "warmup_steps", "warmup_epochs", "decay_factor"):
        if not config[field] >= 0:
            raise ConfigError(
                f"config.optimizer.{field} = {config[field]}; it must not be negative"
            )
    warmup = config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)
    factor = _SCHEDULES[config.schedule](config, total_steps, steps_per_epoch, warmup)

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        ramp = jnp.minimum((step + 1) / max(warmup, 1), 1)
        return config.learning_rate * ramp * factor(step)

    return schedule


# ------------------------------------------------------------------- optimizers


def _adam(config: ml_collections.ConfigDict, decay: list) -> list:
    return [*decay, optax.scale_by_adam(config.b1, config.b2, config.eps)]


def _adamw(config: ml_collections.ConfigDict, decay: list) -> list:
    return [optax.scale_by_adam(config.b1, config.b2, config.eps), *decay]


def _sgd(config: ml_collections.ConfigDict, decay: list) -> list:
    return [*decay, optax.trace(config.momentum, config.nesterov)]


_OPTIMIZERS = {"adam": _adam, "adamw": _adamw, "sgd": _sgd}


def create_optimizer(
    config: ml_collections.ConfigDict,
    total_steps: int,
    steps_per_epoch: int,
    params: Any,
    layers: Mapping[str, int] | None = None,
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer and its learning-rate schedule.

    Gradients are clipped to the global norm `clip_norm` (0: not), over the trained parameters.
    Weight decay (see `decays`) is part of the gradient in adam and sgd, as in PyTorch, and apart
    from it in adamw. Parameters that `freeze` matches get updates of zero and have no state. With
    `layer_decay` d below 1, whole updates (weight decay too) of layer n of N, the top one, are
    multiplied by d ** (N - n), as in BEiT (Bao et al., ICLR 2022); the schedule is the top's.

    Args:
        config: `config.optimizer`: name, learning_rate, schedule, step_epochs, decay_factor,
            plateau_patience, final_fraction, warmup_steps, warmup_epochs, b1, b2, eps, momentum,
            nesterov, weight_decay, clip_norm, layer_decay, freeze; sam_rho is the train step's
            (see `sharpest`).
        total_steps: where a cosine ends.
        params: the parameters it will be used with (their names and shapes).
        layers: layer of every parameter by name, see `models.depth.layer_numbers`; needed if
            `layer_decay` is not 1.
    Raises:
        ConfigError: an unknown optimizer or schedule, or a value out of range.
    """
    if config.name not in _OPTIMIZERS:
        raise ConfigError(
            f"config.optimizer.name = {config.name!r}; {nearest(config.name, _OPTIMIZERS)}"
        )
    for field in ("b1", "b2", "momentum"):
        if not 0 <= config[field] < 1:
            raise ConfigError(f"config.optimizer.{field} = {config[field]}; it must be in [0, 1)")
    for field in ("weight_decay", "clip_norm", "sam_rho"):
        if not config[field] >= 0:
            raise ConfigError(
                f"config.optimizer.{field} = {config[field]}; it must not be negative"
            )
    if not 0 < config.layer_decay <= 1:
        raise ConfigError(
            f"config.optimizer.layer_decay = {config.layer_decay}; it must be in (0, 1]"
        )
    schedule = create_schedule(config, total_steps, steps_per_epoch)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    decay = []
    if config.weight_decay:
        decay = [optax.add_decayed_weights(config.weight_decay, mask=_decay_mask)]
    graded = [_scale_by_layer(config.layer_decay, layers)] if config.layer_decay != 1 else []
    optimizer = optax.chain(
        *clip,
        *_OPTIMIZERS[config.name](config, decay),
        optax.scale_by_learning_rate(schedule),
        *graded,
        *_plateau(config),
    )
    if config.freeze:
        labels = jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if matches(config.freeze, path_name(path)) else "trained",
            params,
        )
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    return optax.with_extra_args_support(optimizer), schedule


def _scale_by_layer(decay: float, layers: Mapping[str, int]) -> optax.GradientTransformation:
    top = max(layers.values())

    def scale(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, u: u * decay ** (top - layers[path_name(path)]), updates
        )

    return optax.stateless(scale)


def sharpest(params: Any, gradients: Any, rho: float) -> Any:
    """Where, `rho` away from the parameters, the loss is about largest: params + rho g / |g|.

    Sharpness-aware minimisation descends along the gradient of that point (Foret, Kleiner, Mobahi
    and Neyshabur, "Sharpness-aware minimization for efficiently improving generalization",
    ICLR 2021, eq. 2 and 3). `gradients` must be those of the global batch.
    """
    # A gradient of exactly 0 has no direction, and then there is nowhere to go.
    step = rho / jnp.maximum(optax.tree.norm(gradients), 1e-12)
    return jax.tree.map(lambda p, g: (p + step * g).astype(p.dtype), params, gradients)


def ema_update(average: Any, params: Any, decay: float, step: Any) -> Any:
    """One step of the exponential moving average of weights and BatchNorm statistics.

    Arrays of integers have no average: those of `params` are taken.

    Args:
        average: the average so far, in the beginning the parameters themselves.
        params: what is averaged, in the structure of `average`.
        decay: share of the average that is kept; early on the smaller (1 + step) / (10 + step),
            so that the average leaves the initial weights behind quickly.
        step: updates done, this one included: 1 at the first call.
    """
    step = jnp.asarray(step, jnp.float32)
    keep = jnp.minimum(decay, (1 + step) / (10 + step))

    def update(a: jax.Array, p: jax.Array) -> jax.Array:
        averaged = jnp.issubdtype(jnp.result_type(a), jnp.inexact)
        return (a + (1 - keep) * (p - a)).astype(a.dtype) if averaged else p

    return jax.tree.map(update, average, params)
