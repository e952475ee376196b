"""RALD, Fig. 6: how many neighbours a prediction is drawn to, on stored features.

Trains: all parts of RALD with k neighbours, and without NNLDL ("g"), as `rald_ablation_features`;
five seeds per row. Paper: Liu et al., 2024: k = 5 is best, and larger k lose about 0.28 points.
Time: about 10 seconds per run on 2 CPU cores. Results: docs/results/rald.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/rald_neighbours.py \
             --workdir runs/rald_neighbours --config.data.features=features.npz
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import rald_ablation, rald_ablation_features

_NEIGHBOURS = (1, 3, 5, 9)


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    return rald_ablation_features.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return a row for each number of neighbours."""
    rows = {f"k{k}": {"loss.relations.neighbours": k} for k in _NEIGHBOURS}
    return {
        "title": "RALD: neighbours of NNLDL, on features of a trained ResNet-18",
        "notes": rald_ablation.NOTE,
        "seeds": (0, 1, 2, 3, 4),
        "rows": {"g": rald_ablation.parts("g"), **rows},
        "columns": rald_ablation.COLUMNS,
        "reference": "g",
    }
