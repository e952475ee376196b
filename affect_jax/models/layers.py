"""Building blocks of the architectures: BatchNorm, convolutions, pooling.

Everything is NHWC. Padding is always explicit and symmetric: XLA's "SAME" pads a stride-2
convolution of an even size by one row less at the top and left than the published networks do.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from affect_jax.models.fused import Conv, LayerNorm, Linear, gelu, prelu


def normal(std: float | Callable[[tuple[int, ...]], float]) -> Callable:
    """Return an initializer N(0, std), `std` a number or a function of the shape.

    The numbers are drawn with NumPy. A network has dozens of kernel shapes, and XLA would compile
    its generator for each of them: 20 seconds for a small EmoFAN on two CPU cores instead of 1
    second. Values depend only on the key, inside and outside of a transformation.
    """

    def draw(key_data, shape, dtype):
        generator = np.random.default_rng(np.asarray(key_data).astype(np.uint32).tolist())
        scale = std(shape) if callable(std) else std
        return (scale * generator.standard_normal(shape)).astype(dtype)

    def init(key, shape, dtype=jnp.float32):
        data = jax.random.key_data(key)
        if isinstance(data, jax.core.Tracer):
            result = jax.ShapeDtypeStruct(shape, dtype)
            return jax.pure_callback(lambda k: draw(k, shape, dtype), result, data)
        return jnp.asarray(draw(data, shape, dtype))

    return init


he_normal = normal(lambda shape: math.sqrt(2 / math.prod(shape[:-1])))
he_normal_fan_out = normal(lambda shape: math.sqrt(2 / math.prod((*shape[:-2], shape[-1]))))
lecun_normal = normal(lambda shape: math.sqrt(1 / math.prod(shape[:-1])))


class Constant(nnx.BatchStat):
    """An array that goes with the weights but is not averaged with them."""


class Counter(Constant):
    """A statistic of one run, such as a count of its steps; it stays with that run.

    Other runs that start from the weights do not take it over.
    """


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last; statistics as in PyTorch.

    Batches are normalised with their biased variance. The running variance keeps the unbiased one,
    n / (n - 1) times larger, n being the values of a channel in the *global* batch. Both moments
    are taken in one pass, around a value of the batch, so that float32 does not cancel. With
    `axis_name` they are those of all replicas, after one collective. Statistics and arithmetic are
    at least float32, for any `dtype`.

    `use_running_average` is switched by `model.train()` and `model.eval()`; it starts False.
    `momentum` is the weight of the old value (PyTorch's 0.1 is 0.9 here), `scale` the initial value
    of the trained factors.
    """

    def __init__(
        self,
        features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.9,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        axis_name: str | None = None,
        scale: float = 1.0,
    ):
        self.eps = eps
        self.momentum = momentum
        self.dtype = dtype
        self.axis_name = axis_name
        self.use_running_average = False
        stats_dtype = jnp.promote_types(jnp.float32, param_dtype)
        self.scale = nnx.Param(jnp.full(features, scale, param_dtype))
        self.bias = nnx.Param(jnp.zeros(features, param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(features, stats_dtype))
        self.var = nnx.BatchStat(jnp.ones(features, stats_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., features]; in training mode also update running statistics."""
        scale, bias, mean, var = (p[...] for p in (self.scale, self.bias, self.mean, self.var))
        if self.use_running_average:
            wide = jnp.promote_types(jnp.float32, x.dtype)
            moments = mean.astype(wide), var.astype(wide)
            return _normalise(x.astype(wide), *moments, scale, bias, self.eps).astype(self.dtype)
        y, mean, var = _normalise_batch(
            x,
            scale,
            bias,
            mean,
            var,
            eps=self.eps,
            momentum=self.momentum,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )
        # Not `stat[...] =`, which takes a second each while a large network is traced.
        self.mean.set_value(mean)
        self.var.set_value(var)
        return y


# A function of its own, so that layers of one shape are traced and differentiated once.
@functools.partial(jax.jit, static_argnames=("eps", "momentum", "dtype", "axis_name"))
def _normalise_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    *,
    eps: float,
    momentum: float,
    dtype: Any,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `x` normalised by its own moments, and both running statistics thereafter."""
    x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    batch_mean, batch_var, count = _moments(x)
    if axis_name is not None:
        known = lax.stop_gradient(mean.astype(x.dtype))
        batch_mean, batch_var = _of_all_replicas(batch_mean, batch_var, known, axis_name)
        count = count * lax.psum(1, axis_name)
    batch_var = jnp.maximum(batch_var, 0)
    # A single value per channel has no unbiased variance; keep the biased one.
    unbiased = batch_var * (count / max(count - 1, 1))
    y = _normalise(x, batch_mean, batch_var, scale, bias, eps)
    mean, var = (
        momentum * old + (1 - momentum) * lax.stop_gradient(new).astype(old.dtype)
        for old, new in ((mean, batch_mean), (var, unbiased))
    )
    return y.astype(dtype), mean, var


def _normalise(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    factor = scale.astype(x.dtype) * lax.rsqrt(var + eps)
    return (x - mean) * factor + bias.astype(x.dtype)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
    """Return mean, biased variance and the number of values of a channel."""
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    # Any value near the mean will do; the running mean is far from it in the first steps.
    place = lax.stop_gradient(x[(0,) * len(axes)])
    centred = x - place
    shift = jnp.sum(centred, axes) / count
    return place + shift, jnp.sum(centred * centred, axes) / count - shift * shift, count


def _of_all_replicas(
    mean: jax.Array, var: jax.Array, known: jax.Array, axis_name: str
) -> tuple[jax.Array, jax.Array]:
    """Return the moments of all replicas from those of each, by one collective.

    The variance is the mean of the replicas' variances plus the variance of their means. The
    latter is taken around `known`, the running mean, which all have.

    In float32, the variance between replicas is left out if their means lie more than about 700
    of its standard deviations from the running mean: in the first steps with inputs of a huge
    mean and a tiny batch per device.
    """
    away = mean - known
    away, var, squares = lax.pmean(jnp.stack([away, var, away * away]), axis_name)
    between = squares - away * away
    # Where the running mean is not near yet, the difference may be rounding alone.
    reliable = between > 16 * jnp.finfo(mean.dtype).eps * squares
    return known + away, var + jnp.where(reliable, between, 0)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of one model.

    Attributes:
      rngs: random streams of the initialisation.
      dtype: of the computation.
      param_dtype: of the parameters.
      axis_name: mapped axis over whose replicas BatchNorm averages; None: a single device.
    """

    rngs: nnx.Rngs
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None

    def __post_init__(self):
        # Names such as "bfloat16" come from configs and from model.json.
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        object.__setattr__(self, "param_dtype", jnp.dtype(self.param_dtype))

    @property
    def output_dtype(self) -> Any:
        """Dtype of a model's outputs: float32, or float64 if it computes in that."""
        return jnp.promote_types(jnp.float32, self.dtype)

    def conv(
        self,
        in_features: int,
        out_features: int,
        kernel: int,
        stride: int = 1,
        *,
        bias: bool = False,
        init: Callable = he_normal,
    ) -> Conv:
        """Return a kernel x kernel convolution padded by kernel // 2 on every side."""
        return Conv(
            in_features,
            out_features,
            kernel,
            stride,
            use_bias=bias,
            kernel_init=init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def linear(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: Callable = lecun_normal,
    ) -> Linear:
        """Return a dense layer."""
        return Linear(
            in_features,
            out_features,
            use_bias=bias,
            kernel_init=init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )

    def norm(self, features: int, *, scale: float = 1.0) -> BatchNorm:
        """Return a BatchNorm over this model's axis whose factors start at `scale`."""
        return BatchNorm(
            features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            axis_name=self.axis_name,
            scale=scale,
        )

    def layer_norm(self, features: int, eps: float) -> LayerNorm:
        """Return a LayerNorm over the last axis.

        `eps` is 1e-5 in PyTorch and 1e-6 in timm's transformers.
        """
        return LayerNorm(
            features,
            epsilon=eps,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            rngs=self.rngs,
        )


class MLP(nnx.Module):
    """Two dense layers with an exact GELU between, four times as wide inside."""

    def __init__(
        self, width: int, dropout: float, make: Layers, *, out_init: Callable = lecun_normal
    ):
        self.fc1 = make.linear(width, 4 * width)
        self.fc2 = make.linear(4 * width, width, init=out_init)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """Return [..., width]; in training `rngs` needs a stream `dropout`."""
        shape = x.shape
        # As one matrix of all tokens: its gradients need no copies.
        x = gelu(self.fc1(x.reshape(-1, x.shape[-1])))
        x = self.dropout(x, rngs=rngs)
        return self.dropout(self.fc2(x), rngs=rngs).reshape(shape)


class PReLU(nnx.Module):
    """x where positive, elsewhere x times a trained slope of its feature."""

    def __init__(self, features: int, param_dtype: Any = jnp.float32):
        self.slope = nnx.Param(jnp.full(features, 0.25, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return prelu(x, self.slope[...])


def max_pool(x: jax.Array, window: int = 2, stride: int = 2, padding: int = 0) -> jax.Array:
    """Pool [B, H, W, C] by maximum; odd remainders are dropped, padding never wins.

    Written as maxima of strided slices, one axis after the other: on CPU this is five times
    faster than `lax.reduce_window` and its gradient. Equal maxima share the gradient.
    """
    for axis in (1, 2):
        x = _reduce_windows(jnp.maximum, x, axis, window, stride, padding, -jnp.inf)
    return x


def avg_pool(x: jax.Array, window: int = 2, stride: int = 2) -> jax.Array:
    """Pool [B, H, W, C] by average; odd remainders are dropped."""
    for axis in (1, 2):
        x = _reduce_windows(jnp.add, x, axis, window, stride, 0, 0.0)
    return x / window**2


def _reduce_windows(reduce, x, axis, window, stride, padding, fill):
    if padding:
        pads = [(0, 0)] * x.ndim
        pads[axis] = (padding, padding)
        x = jnp.pad(x, pads, constant_values=fill)
    last = (x.shape[axis] - window) // stride * stride
    parts = (lax.slice_in_dim(x, start, start + last + 1, stride, axis) for start in range(window))
    result = next(parts)
    for part in parts:
        result = reduce(result, part)
    return result


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Repeat every pixel of [B, H, W, C] twice along both axes."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def resize_nearest(x: jax.Array, size: int) -> jax.Array:
    """Resize [B, H, W, C] to [B, size, size, C], taking pixel floor(i * H / size).

    This is what PyTorch's "nearest" does, so that halving keeps the even pixels; `jax.image.resize`
    would keep the odd ones.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length % size == 0:
            x = lax.slice_in_dim(x, 0, length, length // size, axis)
        else:
            x = jnp.take(x, np.arange(size) * length // size, axis)
    return x


def global_average(x: jax.Array) -> jax.Array:
    """Return the mean over the image, [B, H, W, C] -> [B, C]."""
    return jnp.mean(x, axis=(1, 2))


def split_outputs(values: jax.Array, n_expression: int, dtype: Any) -> dict[str, jax.Array]:
    """Name the numbers of a last layer [B, n_expression or n_expression + 2].

    Returns `logits` [B, n_expression] unless that is 0, and of two more `valence` and `arousal`.
    """
    values, outputs = values.astype(dtype), {}
    if n_expression:
        outputs["logits"] = values[:, :n_expression]
    if values.shape[1] > n_expression:
        outputs |= {"valence": values[:, n_expression], "arousal": values[:, n_expression + 1]}
    return outputs


def check_images(images: jax.Array) -> None:
    """Raise ValueError unless `images` is [B, H, W, 3]."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [B, H, W, 3], got {images.shape}")
