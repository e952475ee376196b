"""A run small enough for tests: a few synthetic faces, an EmoFAN that compiles in seconds."""

import os
import pathlib
import subprocess
import sys

import ml_collections

from affect_jax import config as config_lib
from tests import xla

ROOT = pathlib.Path(__file__).parents[2]

OVERRIDES = {
    "batch_size": 16,
    "num_steps": 8,
    "log_every": 1,
    "eval_every": 4,
    "checkpoint.every": 2,
    "landmark_stage.steps": 3,
    "model.width": 16,
    "model.depth": 1,
    "model.stacks": 1,
    "model.emotion_blocks": 1,
    "model.train_trunk": True,
    "loss.heatmap_weight": 1.0,
    "optimizer.warmup_steps": 2,
    "data.image_size": 32,
    "data.synthetic.render_size": 48,
    "data.synthetic.num_train": 64,
    "data.synthetic.num_validation": 40,
    "data.synthetic.num_test": 40,
    "eval.min_count": 1,
    "report.faces": 4,
}


def config(**changes: object) -> ml_collections.ConfigDict:
    """The quickstart, shrunk; `changes` are dotted keys with `__` for the dots."""
    tiny = config_lib.load_file(ROOT / "configs" / "quickstart.py")
    tiny.update_from_flattened_dict({**OVERRIDES, **_dotted(changes)})
    return tiny


def one_block(**changes: object) -> ml_collections.ConfigDict:
    """The same with a transformer of one block, which compiles in a moment, for what does not
    depend on the network; no landmarks."""
    tiny = config(landmark_stage__steps=0, loss__heatmap_weight=0.0, **changes)
    tiny.model = ml_collections.ConfigDict(
        {
            "name": "vit_ti16",
            "depth": 1,
            "regression": True,
            "dtype": "float32",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.2, 0.2, 0.2),
        }
    )
    return tiny


def start(
    workdir: pathlib.Path, *flags: str, file: str = "", devices: int = 1, **changes: object
) -> subprocess.Popen:
    """A run of `config`, or of a file, as a process of its own on some devices."""
    values = {**({} if file else OVERRIDES), **_dotted(changes)}
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "affect_jax.main", "--config", file or "configs/quickstart.py"]
        + ["--workdir", str(workdir), *flags]
        + [f"--config.{key}={value}" for key, value in values.items()],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def xla_flags(devices: int) -> str:
    """What makes a process of its own see virtual devices, and compile quickly."""
    return " ".join(xla.flags(devices))


def _dotted(changes: dict[str, object]) -> dict[str, object]:
    return {key.replace("__", "."): value for key, value in changes.items()}
