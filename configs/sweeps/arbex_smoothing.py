"""ARBEx, Table 3: label smoothing and anchors, on synthetic faces.

Trains: the tiny ARBEx of `arbex_synthetic`, three seeds per row. Paper: Wasi et al., 2023.
Time: about 6 minutes per run on one CPU core. Not run here.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_smoothing.py \
             --workdir runs/arbex_smoothing --config.sweep.rows="s0 K0,s0 K10,s11 K0,s11 K10"
Without `--config.sweep.rows` it trains the whole table: 12 terms by 11 numbers of anchors.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import arbex_anchors

_SMOOTHING = (0, 5, 10, 11, 15, 18, 20, 25, 30, 35, 40, 50)  # percent
_PAPER = {  # anchors per class -> accuracy in percent at each term
    0: (68.92, 69.16, 69.18, 69.18, 69.03, 68.64, 67.5, 64.27, 61.75, 59.34, 55.83, 50.88),
    1: (70.74, 71.38, 71.94, 71.97, 71.46, 70.68, 70.62, 67.59, 63.07, 60.66, 56.15, 51.2),
    2: (70.95, 71.59, 72.15, 72.18, 71.67, 70.89, 70.83, 67.8, 63.28, 60.87, 56.36, 51.41),
    3: (71.03, 71.67, 72.23, 72.26, 71.75, 70.97, 70.91, 67.88, 63.36, 60.95, 56.44, 51.49),
    4: (71.11, 71.75, 72.31, 72.34, 71.83, 71.05, 70.99, 67.96, 63.44, 61.03, 56.52, 51.57),
    5: (71.16, 71.8, 72.36, 72.39, 71.88, 71.1, 71.04, 67.01, 63.49, 61.08, 56.57, 51.62),
    6: (71.18, 71.82, 72.38, 72.41, 71.9, 71.12, 71.06, 67.03, 63.51, 61.1, 56.59, 51.64),
    7: (71.21, 71.85, 72.41, 72.44, 71.93, 71.15, 71.09, 67.06, 63.54, 61.13, 56.62, 51.67),
    8: (71.24, 71.86, 72.44, 72.47, 71.96, 71.18, 71.12, 67.09, 63.57, 61.16, 56.65, 51.7),
    9: (71.24, 71.88, 72.44, 72.47, 71.96, 71.18, 71.12, 67.09, 63.57, 61.16, 56.65, 51.7),
    10: (71.25, 71.89, 72.45, 72.48, 71.97, 71.19, 71.13, 67.1, 63.58, 61.17, 56.66, 51.71),
}


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    return arbex_anchors.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: smoothing in percent and anchors per class."""
    rows, paper = {}, {}
    for anchors, line in _PAPER.items():
        for term, accuracy in zip(_SMOOTHING, line, strict=True):
            name = f"s{term} K{anchors}"
            rows[name] = {
                "loss.label_smoothing": term / 100,
                "model.reliability.anchors": anchors,
            }
            paper[name] = {"accuracy": accuracy / 100}
    return {
        "title": "ARBEx: label smoothing and anchors, synthetic faces",
        "notes": arbex_anchors.NOTE,
        "seeds": (0, 1, 2),
        "rows": rows,
        "columns": arbex_anchors.COLUMNS,
        "paper": paper,
        "grid": {
            "column": "accuracy",
            "corner": "smoothing",
            "across": [f"{term} %" for term in _SMOOTHING],
            "lines": {f"K = {k}": [f"s{t} K{k}" for t in _SMOOTHING] for k in _PAPER},
        },
    }
