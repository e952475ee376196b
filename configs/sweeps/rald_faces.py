"""RALD-L and its baseline ResNet-18 on your own photos, with three seeds each.

Trains: `resnet18_faces` on expressions alone, and `rald_faces`, which differs in the relations
only. Paper: Liu et al., 2024, Table 2 (other data). Time for 1,300 training photos: 10 minutes per
run on 2 CPU cores (estimated). Results: docs/results/rald.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/rald_faces.py \
             --workdir runs/rald_faces --config.data.manifest=PATH.csv
"""

from typing import Any

from ml_collections import ConfigDict

from configs import rald_faces
from configs.sweeps import rald_ablation


def get_config() -> ConfigDict:
    """Return the config of RALD-L."""
    return rald_faces.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return two rows, with and without relations."""
    return {
        "title": "Expressions on photos: RALD-L",
        "seeds": (0, 1, 2),
        "rows": {"ResNet-18": rald_ablation.parts("a"), "RALD-L": {}},
        "columns": (
            *("accuracy", "balanced_accuracy", "f1_macro", "nll", "ece"),
            *("test_self/accuracy", "test_batch/accuracy"),
        ),
        "reference": "ResNet-18",
    }
