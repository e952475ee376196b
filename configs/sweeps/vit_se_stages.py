"""Two-stage training and squeeze and excitation on a small synthetic set.

Trains: ViT-Ti/16 of 4 blocks at 96 px on 213 faces of 10 persons (as many as in JAFFE), in five
folds of unseen persons. The rows are with and without squeeze and excitation, from scratch and from
stage 1: 24,000 faces of other persons. Stage 1 is trained once, without squeeze and excitation,
which starts fresh in stage 2.
Paper: Aouayeb et al., 2021. Time: 31 minutes for stage 1, then 4 minutes per row, on one busy CPU
core. Pooled accuracy: 0.329, with squeeze and excitation 0.324; from stage 1 0.366 and 0.390. See
docs/results/vit_se.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/vit_se_stages.py \\
             --workdir runs/vit_se_stages
"""

from typing import Any

from ml_collections import ConfigDict

from configs import vit_se_synthetic

_STAGE_2 = {
    "num_steps": 200,
    "eval_every": 50,
    "checkpoint.every": 100,
    "checkpoint.keep": 1,
    "optimizer.learning_rate": 3e-4,
    "optimizer.warmup_steps": 20,
    "data.synthetic.seed": 1,
    "data.synthetic.num_train": 213,
    "data.synthetic.videos_per_person": 22,
}


def get_config() -> ConfigDict:
    """Return the config of stage 1."""
    config = vit_se_synthetic.get_config()
    config.crossval.folds = 5
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return four rows, one seed."""
    staged = {"init_from": "stage:ViT"}
    return {
        "title": "213 faces of 10 persons, 5 folds of unseen persons",
        "seeds": (0,),
        "cell": "crossval",
        "stages": {"ViT": {"model.se": False}},
        "shared": _STAGE_2,
        "rows": {
            "ViT": {"model.se": False},
            "ViT + SE": {"model.se": True},
            "stage 1 + ViT": {"model.se": False, **staged},
            "stage 1 + ViT + SE": {"model.se": True, "init_allow": ("se",), **staged},
        },
        "columns": (
            "accuracy",
            "balanced_accuracy",
            "f1_macro",
            "fold_mean/accuracy",
            "fold_sd/accuracy",
        ),
        "reference": "ViT",
        "contrasts": (("ViT + SE", "ViT"), ("stage 1 + ViT + SE", "stage 1 + ViT")),
    }
