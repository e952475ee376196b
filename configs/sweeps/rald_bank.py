"""RALD: accuracy by the size of the bank, on stored features.

Trains: all parts of RALD as `rald_ablation_features`, five seeds, and tests each run with banks of
several sizes. Attention that was trained on 128 images is diluted by a larger bank. Paper: Liu et
al., 2024, which compares with the test batch alone. Time: about 10 seconds per run on 2 CPU cores.
Results: docs/results/rald.md.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/rald_bank.py \
             --workdir runs/rald_bank --config.data.features=features.npz
"""

from typing import Any

from ml_collections import ConfigDict

from configs.sweeps import rald_ablation, rald_ablation_features

_SIZES = (33, 66, 264, 528, 1056)  # a multiple of the 33 classes


def get_config() -> ConfigDict:
    """Return the config that all runs share."""
    config = rald_ablation_features.get_config()
    config.eval.bank_sizes = _SIZES
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return two rows, with and without NNLDL, and a column for each size."""
    splits = ("test_self", *(f"test_bank{size}" for size in _SIZES), "test_batch")
    return {
        "title": "RALD: size of the bank, on features of a trained ResNet-18",
        "notes": f"accuracy is with the bank of {config.model.relations.bank_size} images that "
        f"goes with the model. {rald_ablation.NOTE}",
        "seeds": (0, 1, 2, 3, 4),
        "rows": {"all": {}, "g": rald_ablation.parts("g")},
        "columns": ("accuracy", *(f"{split}/accuracy" for split in splits)),
        "reference": "all",
    }
