"""ARBEx on synthetic faces: correction by anchors, attention, both, or none.

Trains: the tiny ARBEx of `arbex_synthetic` with 20 % wrong labels, three seeds per row. "bare" is
the network without balancing and its losses. `accuracy_primary` and `ece_primary` are measured
before the correction. Time: about 6 minutes per run on one CPU core. Paper: Wasi et al., 2023,
which has no such table.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_correction.py \
             --workdir runs/arbex_correction
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
    """Return the rows: ways of correction, and two variants of both together."""
    correction = "model.reliability.correction"
    return {
        "title": "ARBEx: ways of correction, synthetic faces with 20 % wrong labels",
        "seeds": (0, 1, 2),
        "rows": {
            "bare": {"model.reliability.enabled": False},
            "off": {correction: "off"},
            "geometric": {correction: "geometric"},
            "attentive": {correction: "attentive"},
            "both": {correction: "both"},
            "both detached": {
                correction: "both",
                "model.reliability.detach_confidence": True,
            },
            "trust": {correction: "trust", "model.reliability.ramp_steps": config.num_steps},
        },
        "columns": arbex_anchors.COLUMNS,
        "reference": "bare",
    }
