"""Recomputing in the backward pass: the same gradients, from less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.models.recompute import POLICIES, keeping_products
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import AXIS, Mapper
from affect_jax.training.step import make_train_step
from tests.affect_jax import small_systems
from tests.affect_jax.training import steps


def make_system(name, policy):
    config = small_systems.config(name, model__remat=policy)
    if name == "vit_se":
        config.model.dropout = config.model.drop_path = 0.2
        config.model.depth = 2
    return systems.create(
        config,
        class_names=tuple("abcdefgh"),
        has=frozenset({"expression", "valence_arousal"}),
        class_counts=(1,) * 8,
    )


@functools.cache
def after_a_step(name, policy):
    """State after one step of plain gradient descent, and the loss."""
    system, mapper = make_system(name, policy), Mapper("pmap", jax.devices()[:1])
    model, phase = system.create_model(nnx.Rngs(3), AXIS), system.phases(10)[0]
    system.set_train_mode(model, phase)
    blueprint, params, stats = take_apart(model)
    optimizer = optax.sgd(1.0)
    mapped = mapper.map(make_train_step(system, blueprint, optimizer, phase))
    state = {"step": np.int32(5), "params": params, "stats": stats, "opt": optimizer.init(params)}
    new, terms = jax.device_get(mapped(mapper.replicate(state), mapper.place(steps.batch()), {}))
    return new, float(terms["loss"])


def kept(function, *arguments) -> int:
    """Bytes that the backward pass of a function keeps."""
    pulled = jax.eval_shape(lambda *a: jax.vjp(function, *a)[1], *arguments)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pulled))


def test_products_are_kept_and_the_rest_is_not():
    weights, images = jnp.ones((8, 8)), jnp.ones((100, 8))

    def two_layers(weights):
        hidden = jnp.tanh(jnp.sin(images @ weights) ** 2)
        return jnp.sum(jnp.tanh(hidden @ weights))

    products = 2 * 4 * 100 * 8
    inputs = 4 * 8 * 8
    assert kept(two_layers, weights) > 1.5 * products
    # `images` is a constant of the function.
    assert kept(keeping_products(two_layers), weights) <= products + inputs + 4 * 100 * 8
    gradient = jax.grad(keeping_products(two_layers))(weights)
    np.testing.assert_allclose(gradient, jax.grad(two_layers)(weights), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("vit_se", "products"),
        ("vit_se", "blocks"),
        ("classifier", "products"),
        ("rald", "products"),
    ],
)
def test_gradients_and_dropout_are_those_without_recomputing(name, policy):
    expected, expected_loss = after_a_step(name, "none")
    found, loss = after_a_step(name, policy)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for part in ("params", "stats"):
        for path, value in expected[part].items():
            np.testing.assert_allclose(found[part][path], value, 1e-4, 2e-5, err_msg=path)


def test_a_policy_that_a_model_lacks_is_refused():
    system = make_system("classifier", "blocks")
    with pytest.raises(ConfigError, match=r"model\.remat = 'blocks'; resnet18 has none, products"):
        system.create_model(nnx.Rngs(0), None)
    assert POLICIES == ("none", "products", "blocks")
