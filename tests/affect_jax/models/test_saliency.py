"""Class-activation maps and attention rollout on models simple enough to work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models import saliency
from affect_jax.models.feature_taps import feature_map


def linear_model(kernel):
    """Classes from the average of the picture's channels: gradients are kernel / places."""

    def forward(images):
        features = feature_map(images)
        return {"logits": features.mean(axis=(1, 2)) @ kernel}

    return forward


def test_map_of_a_linear_model_by_hand():
    images = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(jnp.array([4.0, 0, 0]))
    images = images.at[0, 1, 1].set(jnp.array([2.0, 0, 0])).at[0, 0, 1, 1].set(9.0)
    kernel = jnp.array([[1.0, -1.0], [-1.0, 2.0], [0.0, 0.0]])
    maps, logits = saliency.class_activation(linear_model(kernel), images, jnp.array([0]))
    np.testing.assert_allclose(maps[0], [[1.0, 0.0], [0.0, 0.5]])
    np.testing.assert_allclose(logits[0], [(6 - 9) / 4, (-6 + 18) / 4])
    # The predicted class is 1, which channel 1 speaks for.
    maps, _ = saliency.class_activation(linear_model(kernel), images)
    np.testing.assert_allclose(maps[0], [[0.0, 1.0], [0.0, 0.0]])
    # So it is where the class asked for is unknown.
    unknown, _ = saliency.class_activation(linear_model(kernel), images, jnp.array([-1]))
    np.testing.assert_array_equal(unknown, maps)


def test_each_picture_of_a_batch_has_its_own_map():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(2, 2, 2, 3)), jnp.float32)
    forward = linear_model(jnp.asarray(rng.normal(size=(3, 2)), jnp.float32))
    together, _ = saliency.class_activation(forward, images)
    # The pictures the other way round, and the same function a second time
    swapped, _ = saliency.class_activation(forward, images[::-1])
    assert not np.allclose(together[0], together[1])
    np.testing.assert_allclose(together, swapped[::-1], rtol=1e-5)


def test_tokens_behind_a_class_token_make_a_map():
    tokens = jnp.arange(1.0, 8.0).reshape(1, 7, 1)

    def forward(images):
        seen = feature_map(tokens, grid=(2, 3), prefix=1)
        return {"logits": seen.sum(axis=1) @ jnp.array([[1.0, 0.0]])}

    maps, _ = saliency.class_activation(forward, jnp.zeros((1, 32, 48, 3)))
    np.testing.assert_allclose(maps[0], np.arange(2.0, 8.0).reshape(2, 3) / 7)


def test_nothing_that_speaks_for_a_class_is_an_empty_map():
    maps, _ = saliency.class_activation(
        linear_model(-jnp.ones((3, 2))), jnp.ones((1, 2, 2, 3)), jnp.array([0])
    )
    np.testing.assert_array_equal(maps, 0)


def test_a_model_without_a_feature_map_is_told():
    with pytest.raises(UserError, match="pass the last feature map"):
        saliency.class_activation(lambda x: {"logits": x[:, 0, 0]}, jnp.ones((1, 2, 2, 3)))


def test_rollout_by_hand():
    # A class token and two patches; the second block looks at patch 1 alone.
    first = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    second = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    attention = np.stack([first, second])[None]
    # Class token: half of [.75, .125, .125] and half of patch 1, which kept itself.
    np.testing.assert_allclose(saliency.attention_flow(attention)[0, 0], [0.375, 0.5625, 0.0625])
    np.testing.assert_allclose(saliency.rollout(attention, (1, 2))[0, 0], [1.0, 1 / 9])


def test_rollout_keeps_shares():
    weights = np.random.default_rng(0).dirichlet(np.ones(10), (2, 4, 10))
    flow = saliency.attention_flow(weights)
    assert flow.shape == (2, 10, 10)
    np.testing.assert_allclose(flow.sum(axis=-1), 1)
    maps = saliency.rollout(weights, (3, 3))
    assert maps.shape == (2, 3, 3)
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)
    # Without a class token the output is the mean of the patches.
    patches = saliency.rollout(weights, (2, 5), prefix=0).reshape(2, 10)
    mean = flow.mean(axis=1)
    np.testing.assert_allclose(patches, mean / mean.max(axis=1, keepdims=True))
    with pytest.raises(ValueError, match="do not fill a grid"):
        saliency.rollout(weights, (2, 2))


def test_attention_is_read_from_the_models_trace():
    model = models.create("vit_ti16", depth=2, image_size=32, n_expression=3)
    model.eval()
    images = jnp.ones((1, 32, 32, 3))
    found = saliency.attention_of(model, images)
    assert found["grid"] == (2, 2) and found["prefix"] == 1
    assert found["attention"].shape == (1, 2, 5, 5) and found["logits"].shape == (1, 3)
    weights = model.trace(images).attention
    np.testing.assert_allclose(found["attention"][0, 1], weights[1][0].mean(axis=0), rtol=1e-6)
    with pytest.raises(UserError, match="no attention"):
        saliency.attention_of(nnx.Module(), images)


def test_maps_are_enlarged_within_bounds():
    grown = saliency.spread_over(np.array([[[0.0, 1.0], [0.0, 0.0]]]), 16, 12)
    assert grown.shape == (1, 16, 12)
    assert grown.min() >= 0 and grown.max() <= 1
    row, column = np.unravel_index(grown[0].argmax(), (16, 12))
    assert row <= 4 and column >= 6
    assert grown[0, 2, 9] > 0.8 and grown[0, 13, 2] < 0.2


@pytest.mark.parametrize(
    ("name", "arguments", "size", "grid"),
    [
        ("resnet18", {"width": 4}, 64, (2, 2)),
        ("emofan", {"width": 16, "depth": 1, "stacks": 1, "emotion_blocks": 2}, 64, (8, 8)),
        ("vit_ti16", {"depth": 2, "image_size": 64, "remat": "blocks"}, 64, (4, 4)),
        ("poster_v2_tiny", {}, 64, None),
    ],
)
def test_every_backbone_shows_a_map(name, arguments, size, grid):
    model = models.create(name, n_expression=5, **arguments)
    model.eval()
    maps, logits = jax.eval_shape(
        lambda x: saliency.class_activation(model, x),
        jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32),
    )
    assert logits.shape == (2, 5)
    assert maps.shape[0] == 2 and maps.shape[1] == maps.shape[2] > 1
    assert grid is None or maps.shape[1:] == grid
