"""RALD, Table 3, on stored features: the parts one by one, in seconds per run.

Trains: the parts of RALD on features of a trained ResNet-18, which stays as it is; five seeds per
row. Paper: Liu et al., 2024. Time: about 10 seconds per run on 2 CPU cores. Results:
docs/results/rald.md.
Commands: python -m affect_jax.main --config configs/rald_synthetic.py --workdir runs/resnet18 \
              --config.model.relations.enabled=False
          python -m affect_jax.main --mode=eval --config configs/rald_synthetic.py \
              --workdir runs/resnet18 --config.eval.features=features.npz
          python -m affect_jax.main --mode=sweep --config configs/sweeps/rald_ablation_features.py \
              --workdir runs/rald_features --config.data.features=features.npz
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base, rald_synthetic
from configs.sweeps import rald_ablation


def get_config() -> ConfigDict:
    """Return `rald_synthetic` on stored features."""
    config = rald_synthetic.get_config()
    relations = config.model.relations
    config.model = base.model("features", hierarchy="fg_emotions")
    config.model.relations.update(relations)
    config.num_steps = 600
    config.eval_every = 200
    config.checkpoint.every = 600
    config.data.source = "features"
    config.data.votes = "ignore"  # learn the drawn labels, not the true mixtures
    config.report.pictures = False
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return the rows of `rald_ablation`, with five seeds."""
    return {
        **rald_ablation.get_sweep(config),
        "title": "RALD: its parts, on features of a trained ResNet-18",
        "seeds": (0, 1, 2, 3, 4),
    }
