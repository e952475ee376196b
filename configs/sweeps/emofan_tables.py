"""EmoFAN's ablations (Tables 5 and 6) on synthetic faces with 15 % wrong labels.

Trains: one landmark trunk and one teacher, then eleven rows with three seeds each, most of them on
the frozen trunk. The networks are small, at 64 px. Paper: Toisoul et al., 2021. Time: an hour on
one CPU core, or half an hour on two if the command is started twice. Results:
docs/results/emofan.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/emofan_tables.py \
             --workdir runs/emofan_tables
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base, fan_synthetic, quickstart

_COLUMNS = ("accuracy", "valence_rmse", "valence_ccc", "arousal_rmse", "arousal_ccc")
# Accuracy, valence RMSE and CCC, arousal RMSE and CCC, on AffectNet.
_PAPER = {
    "ResNet-18 R": (None, 0.37, 0.69, 0.34, 0.60),
    "ResNet-18 R+C": (0.59, 0.37, 0.70, 0.33, 0.62),
    "R": (None, 0.38, 0.70, 0.34, 0.62),
    "R+C": (0.60, 0.36, 0.71, 0.33, 0.64),
    "R+C (MSE)": (0.59, 0.34, 0.68, 0.30, 0.59),
    "R+C+S": (0.61, 0.34, 0.72, 0.31, 0.64),
    "R+C+A": (0.60, 0.35, 0.72, 0.33, 0.64),
    "R+C+A+D": (0.62, 0.34, 0.72, 0.31, 0.64),
    "R+C+A+S": (0.60, 0.35, 0.72, 0.31, 0.64),
    "R+C+A+S+D": (0.62, 0.33, 0.73, 0.30, 0.65),
}


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = quickstart.small()
    config.num_steps = 250
    config.eval_every = 100_000  # only at the end
    config.log_every = 20
    config.landmark_stage.steps = 0
    config.model.width = 32
    # As in the paper: the trunk learns landmarks, and is frozen under the emotion branch.
    config.model.train_trunk = False
    config.loss.heatmap_weight = 0.0

    config.optimizer.warmup_steps = 20

    config.data.synthetic.num_train = 4000
    config.data.synthetic.num_validation = 256
    config.data.synthetic.num_test = 1024
    config.data.synthetic.symmetric_noise = 0.15
    config.eval.flip = False
    config.checkpoint.every = 200
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows of the tables.

    R: regression, C: categories, A: attention, S: shake-shake, D: distillation.
    """
    only, attention, shake = (
        {"loss.categories": False},
        {"model.attention": True},
        {"loss.regression": "shake_shake"},
    )
    distilled = {"loss.teacher": "stage:teacher", "loss.distillation_weight": 0.5}
    resnet = {
        "model": base.model("resnet18", regression=True, width=16).to_dict(),
        "init_from": "",
    }
    fan = fan_synthetic.get_config().model.to_dict() | {
        "width": config.model.width,
        "depth": config.model.depth,
        "stacks": config.model.stacks,
    }
    trunk = {"init_from": "stage:trunk"}
    return {
        "title": "EmoFAN's ablations on synthetic faces with 15 % wrong labels",
        "notes": "The paper's numbers are of AffectNet. Compare only differences between rows, "
        "not the numbers.",
        "seeds": (0, 1, 2),
        "stages": {
            "trunk": {"system": "fan", "model": fan, "num_steps": 400},
            # Its own seed, so that no student starts from the initial weights of its teacher.
            "teacher": {**trunk, "loss.regression": "ccc", "seed": 1000, "num_steps": 400},
        },
        # Rows without S use the CCC loss, as in the paper.
        "shared": {**trunk, "model.attention": False, "loss.regression": "ccc"},
        "rows": {
            "ResNet-18 R": resnet | only,
            "ResNet-18 R+C": resnet,
            "R": only,
            "R+C": {},
            "R+C (MSE)": {"loss.regression": "mse"},
            "R+C+S": shake,
            "R+C+A": attention,
            "R+C+A+D": attention | distilled,
            "R+C+A+S": attention | shake,
            "R+C+A+S+D": attention | shake | distilled,
            # Not in the paper: the trunk keeps training, on landmarks too, as in the quickstart.
            "R+C+A trained trunk": attention
            | {"model.train_trunk": True, "loss.heatmap_weight": 300.0},
        },
        "columns": _COLUMNS,
        "reference": "R+C",
        "contrasts": (
            ("R+C", "R"),
            ("ResNet-18 R+C", "ResNet-18 R"),
            ("R+C+A", "R+C"),
            ("R+C+A+D", "R+C+A"),
            ("R+C+A+S", "R+C+A"),
            ("R+C+A+S+D", "R+C+A"),
            ("R+C+S", "R+C (MSE)"),
            ("R+C+A trained trunk", "R+C+A"),
            ("R+C+A trained trunk", "ResNet-18 R+C"),
        ),
        "paper": {
            row: {c: x for c, x in zip(_COLUMNS, numbers, strict=True) if x is not None}
            for row, numbers in _PAPER.items()
        },
    }
