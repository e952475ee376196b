"""A model rewritten for inference: the same outputs in evaluation mode, less work.

In evaluation mode a BatchNorm is one factor and one shift per channel. Where it directly follows a
convolution or linear layer, both go into that layer's weights. A module declares such pairs of its
layers by a class attribute:

    norms_after = (("conv1", "norm1"),)

Only the norm may read the layer's output. Every other BatchNorm becomes a `ScaleShift`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from affect_jax.models.layers import BatchNorm
from affect_jax.models.relations import Relations
from affect_jax.models.reliability_attention import BatchAttention
from affect_jax.runtime.platforms import platform

Outputs = dict[str, jax.Array]
_SLICE = 4  # images


class ScaleShift(nnx.Module):
    """x * scale + shift per channel: a BatchNorm in evaluation mode, computed beforehand."""

    def __init__(self, scale: jax.Array, shift: jax.Array, dtype: Any):
        self.dtype = dtype
        self.scale, self.shift = nnx.Param(jnp.asarray(scale)), nnx.Param(jnp.asarray(shift))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., features], computed in the dtype of `scale`, at least float32."""
        return (x * self.scale[...] + self.shift[...]).astype(self.dtype)


class Identity(nnx.Module):
    """In place of a BatchNorm that is part of the layer before it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return `x`."""
        return x


def fold(model: nnx.Module) -> nnx.Module:
    """Return a copy of `model` for inference; `model` itself is unchanged.

    The copy is in evaluation mode and gives the same outputs up to rounding. It has other
    parameters: weights cannot be loaded into it, and it cannot be trained. Kernels and biases are
    cast once to the dtype of the computation.

    It computes with arrays alone and may be called inside `jax.jit`, for example on a frozen part
    of a model that is trained.
    """
    copy = nnx.clone(model)
    copy.eval()
    # First collected, since the tree changes on the way.
    modules = [module for _, module in nnx.iter_modules(copy)]
    for module in modules:
        for layer, norm in _pairs(module):
            _absorb(getattr(module, layer), getattr(module, norm))
            setattr(module, norm, Identity())
    for module in modules:
        _replace_norms(module)
    for module in modules:
        _cast(module)
    return copy


def depends_on_batch(model: nnx.Module) -> bool:
    """Return whether the result for an image depends on the others of its batch."""
    return any(
        isinstance(part, BatchAttention) or (isinstance(part, Relations) and part.compares_batch)
        for _, part in nnx.iter_modules(model)
    )


def by_slices(function: Callable[[jax.Array], Outputs], images: jax.Array) -> Outputs:
    """Return function(images), on a CPU computed for a few images at a time.

    What is computed of a few images stays in the processor's cache: ViT-B/16 is 10 % faster.

    Args:
      function: of images [n, ...]; gives arrays [n, ...], and treats each image on its own.
      images: [B, ...]; a batch that the slices do not divide is computed at once.
    """
    count = len(images)
    if platform().name != "cpu" or count <= _SLICE or count % _SLICE:
        return function(images)
    found = lax.map(function, images.reshape(count // _SLICE, _SLICE, *images.shape[1:]))
    return jax.tree.map(lambda array: array.reshape(count, *array.shape[2:]), found)


def _pairs(module: nnx.Module) -> list[tuple[str, str]]:
    """Return the declared (layer, norm) that this module has."""
    declared = getattr(module, "norms_after", ())
    return [(layer, norm) for layer, norm in declared if hasattr(module, norm)]


def _replace_norms(module: nnx.Module) -> None:
    """Turn the norms that are left among the children into `ScaleShift`."""
    if isinstance(module, nnx.List):
        for i, child in enumerate(module):
            if isinstance(child, BatchNorm):
                module[i] = ScaleShift(*_scale_and_shift(child), child.dtype)
        return
    for name, child in list(vars(module).items()):
        if isinstance(child, BatchNorm):
            setattr(module, name, ScaleShift(*_scale_and_shift(child), child.dtype))


def _scale_and_shift(norm: BatchNorm) -> tuple[jax.Array, jax.Array]:
    """Return the factor and the shift of a norm in evaluation mode, at least float32."""
    var = _values(norm.var)
    scale = _values(norm.scale).astype(var.dtype) / (var + norm.eps) ** 0.5
    return scale, _values(norm.bias).astype(var.dtype) - _values(norm.mean) * scale


def _absorb(layer: Any, norm: BatchNorm) -> None:
    """Put the norm after a layer into the layer's kernel [..., out] and bias."""
    scale, shift = _scale_and_shift(norm)
    if layer.bias is not None:
        shift = shift + _values(layer.bias) * scale
    layer.kernel = nnx.Param(jnp.asarray(_values(layer.kernel) * scale))
    layer.bias, layer.use_bias = nnx.Param(jnp.asarray(shift)), True


def _values(variable: nnx.Variable) -> Any:
    """Return the array of a variable, by NumPy outside of a trace.

    XLA would compile a program for every operation and shape: a second for EmoFAN.
    """
    value = variable[...]
    return value if isinstance(value, jax.core.Tracer) else np.asarray(value)


def _cast(module: Any) -> None:
    """Cast the kernel and bias of a layer to the dtype that it computes in."""
    if not isinstance(getattr(module, "kernel", None), nnx.Param):
        return
    for name in ("kernel", "bias"):
        value = getattr(module, name)
        if isinstance(value, nnx.Param) and value[...].dtype != module.dtype:
            setattr(module, name, nnx.Param(jnp.asarray(_values(value).astype(module.dtype))))
