"""Layer numbers, and learning rates that fall with them."""

import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax import models
from affect_jax.config import ConfigError
from affect_jax.models.layer_depth import layer_numbers
from affect_jax.models.state import take_apart
from affect_jax.training import optim
from configs import base


def vit():
    return models.create("vit_ti16", depth=2, image_size=32, n_expression=3, se=True)


def test_a_vision_transformer_has_the_numbers_of_beit():
    model = vit()
    numbers = layer_numbers(model)
    assert numbers.keys() == take_apart(model)[1].keys()
    for path, number in numbers.items():
        if path.startswith("blocks/"):
            assert number == int(path.split("/")[1]) + 1
        else:
            top = path.startswith(("norm/", "se/", "head/"))
            assert number == (3 if top else 0), path


def test_blocks_in_lists_of_lists_and_layers_between_lists():
    resnet = layer_numbers(models.create("resnet18", width=4))
    assert [resnet[f"stages/{s}/{b}/conv1/kernel"] for s in range(4) for b in range(2)] == [
        *range(1, 9)
    ]
    assert (resnet["stem_conv/kernel"], resnet["head/kernel"]) == (0, 9)
    arguments = {"width": 16, "depth": 1, "stacks": 2, "emotion_blocks": 2}
    emofan = layer_numbers(models.create("emofan", **arguments))
    order = ["fan/stem_conv", "fan/stacks/0/conv", "fan/stacks/1/conv", "emotion/project"]
    order += ["emotion/blocks/1/conv1", "emotion/output"]
    assert [emofan[f"{path}/kernel"] for path in order] == [*range(6)]
    assert emofan["emotion/blocks/0/conv1/kernel"] == emofan["emotion/project/kernel"]


def updates(decay, **values):
    section = base.get_config().optimizer
    section.update(schedule="constant", learning_rate=0.1, layer_decay=decay, **values)
    layers = {"stem": 0, "block": 1, "head": 2}
    params = {name: jnp.ones((2, 2)) for name in layers}
    optimizer, _ = optim.create_optimizer(section, 10, 1, params, layers)
    found, _ = optimizer.update(params, optimizer.init(params), params)
    return {name: float(value[0, 0]) for name, value in found.items()}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_updates_fall_by_the_factor_from_layer_to_layer(name):
    plain, graded = (updates(d, name=name, weight_decay=0.5) for d in (1.0, 0.25))
    np.testing.assert_allclose(graded["head"], plain["head"])
    np.testing.assert_allclose(graded["block"], plain["block"] / 4)
    np.testing.assert_allclose(graded["stem"], plain["stem"] / 16)


def test_frozen_parameters_stay():
    graded = updates(0.5, freeze=("stem",))
    assert graded["stem"] == 0
    np.testing.assert_allclose(graded["block"], graded["head"] / 2)


def test_tokens_and_positions_do_not_decay():
    _, params, _ = take_apart(vit())
    spared = {path for path, value in params.items() if not optim.has_weight_decay(path, value)}
    assert {"cls_token", "pos_embed"} <= spared
    assert "patches/kernel" not in spared


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_values_that_cannot_be(decay):
    with pytest.raises(ConfigError, match=r"optimizer\.layer_decay"):
        updates(decay)
