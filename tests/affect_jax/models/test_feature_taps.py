"""Feature maps can be read and shifted from outside; without a tap nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax import models
from affect_jax.models.feature_taps import Tap, feature_map


@pytest.fixture(scope="module")
def resnet():
    model = models.create("resnet18", width=4, n_expression=3)
    model.eval()
    return model


def test_outputs_are_the_same_with_and_without_a_tap(resnet):
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    plain = resnet(images)
    with Tap() as tap:
        watched = resnet(images)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), plain, watched))
    (seen,) = tap.maps
    assert seen.grid == (2, 2) and seen.prefix == 0
    np.testing.assert_array_equal(seen.values, plain["layer4"])
    assert feature_map(images) is images  # the tap is gone


def test_gradient_of_the_shift_is_that_of_the_map(resnet):
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))

    @jax.jit
    def gradient(shift):
        def score(shift):
            with Tap(shift):
                return resnet(images)["logits"][:, 1].sum()

        return jax.grad(score)(shift)

    values = gradient(jnp.zeros((2, 2, 2, 32)))
    # Logits are linear in the average of the map.
    expected = np.broadcast_to(resnet.head.kernel[...][:, 1] / 4, (2, 2, 2, 32))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_of_several_maps_only_the_chosen_one_is_shifted():
    with Tap(jnp.ones((1, 2, 2, 1)), at=1) as tap:
        first = feature_map(jnp.zeros((1, 2, 2, 1)))
        second = feature_map(first)
    assert len(tap.maps) == 2
    assert float(first.sum()) == 0 and float(second.sum()) == 4


def test_tokens_must_fill_their_grid():
    tokens = jnp.zeros((1, 5, 8))
    with Tap() as tap:
        feature_map(tokens, grid=(2, 2), prefix=1)
        assert tap.maps[0].grid == (2, 2) and tap.maps[0].prefix == 1
        with pytest.raises(ValueError, match="do not fill"):
            feature_map(tokens, grid=(2, 2))
        with pytest.raises(ValueError, match="tokens need grid"):
            feature_map(tokens)
