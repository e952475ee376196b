"""The mean of two models' weights."""

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights import average, model_dir


def make(seed, width=16):
    return models.create("resnet18", width=width, n_expression=3, rngs=nnx.Rngs(seed))


def test_weights_and_statistics_become_the_mean(tmp_path):
    one, other = make(0), make(1)
    for _, norm in nnx.iter_modules(other):
        if hasattr(norm, "var"):
            norm.var.set_value(3 * norm.var[...])
    model_dir.save_model(
        tmp_path / "m",
        "resnet18",
        {"width": 16, "n_expression": 3},
        other,
        preprocessing=Preprocessing(32),
    )
    before = jax.tree.map(np.asarray, model_dir.arrays_of(one))
    average.average_with(one, tmp_path / "m")
    after = model_dir.arrays_of(one)
    wanted = jax.tree.map(lambda a, b: (a + b) / 2, before, model_dir.arrays_of(other))
    jax.tree.map(np.testing.assert_array_equal, after, wanted)
    assert all((v == 2).all() for k, v in after["stats"].items() if k.endswith("/var"))


def test_another_architecture_is_refused(tmp_path):
    model_dir.save_model(
        tmp_path / "m",
        "resnet18",
        {"width": 16, "n_expression": 3},
        make(0),
        preprocessing=Preprocessing(32),
    )
    with pytest.raises(UserError, match="not a model of the same architecture"):
        average.average_with(make(0, width=32), tmp_path / "m")
