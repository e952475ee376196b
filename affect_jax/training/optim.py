"""Optimizers of `config.optimizer`, sharpness-aware steps, weight averages.

Parameters are any pytree of arrays; a parameter is named by its path, such as
`trunk/conv1/kernel`. The optimizer state is a plain optax pytree, so a checkpoint can hold it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.models.state import matches, path_name
from affect_jax.training.schedules import Schedule, create_schedule, reduce_on_plateau

OPTIMIZERS = ("adam", "adamw", "sgd")


def has_weight_decay(name: str, parameter: jax.Array) -> bool:
    """Return whether weight decay applies: only to linear and convolution kernels.

    For other parameters, 0 is not a simpler value, and decay moves them there if they have little
    gradient: anchors, position embeddings, tables of position biases, class tokens, factors of
    layer scale, slopes, biases, parameters of normalisation layers.
    """
    return jnp.ndim(parameter) > 1 and name.rsplit("/", 1)[-1] == "kernel"


def create_optimizer(
    config: ml_collections.ConfigDict,
    total_steps: int,
    steps_per_epoch: int,
    params: Any,
    layers: Mapping[str, int] | None = None,
    decays: Mapping[str, bool] | None = None,
) -> tuple[optax.GradientTransformation, Schedule]:
    """Return the optimizer and its learning-rate schedule.

    Gradients of the trained parameters are clipped to the global norm `clip_norm` (0: not). Weight
    decay (`has_weight_decay`) is part of the gradient in adam and sgd, as in PyTorch, and separate
    from it in adamw. Parameters that `freeze` matches get updates of zero and have no state. With
    `layer_decay` d below 1, whole updates of layer n (with weight decay) are multiplied by d ** (N
    - n), as in BEiT (Bao et al., ICLR 2022). Layer N is the top; it follows the schedule unchanged.

    Args:
        config: `config.optimizer`; the train step reads its `sam_rho` (see `sharpest`).
        total_steps: where a cosine ends.
        params: the parameters it will be used with (their names and shapes).
        layers: layer of every parameter by name, see `models.layer_depth.layer_numbers`; needed if
            `layer_decay` is not 1.
        decays: whether weight decay applies to each parameter; default: `has_weight_decay`.

    Raises:
        ConfigError: the optimizer or schedule is unknown, or a value is out of range.
    """
    if config.name not in OPTIMIZERS:
        raise ConfigError(
            f"config.optimizer.name = {config.name!r}; {nearest(config.name, OPTIMIZERS)}"
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
    if config.name == "sgd":
        chain = [optax.trace(config.momentum, config.nesterov)]
    else:
        chain = [optax.scale_by_adam(config.b1, config.b2, config.eps)]
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, mask=_decay_mask(decays))
        chain.insert(1 if config.name == "adamw" else 0, decay)
    if config.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
    chain.append(optax.scale_by_learning_rate(schedule))
    if config.layer_decay != 1:
        chain.append(_scale_by_layer(config.layer_decay, layers or {}))
    if config.schedule == "plateau":
        chain.append(reduce_on_plateau(config))
    optimizer = optax.chain(*chain)
    if config.freeze:
        labels = jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if matches(config.freeze, path_name(path)) else "trained",
            params,
        )
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    return optax.with_extra_args_support(optimizer), schedule


def _decay_mask(decays: Mapping[str, bool] | None) -> Callable[[Any], Any]:
    def applies(path: tuple, parameter: jax.Array) -> bool:
        name = path_name(path)
        return has_weight_decay(name, parameter) if decays is None else decays[name]

    return functools.partial(jax.tree_util.tree_map_with_path, applies)


def _scale_by_layer(decay: float, layers: Mapping[str, int]) -> optax.GradientTransformation:
    top = max(layers.values())

    def scale(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, u: u * decay ** (top - layers[path_name(path)]), updates
        )

    return optax.stateless(scale)


def sharpest(params: Any, gradients: Any, rho: float) -> Any:
    """Return the point, `rho` away, where the loss is about largest.

    Sharpness-aware minimisation descends along the gradient of that point (Foret, Kleiner, Mobahi
    and Neyshabur, "Sharpness-aware minimization for efficiently improving generalization",
    ICLR 2021, eq. 2 and 3). `gradients` must belong to the global batch.
    """
    # A gradient of exactly 0 has no direction: the parameters stay where they are.
    step = rho / jnp.maximum(optax.tree.norm(gradients), 1e-12)
    return jax.tree.map(lambda p, g: (p + step * g).astype(p.dtype), params, gradients)


def ema_update(average: Any, params: Any, decay: float, step: Any) -> Any:
    """Return the next exponential moving average of weights and BatchNorm statistics.

    Integer arrays are not averaged: the values of `params` are taken.

    Args:
        average: the average so far; at first the parameters themselves.
        params: what is averaged, in the structure of `average`.
        decay: fraction of the average that is kept; early on the smaller (1 + step) / (10 + step),
            so that the average leaves the initial weights behind quickly.
        step: updates done, including this one: 1 at the first call.
    """
    step = jnp.asarray(step, jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + step) / (10 + step))

    def update(a: jax.Array, p: jax.Array) -> jax.Array:
        averaged = jnp.issubdtype(jnp.result_type(a), jnp.inexact)
        return _towards(a, p, share) if averaged else p

    return jax.tree.map(update, average, params)


@jax.jit  # arrays of one shape are traced once
def _towards(a: jax.Array, p: jax.Array, share: jax.Array) -> jax.Array:
    return (a + share * (p - a)).astype(a.dtype)
