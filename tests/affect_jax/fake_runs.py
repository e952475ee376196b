"""A substitute for training in tests of many runs: writes the files of a finished run."""

import pathlib

import ml_collections
import numpy as np

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.evaluation import predictions

CLASSES = ("neutral", "happy", "sad")


def finish(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, accuracy: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """Write a finished run with three classes and ten test images; return its predictions."""
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    config_lib.claim_workdir(workdir, config)
    steps = config.num_steps
    with runtime.MetricWriter(workdir) as writer:
        writer.write(steps // 2, "validation", {"accuracy": accuracy - 0.2, "loss": 1.5})
        writer.write(steps, "validation", {"accuracy": accuracy - 0.1, "loss": 1 - accuracy})
        writer.write(steps, "test_flip", {"valence_ccc": accuracy})
        writer.write(steps, "test", {"checkpoint": steps, "accuracy": accuracy}, final=True)
    random = np.random.default_rng(seed)
    outputs = {
        "index": np.arange(10),
        "expression": random.integers(0, 3, 10).astype(np.int32),
        "logits": random.normal(size=(10, 3)).astype(np.float32),
        "valence_arousal": random.uniform(-1, 1, (10, 2)).astype(np.float32),
        "valence": random.uniform(-1, 1, 10).astype(np.float32),
        "arousal": random.uniform(-1, 1, 10).astype(np.float32),
    }
    stored = predictions.gather(outputs, CLASSES, [f"image {seed}/{i}" for i in range(10)])
    (workdir / "report").mkdir(exist_ok=True)
    predictions.save(workdir / "report", stored)
    return stored
