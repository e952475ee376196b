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
