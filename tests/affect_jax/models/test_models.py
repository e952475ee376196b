"""What holds for every model, and the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.models.state import take_apart
from tests.affect_jax.narrow_sums import narrow_sums

# The counts of the published networks, where a name and its defaults are one.
PARAMETERS = {
    ("arbex", ()): 43_872_654,
    ("arbex_backbone", ()): 43_748_558,
    ("arbex_official", ()): 44_163_310,
    ("arbex_tiny", ()): 1_184_582,
    ("emofan", ()): 13_963_410,
    ("fan", ()): 23_820_176,
    ("features", ()): 4_104,
    ("ir50", ()): 17_611_968,
    ("mobilefacenet", ()): 911_232,
    ("poster_v2", ()): 43_753_941,
    ("poster_v2", (("n_expression", 8),)): 43_754_710,
    ("poster_v2_tiny", ()): 1_166_373,
    ("resnet18", (("n_expression", 7),)): 11_180_103,
    ("resnet34", (("n_expression", 1000),)): 21_797_672,
    ("resnet50", (("n_expression", 1000),)): 25_557_032,
    ("vit_ti16", (("n_expression", 1000),)): 5_717_416,
    ("vit_s16", (("n_expression", 1000),)): 22_050_664,
    ("vit_b16", (("n_expression", 1000),)): 86_567_656,
    ("vit_l16", (("n_expression", 1000),)): 304_326_632,
}
POSTER = {
    "input_size": 16,
    "image_width": 4,
    "image_stages": (1, 1, 1),
    "landmark_width": 4,
    "landmark_stages": (1, 1, 1),
    "dims": (4, 8, 8),
    "windows": (4, 2, 1),
    "heads": (1, 2, 2),
    "embedding": 16,
    "vit_depth": 1,
}
VIT = {"image_size": 32, "depth": 1}
SMALL = {
    "arbex": {"backbone": POSTER},
    "arbex_backbone": POSTER,
    "arbex_official": {"backbone": POSTER},
    "arbex_tiny": {"backbone": POSTER},
    "emofan": {"width": 16, "depth": 1, "stacks": 2, "emotion_blocks": 1, "landmarks": 5},
    "fan": {"width": 16, "depth": 1, "stacks": 2, "landmarks": 5},
    "features": {"n_features": 8},
    "ir50": {"width": 4, "stage_sizes": (1, 1, 1), "input_size": 16},
    "mobilefacenet": {"width": 4, "stage_sizes": (1, 0, 1), "input_size": 16},
    "poster_v2": POSTER,
    "poster_v2_tiny": POSTER,
    "resnet18": {"width": 4},
    "resnet34": {"width": 4},
    "resnet50": {"width": 4},
    "vit_ti16": VIT,
    "vit_s16": VIT,
    "vit_b16": VIT,
    "vit_l16": VIT,
}
# Of the same layers as another one.
TWINS = {
    "arbex_backbone",
    "arbex_tiny",
    "poster_v2",
    "poster_v2_tiny",
    "resnet34",
    "vit_l16",
    "vit_s16",
    "vit_ti16",
}


@pytest.mark.slow  # the recorded networks of tests/golden have theirs checked in any case
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
        lambda model, x: model(x, rngs=nnx.Rngs(0)),
        model,
        jnp.zeros((2, *models.input_shape(model, 32))),
    )
    for feature in outputs.pop("features", ()):
        assert feature.dtype == jnp.bfloat16
    assert outputs
    for key, value in outputs.items():
        for array in jax.tree.leaves(value):
            assert array.dtype == jnp.float32
            # What the losses of reliability balancing need belongs to no example.
            assert key in ("anchors", "trust") or array.shape[0] == 2


@pytest.mark.parametrize("name", sorted(set(models.names()) - TWINS))
def test_no_gradient_is_summed_in_bfloat16(name):
    """A GPU since Hopper adds bfloat16 numbers in bfloat16, one after the other."""
    model = models.create(name, **SMALL[name], dtype="bfloat16")
    model.train()
    blueprint, params, stats = take_apart(model)

    def loss(params, x):
        outputs = blueprint.build(params, stats)(x, rngs=nnx.Rngs(0))
        arrays = (x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating))
        return sum(jnp.sum(x.astype(jnp.float32)) for x in arrays)

    images = jnp.zeros((8, *models.input_shape(model, 32)))
    assert narrow_sums(jax.make_jaxpr(jax.grad(loss))(params, images).jaxpr) == []


def test_sums_in_bfloat16_are_found():
    def sums(x, index):
        picked = jax.grad(lambda x: jnp.sum(x[index].astype(jnp.float32)))(x)
        return jax.jit(lambda x: jnp.sum(x * 2, 0, dtype=jnp.bfloat16))(x), picked

    x = jnp.ones((8, 3), jnp.bfloat16)
    total = jax.grad(lambda bias: jnp.sum((x + bias).astype(jnp.float32)))
    assert len(narrow_sums(jax.make_jaxpr(total)(x[0]).jaxpr)) == 1
    assert len(narrow_sums(jax.make_jaxpr(sums)(x, jnp.zeros(9, int)).jaxpr)) >= 1
    assert narrow_sums(jax.make_jaxpr(lambda x: jnp.sum(x))(x).jaxpr) == []


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
