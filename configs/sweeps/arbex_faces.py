"""{plain, refinement sampling} x {without, with balancing} on your own photos.

Trains: the tiny ARBEx of `arbex_faces`, three seeds per row. All runs start from one network (the
stage "synthetic"), trained on synthetic faces without balancing, because the paper starts from
trained backbones. Test persons are in no other split. Paper: Wasi et al., 2023. Time: 6 minutes for
the stage, then about 3 minutes per run on one CPU core. Results: docs/results/arbex.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_faces.py \
             --workdir runs/arbex_faces --config.data.manifest=PATH.csv
"""

from typing import Any

from ml_collections import ConfigDict

from configs import arbex_faces, arbex_synthetic


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = arbex_faces.get_config()
    config.init_allow = ("reliability",)
    config.num_steps = 450
    config.eval_every = 225
    config.eval.calibrate = True
    config.checkpoint.every = 225
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: how images are sampled, with and without balancing."""
    plain, refine = {"data.sampling": "shuffle"}, {"data.sampling": "refine"}
    bare = {"model.reliability.enabled": False}
    start = arbex_synthetic.get_config()
    return {
        "title": "Refinement sampling and reliability balancing on photos",
        "seeds": (0, 1, 2),
        "stages": {
            "synthetic": bare
            | {key: start[key] for key in ("num_steps", "log_every", "eval_every")}
            | {key: start[key].to_dict() for key in ("optimizer", "data", "checkpoint")}
        },
        "shared": {"init_from": "stage:synthetic"},
        "rows": {
            "shuffle": plain | bare,
            "refine": refine | bare,
            "shuffle + balancing": plain,
            "refine + balancing": refine,
        },
        "columns": (
            "balanced_accuracy",
            "f1_macro",
            "ece",
            "test_temperature/ece",
            "test_mirror/accuracy",
            "test_mirror/ece",
            "accuracy",
            "accuracy_primary",
            "ece_primary",
            "confidence_primary",
            "confidence_corrected",
            "anchors_never_win",
        ),
        "reference": "shuffle",
        "contrasts": (
            ("shuffle + balancing", "shuffle"),
            ("refine + balancing", "refine"),
            ("refine", "shuffle"),
        ),
    }
