"""The inference form gives what the model gives in evaluation mode, with no BatchNorm left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.models.inference_form import ScaleShift, by_slices, depends_on_batch, fold
from affect_jax.models.layers import BatchNorm, Layers
from tests.affect_jax.models.test_models import SMALL

# BatchNorms that no layer can take: in front of an activation, or behind one.
REMAINING = {
    "arbex": 6,
    "arbex_backbone": 3,
    "arbex_official": 6,
    "arbex_tiny": 5,
    "emofan": 44,
    "fan": 41,
    "ir50": 3,
    "poster_v2": 3,
    "poster_v2_tiny": 3,
}
FAST = ("features", "ir50", "mobilefacenet", "resnet18")  # to compile


def trained(name: str, **arguments) -> nnx.Module:
    """A small model whose statistics and factors are not those of a fresh one."""
    model = models.create(name, **SMALL[name], **arguments)
    draw = np.random.default_rng(0)
    for norm in norms(model, BatchNorm):
        features = norm.mean[...].shape
        for variable, values in (
            (norm.mean, draw.normal(0, 0.3, features)),
            (norm.var, draw.uniform(0.5, 2, features)),
            (norm.scale, draw.uniform(-1.5, 1.5, features)),
            (norm.bias, draw.normal(0, 0.3, features)),
        ):
            variable[...] = jnp.asarray(values, variable[...].dtype)
    model.eval()
    return model


def norms(model: nnx.Module, kind: type[nnx.Module]) -> list:
    return [module for _, module in nnx.iter_modules(model) if isinstance(module, kind)]


def inputs(name: str) -> jax.Array:
    shape = (2, 8) if name == "features" else (2, 32, 32, 3)
    return jnp.asarray(np.random.default_rng(1).uniform(size=shape), jnp.float32)


def call(model: nnx.Module, x: jax.Array) -> dict:
    parts = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(parts[0], state, copy=True)(x))(parts[1], x)


def largest_difference(given: dict, expected: dict) -> float:
    """Largest difference of an output, as a fraction of its largest number."""
    differences = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-3)),
        given,
        expected,
    )
    return max(jax.tree.leaves(differences))


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in models.names()]
)
def test_outputs_are_those_of_the_model_in_evaluation_mode(name):
    model = trained(name)
    folded = fold(model)
    assert not norms(folded, BatchNorm)
    assert len(norms(folded, ScaleShift)) == REMAINING.get(name, 0)
    assert largest_difference(call(folded, inputs(name)), call(model, inputs(name))) < 1e-5


def test_the_model_itself_is_unchanged():
    model = trained("resnet18")
    before = jax.tree.map(np.asarray, nnx.state(model))
    fold(model)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))
    assert len(norms(model, BatchNorm)) == 20


def test_a_model_in_training_mode_is_folded_with_its_running_statistics():
    model = trained("mobilefacenet")
    expected = call(model, inputs("mobilefacenet"))
    model.train()
    assert largest_difference(call(fold(model), inputs("mobilefacenet")), expected) < 1e-5
    assert not norms(model, BatchNorm)[0].use_running_average


def test_folding_inside_of_jit_gives_the_same():
    model = trained("mobilefacenet")
    graphdef, state = nnx.split(model)
    x = inputs("mobilefacenet")
    inside = jax.jit(lambda state, x: fold(nnx.merge(graphdef, state, copy=True))(x))(state, x)
    assert largest_difference(inside, call(model, x)) < 1e-5


def test_weights_are_cast_to_the_dtype_of_the_computation():
    class Net(nnx.Module):
        norms_after = (("conv", "norm"),)

        def __init__(self, make: Layers):
            self.conv, self.norm = make.conv(2, 3, 1), make.norm(3)
            self.layer_norm, self.last = make.layer_norm(3, 1e-6), make.linear(3, 1)

    folded = fold(Net(Layers(nnx.Rngs(0), "bfloat16")))
    assert folded.conv.kernel[...].dtype == folded.conv.bias[...].dtype == jnp.bfloat16
    assert folded.last.kernel[...].dtype == jnp.bfloat16
    # These are used in float32.
    assert folded.layer_norm.bias[...].dtype == jnp.float32


@pytest.mark.parametrize("count", [1, 4, 6, 8, 12])
def test_slices_give_what_the_whole_batch_gives(count):
    def function(x):
        return {"sum": x.sum((1, 2)), "double": 2 * x, "seen": jnp.full(len(x), len(x))}

    x = jax.random.normal(jax.random.key(0), (count, 3, 2))
    found, whole = jax.jit(lambda x: by_slices(function, x))(x), function(x)
    np.testing.assert_allclose(found["sum"], whole["sum"], rtol=1e-6)
    np.testing.assert_array_equal(found["double"], whole["double"])
    # A CPU computes eight and twelve images four at a time.
    np.testing.assert_array_equal(found["seen"], count if count in (1, 6) else 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reliability": None}, False),
        ({"reliability": {"scope": "batch", "heads": 1}}, True),
        ({"relations": {"context": "batch"}}, True),
        ({"relations": {"context": "bank"}}, False),
    ],
)
def test_models_whose_images_depend_on_each_other(changes, expected):
    model = models.create("resnet18", width=8, n_expression=3, rngs=nnx.Rngs(0), **changes)
    assert depends_on_batch(model) is expected
