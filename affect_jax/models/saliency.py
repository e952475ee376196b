"""Image regions behind a prediction: class-activation maps, attention rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax.errors import UserError
from affect_jax.models.feature_taps import Tap
from affect_jax.models.vit import ViT

Forward = Callable[[jax.Array], dict[str, Any]]


def class_activation(
    forward: Forward, images: jax.Array, classes: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return Grad-CAM maps of a class and the logits.

    Selvaraju et al., "Grad-CAM", ICCV 2017: the weight of a channel is the mean, over all places,
    of the gradient of the class's logit; the weighted sum of the last map is cut off below zero.
    The score is `logits`, which are log-probabilities in some models.

    Args:
      forward: a model, or a function images -> outputs with `logits` [B, N] that calls one. The
        model passes its last map through `models.feature_taps.feature_map`.
      images: [B, H, W, 3], the network's input.
      classes: int [B]; where negative, and by default, the predicted ones.

    Returns:
      (maps [B, h, w], each divided by its maximum, zero where nothing speaks for the class;
      logits [B, N]).

    Raises:
      UserError: the model shows no feature map.
    """
    call = _rebuilt(forward) if isinstance(forward, nnx.Module) else forward
    with Tap() as survey:
        # A new function: JAX would reuse its trace without the tap.
        jax.eval_shape(lambda x: call(x), images)
    if not survey.maps:
        raise UserError(
            "class activations cannot be drawn: pass the last feature map of the model through "
            "affect_jax.models.feature_taps.feature_map"
        )
    at = len(survey.maps) - 1
    last = survey.maps[at]

    def score(shift: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        with Tap(shift, at) as tap:
            logits = call(images)["logits"]
        chosen = jnp.argmax(logits, axis=-1)
        if classes is not None:
            chosen = jnp.where(classes < 0, chosen, classes)
        own = jnp.take_along_axis(logits, chosen[:, None], axis=-1)
        return own.sum(), (tap.maps[at].values, logits)

    zeros = jnp.zeros(last.values.shape, jnp.promote_types(jnp.float32, last.values.dtype))
    gradient, (values, logits) = jax.grad(score, has_aux=True)(zeros)

    def places(tokens: jax.Array) -> jax.Array:
        tokens = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])[:, last.prefix :]
        return tokens.astype(zeros.dtype)

    weights = places(gradient).mean(axis=1, keepdims=True)
    maps = jax.nn.relu((places(values) * weights).sum(axis=-1))
    top = maps.max(axis=-1, keepdims=True)
    maps = jnp.where(top > 0, maps / jnp.where(top > 0, top, 1.0), 0.0)
    return maps.reshape(-1, *last.grid), logits


def _rebuilt(model: nnx.Module) -> Forward:
    """Return `model` as a function that puts it together anew inside every transformation.

    A module from outside cannot recompute its blocks (`remat`) in there.
    """
    parts = nnx.split(model)
    return lambda x: nnx.merge(*parts, copy=True)(x)


def attention_of(model: nnx.Module, images: jax.Array) -> dict[str, Any]:
    """Return the attention of a vision transformer, in the form that `rollout` takes.

    Args:
      model: a `ViT`.
      images: [B, H, W, 3], the network's input.

    Returns:
      `attention` [B, depth, T, T], the mean over the heads; `grid` (h, w) of the patches; `prefix`,
      the number of tokens in front of them; `logits` [B, N].

    Raises:
      UserError: the model is not a `ViT`.
    """
    if not isinstance(model, ViT):
        raise UserError(
            f"{type(model).__name__} is not a vision transformer and has no attention to draw; "
            'use the picture "cam", which works for every network'
        )
    with Tap() as tap:
        trace = model.trace(images)
    attention = jnp.stack([weights.mean(axis=1) for weights in trace.attention], axis=1)
    last = tap.maps[-1]
    return {
        "attention": attention,
        "grid": last.grid,
        "prefix": last.prefix,
        "logits": trace.outputs["logits"],
    }


def rollout(attention: np.ndarray, grid: tuple[int, int], prefix: int = 1) -> np.ndarray:
    """Return the fraction of the output that comes from each patch, over all blocks.

    Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020: the heads are
    averaged, the shortcut counts as much as the attention, and the blocks are multiplied. The
    output is the class token, or without one the mean of the patches.

    Args:
      attention: [B, depth, T, T], the mean over the heads; rows are queries.
      grid: (h, w) of the patches, the last h * w of the T tokens.
      prefix: tokens in front of them; the first is the class token.

    Returns:
      [B, h, w], each map divided by its maximum.

    Raises:
      ValueError: T is not prefix + h * w.
    """
    flow = attention_flow(attention)
    if flow.shape[-1] != prefix + grid[0] * grid[1]:
        raise ValueError(
            f"{flow.shape[-1]} tokens do not fill a grid of {grid} after {prefix} others"
        )
    shares = (flow[:, 0] if prefix else flow.mean(axis=1))[:, prefix:]
    return (shares / shares.max(axis=1, keepdims=True)).reshape(-1, *grid)


def attention_flow(attention: np.ndarray) -> np.ndarray:
    """Return the fraction of each input token in each output token, [B, T, T].

    Rows are output tokens and columns input tokens.

    Rows sum to 1. `attention` as in `rollout`.
    """
    attention = np.asarray(attention, np.float64)
    identity = np.eye(attention.shape[-1])
    flow = np.broadcast_to(identity, attention[:, 0].shape)
    for block in range(attention.shape[1]):
        flow = (attention[:, block] + identity) / 2 @ flow
    return flow


def spread_over(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge maps [B, h, w] to [B, height, width] by cubic interpolation, in [0, 1]."""
    import cv2

    maps, size = np.asarray(maps, np.float32), (width, height)
    grown = [cv2.resize(m, size, interpolation=cv2.INTER_CUBIC) for m in maps]
    return np.clip(np.stack(grown), 0.0, 1.0)
