"""ARBEx, Table 2: wrong training labels and anchors, on synthetic faces.

Trains: the tiny ARBEx of `arbex_synthetic` with a share of the training labels replaced by another
class, three seeds a row; "bare" is the network without balancing, which the paper does not show,
"detached" has no gradient through confidences.
Paper: Wasi et al., 2023. Time: about 3 minutes a cell on one CPU core. Score with 20 % wrong
labels: accuracy 0.561 bare, 0.540 with K = 0, 0.509 with K = 10, see docs/arbex.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_noise.py \
             --workdir runs/arbex_noise --config.sweep.rows="n20 bare,n20 K0,n20 K10"
Without `--config.sweep.rows` it is the whole table.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import arbex_synthetic
from configs.sweeps.arbex_anchors import COLUMNS, NOTE

# Accuracy in percent: noise in percent -> anchors per class.
_PAPER = {
    0: {0: 68.92, 1: 70.74, 5: 71.16, 10: 71.25},
    10: {0: 67.70, 1: 70.02, 5: 70.44, 10: 70.53},
    20: {0: 54.99, 1: 59.81, 5: 60.23, 10: 60.33},
    30: {0: 41.18, 1: 44.00, 5: 44.42, 10: 44.51},
    40: {0: 34.12, 1: 35.94, 5: 36.36, 10: 36.45},
}


def get_config() -> ConfigDict:
    """What all cells have in common."""
    config = arbex_synthetic.get_config()
    config.num_steps = 400
    config.data.synthetic.num_train = 6000
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Rows: noise in percent and anchors per class."""
    rows, paper, contrasts = {}, {}, []
    for noise, by_anchors in _PAPER.items():
        wrong = {"data.synthetic.symmetric_noise": noise / 100}
        rows[f"n{noise} bare"] = wrong | {"model.reliability": None}
        for anchors, accuracy in by_anchors.items():
            name = f"n{noise} K{anchors}"
            rows[name] = wrong | {"model.reliability.anchors": anchors}
            paper[name] = {"accuracy": accuracy / 100}
        rows[f"n{noise} K10 detached"] = rows[f"n{noise} K10"] | {
            "model.reliability.detach_confidence": True
        }
        contrasts += [
            (f"n{noise} K10", f"n{noise} K0"),
            (f"n{noise} K10", f"n{noise} bare"),
            (f"n{noise} K0", f"n{noise} bare"),
        ]
    return {
        "title": "ARBEx: label noise and anchors, synthetic faces",
        "notes": NOTE,
        "seeds": (0, 1, 2),
        "rows": rows,
        "columns": COLUMNS,
        "contrasts": tuple(contrasts),
        "paper": paper,
    }
