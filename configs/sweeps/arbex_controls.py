"""Limits of balancing: one setting changed at a time, with 20 % wrong labels.

Trains: `arbex_tiny` as in the 20 % rows of `arbex_noise`, three seeds per row. Rows: K = 10; with
sharper (delta 0.3) or softer (3) distances; without the centre loss, which binds each face to the
nearest anchor; with detached confidences; and with one anchor per class.
Paper: Wasi et al., 2023 (no such table). Time: about 6 minutes per run on one CPU core.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_controls.py \
             --workdir runs/arbex_controls
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import arbex_anchors


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = arbex_anchors.get_config()
    config.data.synthetic.symmetric_noise = 0.2
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows: what is changed."""
    rows = {
        "K10": {},
        "K10 delta 0.3": {"model.reliability.delta": 0.3},
        "K10 delta 3": {"model.reliability.delta": 3.0},
        "K10 no centre loss": {"loss.reliability.lambda_center": 0.0},
        "K10 detached": {"model.reliability.detach_confidence": True},
        "K1": {"model.reliability.anchors": 1},
    }
    return {
        "title": "ARBEx: one setting changed at a time, 20 % wrong labels, synthetic faces",
        "notes": arbex_anchors.NOTE,
        "seeds": (0, 1, 2),
        "rows": rows,
        "columns": arbex_anchors.COLUMNS,
        "reference": "K10",
    }
