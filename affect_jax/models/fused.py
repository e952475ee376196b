"""Layers whose gradients an accelerator computes in few passes, and sums in float32.

Derivatives are written by hand. Those that JAX derives keep several arrays of a layer's size for
the backward pass, and give a kernel's gradient transposed, so that the optimizer reads it against
its layout. They also sum the gradient of a broadcast parameter in the dtype of the computation:
GPUs since Hopper then add thousands of bfloat16 numbers in bfloat16. Forward-mode differentiation
(`jax.jvp`, `jax.jacfwd`) is not supported.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


class Linear(nnx.Linear):
    """A dense layer whose parameters' gradients leave the product in their own dtype."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return [..., out_features] of [..., in_features]."""
        x = inputs.astype(self.dtype)
        bias = jnp.zeros((), x.dtype) if self.bias is None else self.bias[...]
        y = _affine(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), self.kernel[...], bias)
        return y.reshape(*x.shape[:-1], self.out_features)


class Conv(nnx.Conv):
    """A kernel x kernel convolution, padded by kernel // 2 on every side.

    The gradient of its bias is summed in float32 or wider.
    """

    def __init__(
        self, in_features: int, out_features: int, kernel: int, stride: int = 1, **settings: Any
    ):
        """`settings`: use_bias, kernel_init, dtype, param_dtype and rngs of `nnx.Conv`."""
        pad = kernel // 2
        self._padding, self._stride = ((pad, pad), (pad, pad)), (stride, stride)
        super().__init__(
            in_features,
            out_features,
            (kernel, kernel),
            strides=self._stride,
            padding=self._padding,
            **settings,
        )

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return [B, h, w, out_features] of [B, H, W, in_features]."""
        y = lax.conv_general_dilated(
            inputs.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            self._stride,
            self._padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y if self.bias is None else add(y, self.bias[...])


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over the last axis; statistics are at least float32, in one pass."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalise [..., features]."""
        scale, bias = self.scale, self.bias
        if scale is None or bias is None or mask is not None:
            return super().__call__(x, mask=mask)
        return _layer_norm(x, scale[...], bias[...], self.epsilon).astype(self.dtype)


@jax.custom_vjp
def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Return x @ kernel + bias in the dtype of `x`; a scalar `bias` stands for none."""
    y = x @ kernel.astype(x.dtype)
    return y + bias.astype(x.dtype) if bias.ndim else y


def _affine_forward(x, kernel, bias):
    return _affine(x, kernel, bias), (x, kernel, bias)


def _affine_backward(kept, g):
    x, kernel, bias = kept
    dx = lax.dot_general(g, kernel.astype(x.dtype), (((1,), (1,)), ((), ())))
    rows = (((0,), (0,)), ((), ()))
    dkernel = lax.dot_general(x, g, rows, preferred_element_type=kernel.dtype)
    dbias = sum_to(g, bias) if bias.ndim else jnp.zeros_like(bias)
    return dx, dkernel, dbias


_affine.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def add(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """Return x + parameter in the dtype of `x`, to whose shape `parameter` is broadcast."""
    return x + parameter.astype(x.dtype)


def _add_forward(x, parameter):
    return add(x, parameter), parameter


def _add_backward(parameter, g):
    return g, sum_to(g, parameter)


add.defvjp(_add_forward, _add_backward)


@jax.custom_vjp
def multiply(x: jax.Array, parameter: jax.Array) -> jax.Array:
    """Return x * parameter in the dtype of `x`, to whose shape `parameter` is broadcast."""
    return x * parameter.astype(x.dtype)


def _multiply_forward(x, parameter):
    return multiply(x, parameter), (x, parameter)


def _multiply_backward(kept, g):
    x, parameter = kept
    wide = _wide(parameter)
    return g * parameter.astype(x.dtype), sum_to(g.astype(wide) * x.astype(wide), parameter)


multiply.defvjp(_multiply_forward, _multiply_backward)


@jax.custom_vjp
def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Return x where it is positive, elsewhere x times the slope of its feature."""
    return jnp.where(x >= 0, x, x * slope.astype(x.dtype))


def _prelu_forward(x, slope):
    return prelu(x, slope), (x, slope)


def _prelu_backward(kept, g):
    x, slope = kept
    wide = _wide(slope)
    dslope = jnp.where(x >= 0, 0, g.astype(wide) * x.astype(wide))
    return jnp.where(x >= 0, g, g * slope.astype(x.dtype)), sum_to(dslope, slope)


prelu.defvjp(_prelu_forward, _prelu_backward)


def gather_rows(x: jax.Array, axis_name: str) -> jax.Array:
    """Return the rows of all replicas, [replicas * B, ...] of [B, ...], in the dtype of `x`.

    They are sent in float32 or wider, in which the gradient is then summed over the replicas.
    """
    return lax.all_gather(x.astype(_wide(x)), axis_name, tiled=True).astype(x.dtype)


def _wide(x: jax.Array) -> Any:
    return jnp.promote_types(jnp.float32, x.dtype)


def sum_to(g: jax.Array, parameter: jax.Array) -> jax.Array:
    """Sum a gradient, in float32 or wider, over the axes along which `parameter` was repeated."""
    missing = g.ndim - parameter.ndim
    repeated = (
        missing + axis
        for axis, size in enumerate(parameter.shape)
        if size == 1 and g.shape[missing + axis] != 1
    )
    summed = jnp.sum(g, (*range(missing), *repeated), dtype=_wide(parameter))
    return summed.reshape(parameter.shape).astype(parameter.dtype)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Return x times the normal distribution function of x, exactly (no tanh).

    The derivative is kept for the backward pass instead of x: it is computed from the same
    numbers, and costs as much memory.
    """
    wide = x.astype(_wide(x))
    return (wide * _normal_distribution(wide)).astype(x.dtype)


def _normal_distribution(x: jax.Array) -> jax.Array:
    return (lax.erf(x / math.sqrt(2)) + 1) / 2


def _gelu_forward(x):
    wide = x.astype(_wide(x))
    below = _normal_distribution(wide)
    density = jnp.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    return (wide * below).astype(x.dtype), (below + wide * density).astype(x.dtype)


def _gelu_backward(slope, g):
    return (g * slope,)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(_wide(x))
    # Around the row's first value, so that float32 does not cancel.
    centred = wide - wide[..., :1]
    shift = jnp.mean(centred, -1, keepdims=True)
    var = jnp.mean(centred * centred, -1, keepdims=True) - shift * shift
    mean = wide[..., :1] + shift
    inverse = lax.rsqrt(jnp.maximum(var, 0) + epsilon)
    y = (wide - mean) * inverse * scale.astype(wide.dtype) + bias.astype(wide.dtype)
    return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _layer_norm_backward(epsilon, kept, g):
    x, scale, bias, mean, inverse = kept
    normed = (x.astype(mean.dtype) - mean) * inverse
    g = g.astype(mean.dtype)
    weighted = g * scale.astype(mean.dtype)
    average = jnp.mean(weighted, -1, keepdims=True)
    along = jnp.mean(weighted * normed, -1, keepdims=True)
    dx = inverse * (weighted - average - normed * along)
    rows = tuple(range(x.ndim - 1))
    return (
        dx.astype(x.dtype),
        jnp.sum(g * normed, rows).astype(scale.dtype),
        jnp.sum(g, rows).astype(bias.dtype),
    )


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
