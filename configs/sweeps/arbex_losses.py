"""ARBEx, Table 4 and Fig. 7: weight of the anchor loss, five mixes of the losses.

Trains: the tiny ARBEx of `arbex_synthetic` with the paper's label smoothing of 0.11, three seeds
per row. The losses are as in the paper (`variant="paper"`, unbounded); the last row has the
bounded ones. `report/curves.png` is Fig. 7. Paper: Wasi et al., 2023. Time: about 6 minutes per run
on one CPU core. Not run here.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_losses.py \
             --workdir runs/arbex_losses
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import arbex_anchors

# The paper gives multiples of its own weight, but not the weight itself.
_ANCHOR, _CENTER = 0.01, 0.01
_COLUMNS = ("accuracy", "precision_macro", "balanced_accuracy", "f1_macro", "ece")
_PAPER = {  # accuracy, precision, recall, F1, in percent
    "anchor x1 (ideal)": (89.6, 90.7, 89.1, 89.4),
    "anchor x100": (47.9, 41.3, 47.0, 38.7),
    "anchor x0.01": (82.3, 80.5, 81.1, 80.5),
    "anchor x0": (88.5, 87.3, 90.3, 88.4),
}


def _row(anchor: float, center: float, **changes: Any) -> dict[str, Any]:
    return {
        "loss.reliability.lambda_anchor": anchor * _ANCHOR,
        "loss.reliability.lambda_center": center * _CENTER,
        **changes,
    }


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = arbex_anchors.get_config()
    config.loss.label_smoothing = 0.11
    config.loss.reliability.variant = "paper"
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: Table 4, then the other mixes of Fig. 7."""
    return {
        "title": "ARBEx: loss mixes, synthetic faces",
        "notes": arbex_anchors.NOTE
        + " Table 4 is on another scale than the other tables of the paper. Recall is balanced "
        "accuracy.",
        "seeds": (0, 1, 2),
        "rows": {
            "anchor x1 (ideal)": _row(1, 1),
            "anchor x100": _row(100, 1),
            "anchor x0.01": _row(0.01, 1),
            "anchor x0": _row(0, 1),
            "anchor dominant": _row(1000, 10),
            "cross-entropy dominant": _row(0.1, 0.1),
            "cross-entropy only": _row(0, 0),
            "no correction by anchors": _row(0, 0, **{"model.reliability.anchors": 0}),
            "bounded": {
                "loss.reliability.variant": "bounded",
                "loss.reliability.lambda_anchor": 0.1,
                "loss.reliability.lambda_center": 1.0,
            },
        },
        "columns": _COLUMNS,
        "curves": ("accuracy", "loss"),
        "reference": "anchor x1 (ideal)",
        "paper": {
            name: dict(
                zip(
                    ("accuracy", "precision_macro", "balanced_accuracy", "f1_macro"),
                    (x / 100 for x in row),
                    strict=True,
                )
            )
            for name, row in _PAPER.items()
        },
    }
