"""Balancing against 20 % wrong labels, on a narrow ResNet-18, in minutes.

Trains: ResNet-18 of a quarter of the width on 2,000 synthetic faces at 48 px, three seeds per row:
without balancing, with attention alone (K0), with ten anchors per class (K10). Paper: Wasi et al.,
2023, Table 2 (on ARBEx, as in `arbex_noise`). Time: about 1 minute per run on 2 CPU cores. No
complete sweep has been run here.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_noise_resnet.py \
             --workdir runs/arbex_noise_resnet
"""

from typing import Any

from ml_collections import ConfigDict

from configs import arbex_synthetic, base
from configs.sweeps.arbex_anchors import NOTE

COLUMNS = (
    "accuracy",
    "f1_macro",
    "nll",
    "ece",
    "accuracy_primary",
    "ece_primary",
    "correction_better",
    "correction_worse",
    "anchors_never_win",
)


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = arbex_synthetic.get_config()
    config.num_steps = 500
    config.eval_every = 125
    config.model = base.model("resnet18", width=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.loss.label_smoothing = 0.0  # as in the paper's table
    config.optimizer.learning_rate = 2e-3
    config.data.augment = "emofan"
    config.data.image_size = 48
    config.data.synthetic.num_train = 2000
    config.data.synthetic.render_size = 64
    config.data.synthetic.symmetric_noise = 0.2
    config.checkpoint.every = 125
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: without balancing, and anchors per class."""
    return {
        "title": "Reliability balancing on ResNet-18, synthetic faces with 20 % wrong labels",
        "notes": NOTE,
        "seeds": (0, 1, 2),
        "rows": {
            "none": {},
            "K0": {"model.reliability.enabled": True, "model.reliability.anchors": 0},
            "K10": {"model.reliability.enabled": True, "model.reliability.anchors": 10},
        },
        "columns": COLUMNS,
        "reference": "K0",
        "paper": {"K0": {"accuracy": 0.5499}, "K10": {"accuracy": 0.6033}},
    }
