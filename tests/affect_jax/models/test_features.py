"""Heads on stored features."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.models.preprocessing import normalise
from affect_jax.weights import model_dir

FEATURES = np.random.default_rng(0).standard_normal((5, 32), np.float32)


def test_the_head_of_a_network_on_its_embedding_gives_its_outputs():
    settings = {
        "n_expression": 3,
        "regression": True,
        "reliability": {"anchors": 2, "heads": 1},
        "relations": {"hierarchy_bias": False, "heads": 2, "head_features": 4, "bank_size": 4},
    }
    whole = models.create("vit_ti16", depth=1, image_size=32, **settings)
    head = models.create("features", n_features=192, seed=1, **settings)
    arrays = model_dir.arrays_of(whole)
    own = model_dir.arrays_of(head)
    for part, named in own.items():
        assert named.keys() <= arrays[part].keys()
        own[part] = {path: arrays[part][path] for path in named}
    model_dir.assign(head, own)
    for model in (whole, head):
        model.eval()
    images = np.random.default_rng(1).standard_normal((4, 32, 32, 3)).astype(np.float32)
    call = nnx.jit(lambda model, x: model(x))
    outputs = call(whole, jnp.asarray(images))
    again = call(head, outputs["image_features"])
    assert {"logits", "valence", "embedding", "corrected", "relation_weights"} <= again.keys()
    for name, value in again.items():
        np.testing.assert_allclose(value, outputs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_logits_are_a_linear_map_of_the_features():
    model = models.create("features", n_features=32, n_expression=3)
    kernel, bias = (np.asarray(model.head.kernel[...]), np.asarray(model.head.bias[...]))
    outputs = model(jnp.asarray(FEATURES))
    assert outputs.keys() == {"embedding", "logits"}
    np.testing.assert_array_equal(outputs["embedding"], FEATURES)
    np.testing.assert_allclose(outputs["logits"], FEATURES @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_a_model_says_what_it_takes():
    head, images = models.create("features", n_features=6), models.create("resnet18", width=4)
    assert models.input_shape(head, 64) == (6,) and models.n_features(head) == 6
    assert models.input_shape(images, 64) == (64, 64, 3) and models.n_features(images) == 0


@pytest.mark.parametrize("shape", [(2, 31), (32,), (2, 32, 1), (2, 4, 4, 3)])
def test_other_shapes_are_refused(shape):
    model = models.create("features", n_features=32)
    with pytest.raises(ValueError, match=r"features must be \[B, 32\], got"):
        nnx.eval_shape(model, jnp.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_features": 0}, "n_features must be at least 1, got 0"),
        ({"n_expression": 0}, "or 0 with regression, got 0"),
        ({"n_expression": -1, "regression": True}, "got -1"),
    ],
)
def test_sizes_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.create("features", **arguments)


def test_features_are_not_normalised_and_mixed_images_are():
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    np.testing.assert_array_equal(normalise(FEATURES, mean, std), FEATURES)
    image = np.full((1, 2, 2, 3), 255.0, np.float32)
    np.testing.assert_allclose(normalise(image, mean, std), np.full((1, 2, 2, 3), 2.0))
