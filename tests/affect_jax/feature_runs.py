"""Runs on stored features, small enough for tests."""

import pathlib

import ml_collections

from affect_jax import config as config_lib
from tests.affect_jax import tiny


def config(features: str | pathlib.Path, **changes: object) -> ml_collections.ConfigDict:
    """The linear probe, shrunk; `changes` as in `tiny.config`."""
    made = config_lib.load_file(tiny.ROOT / "configs" / "linear_probe.py")
    small = {
        "data.features": str(features),
        "batch_size": 16,
        "num_steps": 20,
        "log_every": 1,
        "eval_every": 10,
        "checkpoint.every": 5,
        "optimizer.learning_rate": 0.02,
        "eval.min_count": 1,
        "report.pictures": False,
    }
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    made.update_from_flattened_dict({**small, **dotted})
    return made


def get_config() -> ml_collections.ConfigDict:
    """For processes of their own, which name the file on the command line."""
    return config("")
