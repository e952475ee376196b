"""ARBEx, Table 2: wrong training labels and anchors, on synthetic faces.

Trains: the tiny ARBEx of `arbex_synthetic` without label smoothing, as in the table, three seeds
per row. The paper does not define its noise. Here a fraction of the training labels is replaced by
another class. "bare" is the network without balancing, which the paper does not show. "detached"
has no gradient through the confidences.
Paper: Wasi et al., 2023. Time: about 6 minutes per run on one CPU core. Results:
docs/results/arbex.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_noise.py \
             --workdir runs/arbex_noise \
             --config.sweep.rows="n0 bare,n0 K0,n0 K10,n20 bare,n20 K0,n20 K10"
Without `--config.sweep.rows` it trains the whole table: 10 fractions by 11 numbers of anchors.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import arbex_anchors

_NOISE = (0, 5, 10, 15, 20, 25, 30, 35, 40, 50)  # percent
_PAPER = {  # anchors per class -> accuracy in percent at each noise
    0: (68.92, 68.41, 67.7, 63.69, 54.99, 50.36, 41.18, 36.94, 34.12, 30.92),
    1: (70.74, 70.52, 70.02, 66.51, 59.81, 51.18, 44, 37.76, 35.94, 33.79),
    2: (70.95, 70.61, 70.23, 66.72, 60.02, 51.39, 44.21, 37.97, 36.15, 34),
    3: (71.03, 70.64, 70.31, 66.8, 60.1, 51.47, 44.29, 38.05, 36.23, 34.08),
    4: (71.11, 70.65, 70.39, 66.88, 60.18, 51.55, 44.37, 38.13, 36.31, 34.16),
    5: (71.16, 70.7, 70.44, 66.93, 60.23, 51.6, 44.42, 38.18, 36.36, 34.21),
    6: (71.18, 70.71, 70.46, 66.95, 60.25, 51.62, 44.44, 38.2, 36.38, 34.23),
    7: (71.21, 70.71, 70.49, 66.98, 60.28, 51.65, 44.47, 38.23, 36.41, 34.26),
    8: (71.24, 70.72, 70.52, 67.01, 60.31, 51.66, 44.49, 38.26, 36.43, 34.29),
    9: (71.24, 70.73, 70.52, 67.01, 60.32, 51.68, 44.5, 38.26, 36.44, 34.29),
    10: (71.25, 70.73, 70.53, 67.02, 60.33, 51.69, 44.51, 38.27, 36.45, 34.3),
}


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    return arbex_anchors.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: noise in percent and anchors per class."""
    rows, paper, contrasts = {}, {}, []
    for i, noise in enumerate(_NOISE):
        wrong = {"data.synthetic.symmetric_noise": noise / 100}
        rows[f"n{noise} bare"] = wrong | {"model.reliability.enabled": False}
        for anchors, accuracy in _PAPER.items():
            name = f"n{noise} K{anchors}"
            rows[name] = wrong | {"model.reliability.anchors": anchors}
            paper[name] = {"accuracy": accuracy[i] / 100}
        rows[f"n{noise} K10 detached"] = rows[f"n{noise} K10"] | {
            "model.reliability.detach_confidence": True
        }
        contrasts += [
            (f"n{noise} K10", f"n{noise} K0"),
            (f"n{noise} K10", f"n{noise} bare"),
            (f"n{noise} K0", f"n{noise} bare"),
            (f"n{noise} K10 detached", f"n{noise} bare"),
        ]
    lines = {"bare": [f"n{n} bare" for n in _NOISE]}
    lines |= {f"K = {k}": [f"n{n} K{k}" for n in _NOISE] for k in _PAPER}
    return {
        "title": "ARBEx: wrong labels and anchors, synthetic faces",
        "notes": arbex_anchors.NOTE
        + " The paper does not define its noise: wrong labels are this project's reading.",
        "seeds": (0, 1, 2),
        "rows": rows,
        "columns": arbex_anchors.COLUMNS,
        "contrasts": tuple(contrasts),
        "paper": paper,
        "grid": {
            "column": "accuracy",
            "corner": "noise",
            "across": [f"{n} %" for n in _NOISE],
            "lines": lines,
        },
    }
