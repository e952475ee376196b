"""The published recipe of POSTER++, shrunk: what it trains and what stays as it is."""

import pathlib

import jax
import numpy as np
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax.models.state import current_stats, take_apart

ROOT = pathlib.Path(__file__).parents[3]
SIZES = {
    "input_size": 16,
    "image_width": 4,
    "image_stages": (1, 1, 1),
    "landmark_width": 4,
    "landmark_stages": (0, 0, 0),
    "dims": (4, 8, 8),
    "windows": (4, 2, 1),
    "heads": (1, 2, 2),
    "embedding": 16,
    "vit_depth": 1,
}


def recipe():
    config = config_lib.load_file(ROOT / "configs" / "poster_v2_rafdb.py")
    config.model.update(SIZES)
    config.data.image_size = 16
    return systems.create(
        config, class_names=tuple("abcdefg"), has=frozenset({"expression"}), class_counts=(1,) * 7
    )


def test_the_landmark_network_stays_with_its_statistics_and_the_rest_trains():
    system = recipe()
    model = system.create_model(nnx.Rngs(0), None)
    phase = system.phases(10)[0]
    system.set_train_mode(model, phase)
    blueprint, params, stats = take_apart(model)
    for path in params:
        assert system.trainable(path, phase) != path.startswith("landmark_net/"), path

    @jax.jit
    def forward(params, stats, images):
        model = blueprint.build(params, stats)
        system.forward(model, images, phase, nnx.Rngs(dropout=0))
        return current_stats(model)

    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    new = forward(params, stats, images)
    assert {path.split("/")[0] for path in stats} == {"landmark_net", "image_net"}
    for path, value in stats.items():
        stays = path.startswith("landmark_net/")
        assert np.array_equal(new[path], value) == stays, path
