"""{plain, refinement sampling} x {without, with balancing} on your own photos.

Trains: ResNet-18 of a quarter of the width at 48 px, three seeds a row; persons of the test split
are in no other. Time: 1 to 2 minutes a cell on 2 CPU cores. Results: docs/arbex.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_faces.py \
             --workdir runs/arbex_faces --config.data.manifest=PATH.csv
"""

from typing import Any

from ml_collections import ConfigDict

from configs import arbex_faces
from configs.sweeps import arbex_noise_resnet


def get_config() -> ConfigDict:
    """What all cells have in common."""
    config = arbex_faces.get_config()
    config.model = arbex_noise_resnet.get_config().model
    config.num_steps = 600
    config.eval_every = 100
    config.data.image_size = 48
    config.checkpoint.every = 100
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Rows: how pictures are drawn, with and without balancing."""
    plain, refine = {"data.sampling": "shuffle"}, {"data.sampling": "refine"}
    balancing = {"model.reliability": {"anchors": 10}}
    return {
        "title": "Refinement sampling and reliability balancing on photos",
        "seeds": (0, 1, 2),
        "rows": {
            "shuffle": plain,
            "refine": refine,
            "shuffle + balancing": plain | balancing,
            "refine + balancing": refine | balancing,
        },
        "columns": ("balanced_accuracy", "f1_macro", "ece", "accuracy", "accuracy_primary"),
        "reference": "shuffle",
    }
