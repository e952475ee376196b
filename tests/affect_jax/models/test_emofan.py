import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.models.state import current_stats, take_apart

SMALL = {"width": 16, "depth": 2, "stacks": 2, "emotion_blocks": 2, "landmarks": 5}
TINY = {"width": 16, "depth": 1, "stacks": 1, "emotion_blocks": 1, "landmarks": 3}


@pytest.mark.parametrize(("attention", "stacks"), [(True, 1), (True, 3), (False, 2)])
def test_shapes_for_any_size_width_and_depth(attention, stacks):
    arguments = {**SMALL, "stacks": stacks, "depth": 1, "emotion_blocks": 3}
    model = models.create("emofan", n_expression=6, attention=attention, **arguments)
    shapes = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((3, 40, 64, 3)))
    assert shapes["logits"].shape == (3, 6)
    assert shapes["valence"].shape == shapes["arousal"].shape == (3,)
    assert shapes["embedding"].shape == (3, 16)
    assert shapes["heatmaps"].shape == (3, 10, 16, 5)
    assert [h.shape for h in shapes["stack_heatmaps"]] == [(3, 10, 16, 5)] * stacks


@pytest.fixture(scope="module")
def ways():
    """Outputs of the whole, of its trunk, and from altered trunk outputs, in one compilation."""
    model = models.create("emofan", **TINY)
    model.eval()
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, images):
        model = nnx.merge(graphdef, state, copy=True)
        trunk = model.fan(images)
        stem, *features = trunk["features"]
        no_maps = {**trunk, "heatmaps": jnp.zeros_like(trunk["heatmaps"])}
        no_features = {**trunk, "features": (stem, *map(jnp.zeros_like, features))}
        return {
            "whole": model(images),
            "trunk": trunk,
            "from_trunk": model.from_trunk(trunk),
            "no_maps": model.from_trunk(no_maps),
            "no_features": model.from_trunk(no_features),
        }

    return run(state, np.random.default_rng(0).random((1, 16, 16, 3), np.float32))


def test_the_trunk_alone_gives_the_same_heatmaps(ways):
    whole, trunk = ways["whole"], ways["trunk"]
    np.testing.assert_allclose(whole["heatmaps"], trunk["heatmaps"], atol=1e-6)
    np.testing.assert_allclose(whole["logits"], ways["from_trunk"]["logits"], atol=1e-6)
    assert len(trunk["features"]) == 1 + TINY["stacks"]


def test_the_mask_multiplies_the_stack_features_but_not_the_stem(ways):
    no_maps, no_features = ways["no_maps"]["logits"], ways["no_features"]["logits"]
    np.testing.assert_allclose(no_maps, no_features, atol=1e-6)
    assert np.abs(ways["whole"]["logits"] - no_maps).max() > 1e-3


def test_no_classes_leave_valence_and_arousal():
    model = models.create("emofan", n_expression=0, **SMALL)
    shapes = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, 32, 32, 3)))
    assert "logits" not in shapes
    assert shapes["arousal"].shape == (2,)


def test_squeeze_and_excitation_weighs_the_pooled_features():
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    model = models.create("emofan", **TINY, se=True)
    model.eval()
    embedding = nnx.jit(lambda model, x: model(x)["embedding"])
    gated = embedding(model, images)
    excitation, model.emotion.se = model.emotion.se, None
    np.testing.assert_allclose(gated, excitation(embedding(model, images)), rtol=1e-5, atol=1e-6)


def test_a_frozen_trunk_keeps_its_statistics_while_the_branch_trains():
    model = models.create("emofan", **TINY)
    model.train()
    model.fan.eval()
    blueprint, params, before = take_apart(model)
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)

    @jax.jit
    def step(params, stats):
        def loss_of(params):
            model = blueprint.build(params, stats)
            outputs = model(images)
            return jnp.sum(outputs["logits"] ** 2), current_stats(model)

        return jax.grad(loss_of, has_aux=True)(params)

    gradients, after = step(params, before)
    for path in before:
        unchanged = np.array_equal(after[path], before[path])
        assert unchanged == path.startswith("fan/"), path
    # Gradients still reach the trunk: whether it is trained is the optimizer's affair.
    assert np.any(gradients["fan/stem_conv/kernel"] != 0)
    assert np.any(gradients["emotion/output/kernel"] != 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 24}, "width must be a positive multiple of 16, got 24"),
        ({"depth": 0}, "depth, stacks and landmarks must be at least 1"),
        ({"pool": "mean"}, "pool must be one of 'max', 'avg', got 'mean'"),
        ({"n_expression": -1}, "n_expression must be at least 0"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create("emofan", **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 36, 32, 3), "36 x 32; both sides must be multiples of 16"),
        ((1, 32, 32, 1), r"must be \[B, H, W, 3\]"),
        ((32, 32, 3), r"must be \[B, H, W, 3\]"),
    ],
)
def test_impossible_pictures(shape, message):
    model = models.create("emofan", **SMALL)
    for part in (model, model.fan):
        with pytest.raises(ValueError, match=message):
            part(jnp.zeros(shape))


def test_too_small_pictures_for_the_emotion_branch():
    model = models.create("emofan", **{**SMALL, "emotion_blocks": 4})
    with pytest.raises(ValueError, match="needs at least 64 pixels"):
        nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, 32, 32, 3)))
