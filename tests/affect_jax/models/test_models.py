"""What holds for every model, and the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.train_state import take_apart

# The counts of the published networks, where a name and its defaults are one.
PARAMETERS = {
    ("emofan", ()): 13_963_410,
    ("fan", ()): 23_820_176,
    ("resnet18", (("n_expression", 7),)): 11_180_103,
    ("resnet34", (("n_expression", 1000),)): 21_797_672,
    ("resnet50", (("n_expression", 1000),)): 25_557_032,
}
SMALL = {
    "emofan": {"width": 16, "depth": 1, "stacks": 2, "emotion_blocks": 1, "landmarks": 5},
    "fan": {"width": 16, "depth": 1, "stacks": 2, "landmarks": 5},
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "resnet50": {"width": 4},
}


def test_parameter_counts_of_every_model():
    assert {name for name, _ in PARAMETERS} == set(models.names())
    for (name, arguments), count in PARAMETERS.items():
        model = nnx.eval_shape(lambda n=name, a=arguments: models.create(n, **dict(a)))
        sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
        assert sum(sizes) == count, name


@pytest.mark.parametrize("name", models.names())
def test_outputs_are_float32_though_the_network_computes_in_bfloat16(name):
    model = models.create(name, **SMALL[name], dtype="bfloat16")
    outputs = nnx.eval_shape(
        lambda model, x: model(x, rngs=nnx.Rngs(0)), model, jnp.zeros((2, 32, 32, 3))
    )
    for feature in outputs.pop("features", ()):
        assert feature.dtype == jnp.bfloat16
    assert outputs
    for value in jax.tree.leaves(outputs):
        assert value.dtype == jnp.float32
        assert value.shape[0] == 2


@pytest.mark.parametrize("name", ["emofan", "resnet18"])
def test_the_seed_decides_the_parameters(name):
    def kernels(seed):
        params = take_apart(models.create(name, seed=seed, **SMALL[name]))[1]
        return {path: value for path, value in params.items() if path.endswith("kernel")}

    first, again, other = kernels(0), kernels(0), kernels(1)
    for path, value in first.items():
        np.testing.assert_array_equal(value, again[path])
        assert not np.array_equal(value, other[path])


def test_an_unknown_name_or_keyword_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="'emofam'; did you mean 'emofan'"):
        models.create("emofam")
    with pytest.raises(TypeError, match="no keyword 'widht'; did you mean 'width'"):
        models.create("emofan", widht=32)
    with pytest.raises(TypeError, match="no keyword 'stage_sizes'"):
        models.create("resnet18", stage_sizes=(1,))


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'fan' is registered already"):
        models.register("fan")(nnx.Module)
