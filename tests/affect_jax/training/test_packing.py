"""Packed parameters: nothing is lost, and the optimizer does what it does to each on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.training import optim, packing
from affect_jax.training.packing import Packing
from configs import base

SHAPES = {
    "a/kernel": (3, 4),
    "a/bias": (4,),
    "b/0/kernel": (2, 2, 4, 2),
    "b/0/scale": (2,),
    "b/1/kernel": (5, 1),
    "scalar": (),
}
LAYERS = {"a/kernel": 0, "a/bias": 0, "b/0/kernel": 1, "b/0/scale": 1, "b/1/kernel": 2, "scalar": 2}


def arrays(seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.standard_normal(shape), jnp.float32) for k, shape in shapes.items()}


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text("ab/", min_size=1, max_size=5), st.lists(st.integers(0, 3), max_size=3), min_size=1
    ),
    st.integers(1, 9),
)
def test_unpacking_undoes_packing(shapes, largest):
    tree = {
        k: np.arange(np.prod(s, dtype=int), dtype=np.float32).reshape(s) for k, s in shapes.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_LARGEST", largest)
        made = Packing.of(tree, dict.fromkeys(tree, 0), by_layer=False)
    # In one program, XLA would end the process where an array is empty.
    back = jax.jit(made.unpack)(jax.jit(made.pack)(tree))
    assert back.keys() == tree.keys()
    for path, value in tree.items():
        np.testing.assert_array_equal(back[path], value)
    assert sum(len(paths) for paths in made.members.values()) == len(tree)


@pytest.mark.parametrize("by_layer", [False, True])
def test_groups_separate_what_the_optimizer_treats_differently(by_layer):
    made = Packing.of(arrays(), LAYERS, by_layer)
    for group, paths in made.members.items():
        assert {optim.has_weight_decay(p, arrays()[p]) for p in paths} == {made.decays[group]}
        assert {LAYERS[p] if by_layer else 0 for p in paths} == {made.layers[group]}
    assert len(made.members) == (6 if by_layer else 2)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("trained", [SHAPES, ["a/kernel", "a/bias", "b/0/kernel"]])
def test_packed_updates_equal_those_of_each_parameter(name, layer_decay, trained):
    """Also where the top layer is frozen: the others keep their learning rates."""
    settings = base.get_config().optimizer
    settings.update(
        name=name, layer_decay=layer_decay, weight_decay=0.1, clip_norm=0.5, schedule="constant"
    )
    params = {path: arrays()[path] for path in trained}
    made = Packing.of(params, LAYERS, by_layer=layer_decay != 1)
    alone, _ = optim.create_optimizer(settings, 10, 1, params, LAYERS)
    layers = {**LAYERS, **made.layers}
    joined, _ = optim.create_optimizer(settings, 10, 1, made.pack(params), layers, made.decays)
    one, two = alone.init(params), joined.init(made.pack(params))
    ours = params

    @jax.jit
    def update(gradients, params, one, ours, two):
        updates, one = alone.update(gradients, one, params)
        params = optax.apply_updates(params, updates)
        updates, two = joined.update(made.pack(gradients), two, made.pack(ours))
        return params, one, optax.apply_updates(ours, made.unpack(updates)), two

    for step in range(3):
        gradients = {path: arrays(step + 1)[path] for path in trained}
        params, one, ours, two = update(gradients, params, one, ours, two)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, ours)
