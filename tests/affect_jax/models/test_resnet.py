import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models


def shapes(name, **arguments):
    model = models.create(name, width=4, **arguments)
    return nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, 65, 64, 3)))


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet34", 1), ("resnet50", 4)])
def test_stages_and_embedding(name, expansion):
    found = shapes(name, n_expression=6)
    assert found["logits"].shape == (2, 6)
    assert found["embedding"].shape == found["avgpool"].shape == (2, 32 * expansion)
    sizes = [(17, 16), (9, 8), (5, 4), (3, 2)]
    for i, size in enumerate(sizes):
        assert found[f"layer{i + 1}"].shape == (2, *size, 4 * 2**i * expansion)
    assert "valence" not in found


def test_regression_beside_and_without_classes():
    both = shapes("resnet18", n_expression=6, regression=True)
    assert both["logits"].shape == (2, 6)
    assert both["valence"].shape == both["arousal"].shape == (2,)
    alone = shapes("resnet18", n_expression=0, regression=True)
    assert "logits" not in alone
    assert alone["valence"].shape == (2,)


def test_a_model_without_outputs_is_refused():
    with pytest.raises(ValueError, match="at least 1, or 0 with regression"):
        models.create("resnet18", n_expression=0)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_fresh_block_is_its_shortcut(name):
    model = models.create(name, width=4, rngs=nnx.Rngs(0))
    model.eval()
    block = model.stages[0][1]
    features = model.stages[0][0].norm1.scale.shape[0] * type(block).expansion
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 5, features)), jnp.float32)
    np.testing.assert_array_equal(block(x), nnx.relu(x))
