"""ARBEx, Table 2: wrong training labels and anchors, on synthetic faces.

Trains: the tiny ARBEx of `arbex_synthetic` with a share of the training labels replaced by another
class, three seeds a row. Paper: Wasi et al., 2023. Time: about 3 minutes a cell on 2 CPU cores.
`--config.sweep.rows="n20*"` is the comparison of 20 % noise alone.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_noise.py \
             --workdir runs/arbex_noise
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
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Rows: noise in percent and anchors per class."""
    cells = {f"n{n} K{k}": (n, k, a) for n, row in _PAPER.items() for k, a in row.items()}
    return {
        "title": "ARBEx: label noise and anchors, synthetic faces",
        "notes": NOTE,
        "seeds": (0, 1, 2),
        "rows": {
            name: {"data.synthetic.symmetric_noise": n / 100, "model.reliability.anchors": k}
            for name, (n, k, _) in cells.items()
        },
        "columns": COLUMNS,
        "paper": {name: {"accuracy": a / 100} for name, (_, _, a) in cells.items()},
    }
