"""Two-stage training and squeeze and excitation on a small set, all of it synthetic.

Trains: ViT-Ti/16 of 2 blocks at 96 px on 213 faces of 10 persons (as many as JAFFE has), five
folds of unseen persons, with and without squeeze and excitation, from scratch and from stage 1:
many faces of other persons, seen by another camera.
Paper: Aouayeb et al., 2021. Time: 30 minutes on one CPU core (estimated).
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/vit_se_stages.py \\
             --workdir runs/vit_se_stages
"""

from typing import Any

from ml_collections import ConfigDict

from configs import vit_se_synthetic

_STAGE_1 = {
    "num_steps": 700,
    "eval_every": 350,
    "checkpoint.every": 100,
    "data.synthetic.domain": "b",
    "data.synthetic.seed": 1,
    "data.synthetic.num_train": 8000,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 100,
}


def get_config() -> ConfigDict:
    """Stage 2: what all rows have in common."""
    config = vit_se_synthetic.get_config()
    config.num_steps = 80
    config.eval_every = 40
    config.checkpoint.every = 40
    config.checkpoint.keep = 1
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 10
    config.data.synthetic.num_train = 213
    config.data.synthetic.videos_per_person = 21
    config.crossval.folds = 5
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Four rows, one seed."""
    return {
        "title": "213 faces of 10 persons, 5 folds of unseen persons",
        "seeds": (0,),
        "cell": "crossval",
        "stages": {
            "ViT": {**_STAGE_1, "model.se": False},
            "ViT + SE": {**_STAGE_1, "model.se": True},
        },
        "rows": {
            "ViT": {"model.se": False},
            "ViT + SE": {"model.se": True},
            "stage 1 + ViT": {"model.se": False, "init_from": "stage:ViT"},
            "stage 1 + ViT + SE": {"model.se": True, "init_from": "stage:ViT + SE"},
        },
        "columns": ("accuracy", "balanced_accuracy", "f1_macro"),
        "reference": "ViT",
    }
