"""ARBEx, Table 1: number of anchors per class, on synthetic faces.

Trains: the tiny ARBEx of `arbex_synthetic` without label smoothing and without wrong labels, as in
the table, three seeds per row. Paper: Wasi et al., 2023. Time: about 6 minutes per run on one CPU
core. `--config.sweep.rows=K0,K10` trains only the two most important rows.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/arbex_anchors.py \
             --workdir runs/arbex_anchors
"""

from typing import Any

from ml_collections import ConfigDict

from configs import arbex_synthetic

COLUMNS = (
    "accuracy",
    "f1_macro",
    "ece",
    "nll",
    # Baselines that a correction has to beat.
    "test_temperature/ece",
    "test_temperature/nll",
    "test_mirror/accuracy",
    "test_mirror/ece",
    "accuracy_primary",
    "accuracy_corrected",
    "ece_primary",
    "confidence_primary",
    "confidence_corrected",
    "correction_better",
    "correction_worse",
    "anchors_never_win",
)
NOTE = (
    "The paper's numbers are of Aff-Wild2 at full size. Compare only differences between rows, "
    "not the numbers."
)
# Accuracy on Aff-Wild2 without anchors, and the differences with anchors.
_PAPER_WITHOUT = 0.6892
_PAPER_GAIN = {1: 1.82, 2: 2.03, 3: 2.11, 4: 2.19, 5: 2.24, 6: 2.26, 8: 2.29, 10: 2.29, 20: 0.51}


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = arbex_synthetic.get_config()
    config.num_steps = 1000
    config.eval_every = 125
    # Tables 1 and 2 have smoothing 0: the first column of Table 3 has the same values.
    config.loss.label_smoothing = 0.0
    # Few faces, seen 16 times: the network memorises labels, which balancing should prevent.
    config.data.synthetic.num_train = 2000
    config.eval.calibrate = True
    config.checkpoint.every = 250
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return a row for each number of anchors; with 0, only attention corrects."""
    counts = (0, *_PAPER_GAIN)
    return {
        "title": "ARBEx: anchors per class, synthetic faces",
        "notes": NOTE,
        "seeds": (0, 1, 2),
        "rows": {f"K{k}": {"model.reliability.anchors": k} for k in counts},
        "columns": COLUMNS,
        "reference": "K0",
        "curves": ("accuracy",),
        "paper": {
            f"K{k}": {"accuracy": _PAPER_WITHOUT + _PAPER_GAIN.get(k, 0) / 100} for k in counts
        },
    }
