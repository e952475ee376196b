"""Vision transformers: sizes, positions, squeeze and excitation, and what training draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.models.excitation import Excitation
from affect_jax.models.layers import Layers
from affect_jax.models.state import take_apart
from affect_jax.models.vit import SIZES, Size, resize_positions, wave_positions

# Of the published networks, with their 1000 classes.
PARAMETERS = {
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_b16": 86_567_656,
    "vit_l16": 304_326_632,
}
KEY = jax.random.key(0)


def create(**arguments):
    return models.create(
        "vit_ti16", **{"depth": 1, "n_expression": 5, "image_size": 32} | arguments
    )


def pictures(height=32, width=32, batch=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((batch, height, width, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _call(graphdef, state, images):
    return nnx.merge(graphdef, state, copy=True)(images)


def call(model, images):
    """In evaluation mode, compiled: faster than layer by layer."""
    model.eval()
    return _call(*nnx.split(model), images)


def shapes(model, images):
    """Of the outputs, without compiling or computing anything."""
    graphdef, state = nnx.split(model)
    outputs = jax.eval_shape(
        lambda state, x: nnx.merge(graphdef, state, copy=True)(x), state, images
    )
    return {name: array.shape for name, array in outputs.items()}


def parameters(name, **arguments):
    model = nnx.eval_shape(lambda: models.create(name, **arguments))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(math.prod(x.shape) for x in leaves)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_those_of_the_published_networks(name):
    assert parameters(name, n_expression=1000) == PARAMETERS[name]


def test_depth_and_excitation_add_their_own():
    one, two = (parameters("vit_ti16", n_expression=1000, depth=depth) for depth in (1, 2))
    assert one + 11 * (two - one) == PARAMETERS["vit_ti16"]
    excitation = 192 * 48 + 48 + 48 * 192 + 192
    assert parameters("vit_ti16", n_expression=1000, depth=1, se=True) == one + excitation


def test_outputs():
    both = shapes(create(regression=True, se=True), pictures())
    assert both == {
        "logits": (2, 5),
        "valence": (2,),
        "arousal": (2,),
        "embedding": (2, 192),
    }
    assert shapes(create(n_expression=0, pool="mean"), pictures()) == {"embedding": (2, 192)}


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_pictures_of_another_size_see_resized_positions(pool):
    model = create(pool=pool)
    at_call = call(model, pictures(48, 48))["logits"]
    _, params, stats = take_apart(model)
    params["pos_embed"] = resize_positions(params["pos_embed"], (3, 3), model.prefix)
    other = take_apart(create(pool=pool, image_size=48))[0].build(params, stats)
    np.testing.assert_allclose(call(other, pictures(48, 48))["logits"], at_call, atol=1e-6)
    assert shapes(model, pictures(32, 64))["logits"] == (2, 5)


@pytest.mark.parametrize("grid", [(3, 3), (7, 5), (20, 14)])
def test_positions_are_interpolated_as_pytorch_does(grid):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    positions = rng.standard_normal((1, 1 + 14 * 14, 8)).astype(np.float32)
    places = torch.from_numpy(positions[:, 1:]).reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(places, grid, mode="bicubic", antialias=True)
    wanted = wanted.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    resized = np.asarray(resize_positions(jnp.asarray(positions), grid, 1))
    np.testing.assert_array_equal(resized[:, 0], positions[:, 0])
    np.testing.assert_allclose(resized[:, 1:], wanted, atol=2e-5)


def test_positions_start_as_waves_along_rows_and_columns():
    waves = np.asarray(wave_positions(5, 8)).reshape(5, 5, 4, 2)
    np.testing.assert_allclose(waves[:, 3, 0, 0], np.sin(3.0), rtol=1e-6)
    np.testing.assert_allclose(waves[3, :, 3, 0], np.cos(3.0), rtol=1e-6)
    np.testing.assert_allclose(waves[4, 2, :, 1], [2e-4, 1, 4e-4, 1], rtol=1e-5)
    start = np.asarray(create(image_size=80).pos_embed[...])
    assert not start[:, 0].any()  # the class token's
    np.testing.assert_array_equal(start[:, 1:], wave_positions(5, 192))


def test_squeeze_and_excitation_is_equation_3():
    excitation = Excitation(192, Layers(nnx.Rngs(0)))
    reduce, expand = excitation.reduce, excitation.expand
    token = np.random.default_rng(0).standard_normal((2, 192)).astype(np.float32)
    hidden = np.maximum(token @ reduce.kernel[...] + reduce.bias[...], 0)
    gate = 1 / (1 + np.exp(-(hidden @ expand.kernel[...] + expand.bias[...])))
    assert reduce.kernel.shape == (192, 48)
    np.testing.assert_allclose(excitation(token), token * gate, atol=1e-5)
    model = create(se=True)
    model.eval()
    graphdef, state = nnx.split(model)

    @jax.jit
    def embeddings(state, images):
        model = nnx.merge(graphdef, state, copy=True)
        with_se, se = model(images)["embedding"], model.se
        model.se = None
        return with_se, se(model(images)["embedding"])

    np.testing.assert_allclose(*embeddings(state, pictures()), atol=1e-5)


def test_resnet_takes_squeeze_and_excitation_too():
    model = models.create("resnet18", width=4, n_expression=3, se=True)
    outputs = call(model, pictures())
    np.testing.assert_allclose(
        outputs["embedding"], model.se(outputs["avgpool"]), rtol=1e-5, atol=1e-6
    )


def test_attention_maps_come_with_the_same_outputs():
    model = create(depth=2)
    model.eval()
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state, copy=True).trace(x))
    trace = run(state, pictures(48, 32))
    assert [a.shape for a in trace.attention] == [(2, 3, 7, 7)] * 2
    for shares in trace.attention:
        np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert [t.shape for t in trace.tokens] == [(2, 7, 192)] * 2
    plain = call(model, pictures(48, 32))["logits"]
    np.testing.assert_allclose(trace.outputs["logits"], plain, atol=1e-5)


def gradient(model, key=KEY):
    model.train()
    blueprint, params, stats = take_apart(model)

    def loss(params, key):
        outputs = blueprint.build(params, stats)(pictures(), rngs=nnx.Rngs(dropout=key))
        return jnp.sum(outputs["logits"] ** 2)

    return jax.jit(jax.grad(loss))(params, key)


def test_rematerialisation_changes_neither_gradients_nor_draws(monkeypatch):
    # Two blocks, whose draws differ; small ones.
    monkeypatch.setitem(SIZES, "ti", Size(24, 12, 2))
    kept, recomputed = (
        gradient(create(depth=2, remat=remat, dropout=0.2)) for remat in ("none", "blocks")
    )
    for path, value in kept.items():
        np.testing.assert_allclose(recomputed[path], value, rtol=1e-4, atol=1e-4, err_msg=path)


def test_stochastic_depth_leaves_out_whole_branches_of_the_later_blocks():
    model = create(depth=2, drop_path=0.9)
    assert [block.drop_path.rate for block in model.blocks] == [0.0, 0.9]
    model.train()
    x = jax.random.normal(KEY, (64, 5, 192))
    block = model.blocks[1]
    block.norm2.scale[...] = block.norm2.bias[...] = jnp.zeros(192)
    run = jax.jit(lambda x, key: block(x, nnx.Rngs(dropout=key)))
    changed = np.any(run(x, KEY) != x, axis=2)
    np.testing.assert_array_equal(changed.all(axis=1), changed.any(axis=1))
    assert 0 < changed[:, 0].sum() < 20  # of 64, one in ten


def test_bfloat16_computes_low_and_returns_float32():
    model = create(dtype="bfloat16", se=True)
    low = call(model, pictures())["logits"]
    assert low.dtype == jnp.float32
    _, params, _ = take_apart(model)
    assert {x.dtype for x in params.values()} == {jnp.dtype("float32")}
    high = call(create(se=True), pictures())["logits"]
    np.testing.assert_allclose(low, high, atol=0.05 * float(jnp.abs(high).max()))
    assert not np.array_equal(low, high)


def test_reliability_follows_the_logits():
    outputs = call(create(reliability={}, se=True), pictures())
    np.testing.assert_allclose(jnp.exp(outputs["logits"]).sum(-1), 1, rtol=1e-4)
    assert outputs["primary"].shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool": "max"}, "pool must be one of token, mean"),
        ({"attention": "flash"}, "attention must be one of auto, xla, cudnn"),
        ({"image_size": 90}, "multiples of 16: 90 x 90"),
        ({"drop_path": 1.0}, r"must lie in \[0, 1\)"),
        ({"depth": -1}, "must not be negative"),
        ({"attention": "cudnn"}, "needs a GPU and a 16-bit dtype"),
    ],
)
def test_arguments_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        create(**arguments)


def test_positions_that_form_no_square():
    with pytest.raises(ValueError, match="197 position embeddings"):
        resize_positions(jnp.zeros((1, 197, 4)), (3, 3), 0)
