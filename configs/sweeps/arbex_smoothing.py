"""ARBEx, Table 3: label smoothing and anchors, on synthetic faces with 20 % wrong labels.

Trains: the tiny ARBEx of `arbex_synthetic`, three seeds a row. Paper: Wasi et al., 2023.
Time: about 3 minutes a cell on one CPU core.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_smoothing.py \
             --workdir runs/arbex_smoothing
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import arbex_anchors

# Accuracy in percent: smoothing in percent -> anchors per class.
_PAPER = {
    0: {0: 68.92, 10: 71.25},
    5: {0: 69.16, 10: 71.89},
    11: {0: 69.18, 10: 72.48},
    20: {0: 67.50, 10: 71.13},
    30: {0: 61.75, 10: 63.58},
    50: {0: 50.88, 10: 51.71},
}


def get_config() -> ConfigDict:
    """What all cells have in common."""
    return arbex_anchors.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Rows: smoothing in percent and anchors per class."""
    cells = {f"s{s} K{k}": (s, k, a) for s, row in _PAPER.items() for k, a in row.items()}
    return {
        "title": "ARBEx: label smoothing and anchors, synthetic faces with 20 % wrong labels",
        "notes": arbex_anchors.NOTE,
        "seeds": (0, 1, 2),
        "rows": {
            name: {"loss.label_smoothing": s / 100, "model.reliability.anchors": k}
            for name, (s, k, _) in cells.items()
        },
        "columns": arbex_anchors.COLUMNS,
        "paper": {name: {"accuracy": a / 100} for name, (_, _, a) in cells.items()},
    }
