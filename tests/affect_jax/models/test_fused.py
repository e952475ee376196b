"""Layers with gradients written by hand equal those that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax.models import fused

WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def values_and_gradients(layer, x):
    graphdef, state = nnx.split(layer)

    def total(state, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, state, copy=True)(x)))

    return jax.value_and_grad(total, (0, 1))(state, x)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        (fused.Linear, nnx.Linear, (6, 4)),
        (fused.LayerNorm, nnx.LayerNorm, (6,)),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_layers_and_their_gradients_equal_those_of_flax(ours, theirs, arguments, use_bias):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (2, 5, 6)))
        made = [
            values_and_gradients(cls(*arguments, use_bias=use_bias, rngs=nnx.Rngs(1), **WIDE), x)
            for cls in (ours, theirs)
        ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *made)


def test_a_convolution_and_its_gradients_equal_those_of_flax():
    sides = {"strides": (2, 2), "padding": ((1, 1), (1, 1))}
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (2, 7, 6, 3)))
        ours = fused.Conv(3, 4, 3, 2, rngs=nnx.Rngs(1), **WIDE)
        theirs = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(1), **sides, **WIDE)
        theirs.kernel, theirs.bias = ours.kernel, ours.bias
        made = [values_and_gradients(layer, x) for layer in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *made)


PARAMETRIC = {
    fused.add: lambda x, parameter: x + parameter,
    fused.multiply: lambda x, parameter: x * parameter,
    fused.prelu: lambda x, slope: jnp.where(x >= 0, x, x * slope),
}


@pytest.mark.parametrize("function", PARAMETRIC)
@pytest.mark.parametrize("shape", [(4,), (1, 3, 4), (2, 3, 1), (2, 3, 4)])
def test_gradients_of_what_is_broadcast_equal_those_of_jax(function, shape):
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        x, parameter = (jnp.asarray(generator.normal(size=s)) for s in ((2, 3, 4), shape))
        total = lambda f: lambda *a: jnp.sum(jnp.sin(f(*a)))  # noqa: E731
        ours = jax.value_and_grad(total(function), (0, 1))(x, parameter)
        theirs = jax.value_and_grad(total(PARAMETRIC[function]), (0, 1))(x, parameter)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, theirs)


@pytest.mark.parametrize("function", PARAMETRIC)
def test_what_is_broadcast_has_an_exact_gradient_in_bfloat16(function):
    x = -jnp.ones((1000, 3), jnp.bfloat16)
    total = lambda p: jnp.sum(function(x, p).astype(jnp.float32))  # noqa: E731
    gradient = jax.grad(total)(jnp.ones(3))
    assert gradient.dtype == jnp.float32
    # In bfloat16 1,000 ones would end at 256.
    np.testing.assert_array_equal(np.abs(gradient), np.full(3, 1000.0))


def test_gelu_is_the_exact_one():
    with jax.enable_x64(True):
        x = jnp.linspace(-8.0, 8.0, 101)
        np.testing.assert_allclose(fused.gelu(x), nnx.gelu(x, approximate=False), atol=1e-15)
        ours = jax.grad(lambda x: jnp.sum(fused.gelu(x)))(x)
        theirs = jax.grad(lambda x: jnp.sum(nnx.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(ours, theirs, atol=1e-14)
    assert fused.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_layer_norm_survives_a_large_mean():
    x = np.random.default_rng(0).normal(0.0, 3.0, (4, 256)) + 1e5
    norm = fused.LayerNorm(256, epsilon=1e-6, rngs=nnx.Rngs(0))
    wanted = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    np.testing.assert_allclose(norm(x.astype(np.float32)), wanted, atol=0.02)


def test_gradients_of_parameters_stay_in_float32_when_the_network_computes_in_bfloat16():
    layer = fused.Linear(64, 8, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    x = np.random.default_rng(0).normal(1.0, 1.0, (512, 64)).astype(np.float32)
    graphdef, state = nnx.split(layer)
    total = lambda state: jnp.sum(nnx.merge(graphdef, state)(x).astype(jnp.float32))  # noqa: E731
    gradients = jax.grad(total)(state)
    assert gradients["kernel"].get_value().dtype == jnp.float32
    # 512 in bfloat16 steps of 2 or 4 would not add up exactly.
    np.testing.assert_array_equal(gradients["bias"].get_value(), np.full(8, 512.0))
    rounded = x.astype(jnp.bfloat16).astype(np.float32).sum(0)
    np.testing.assert_allclose(gradients["kernel"].get_value()[:, 0], rounded, rtol=1e-5)


def test_an_empty_batch_gives_an_empty_result():
    layer = fused.Linear(8, 4, rngs=nnx.Rngs(0))
    assert layer(jnp.zeros((0, 5, 8))).shape == (0, 5, 4)
