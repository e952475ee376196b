"""The mean of two models' weights."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights import average, model_dir
from tests.affect_jax import tiny_models


def make(seed, width=16):
    return models.create("resnet18", width=width, n_expression=3, rngs=nnx.Rngs(seed))


def save(model, path):
    model_dir.save_model(
        path,
        "resnet18",
        {"width": 16, "n_expression": 3},
        model,
        preprocessing=Preprocessing(32),
    )


@pytest.mark.parametrize("others", [1, 2])
def test_weights_and_statistics_become_the_mean(tmp_path, others):
    one, *rest = (make(seed) for seed in range(1 + others))
    for i, other in enumerate(rest):
        for _, norm in nnx.iter_modules(other):
            if hasattr(norm, "var"):
                norm.var.set_value((3 - i) * norm.var[...])  # 3, then 2
        save(other, tmp_path / str(i))
    arrays = [jax.tree.map(np.asarray, model_dir.arrays_of(model)) for model in (one, *rest)]
    average.average_with(one, [tmp_path / str(i) for i in range(others)])
    after = model_dir.arrays_of(one)
    wanted = jax.tree.map(lambda *a: sum(a) / np.float32(len(a)), *arrays)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), after, wanted)
    assert all((v == 2).all() for k, v in after["stats"].items() if k.endswith("/var"))


def test_another_architecture_is_refused(tmp_path):
    save(make(0), tmp_path / "m")
    with pytest.raises(UserError, match="not a model of the same architecture"):
        average.average_with(make(0, width=32), [tmp_path / "m"])


def test_a_bank_of_features_is_not_averaged(tmp_path):
    made = tiny_models.make(*tiny_models.SYSTEMS["rald"])
    folder = tiny_models.save(made, tmp_path / "m")
    before = {k: np.array(v) for k, v in model_dir.arrays_of(made.model)["stats"].items()}
    with pytest.raises(UserError, match=r"a bank of training images, .* without --average_with"):
        average.average_with(made.model, [folder])
    after = model_dir.arrays_of(made.model)["stats"]
    jax.tree.map(np.testing.assert_array_equal, after, before)
