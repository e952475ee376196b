"""Random search over the optimizer's settings, in the ranges of the EmoFAN paper.

Trains: the network of the quickstart with 20 draws of learning rate (1e-4 to 1e-2, logarithmic),
weight decay (0 to 0.01), beta1 and beta2 (0 to 0.999). Its landmark trunk is trained once, before.
Draws are ranked on validation persons. Test scores are shown for the best draw only.
Paper: Toisoul et al., 2021. Time: each draw about as long as the quickstart (estimated; not run).
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/emofan_random.py \
             --workdir runs/emofan_random
"""

from typing import Any

from ml_collections import ConfigDict

from configs import fan_synthetic, quickstart


def get_config() -> ConfigDict:
    """Return the quickstart without its landmark stage, which is a stage of the sweep."""
    config = quickstart.small()
    config.num_steps = 1050
    config.landmark_stage.steps = 0
    config.optimizer.name = "adam"
    config.checkpoint.keep = 1
    return config


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return twenty draws, one seed."""
    fan = fan_synthetic.get_config().model.to_dict() | {
        "width": config.model.width,
        "depth": config.model.depth,
        "stacks": config.model.stacks,
    }
    return {
        "title": "Random search for EmoFAN's optimizer",
        "seeds": (0,),
        "stages": {"trunk": {"system": "fan", "model": fan, "num_steps": 250}},
        "shared": {"init_from": "stage:trunk"},
        "random": {
            "draws": 20,
            "seed": 0,
            "ranges": {
                "optimizer.learning_rate": ("log", 1e-4, 1e-2),
                "optimizer.weight_decay": ("uniform", 0.0, 0.01),
                "optimizer.b1": ("uniform", 0.0, 0.999),
                "optimizer.b2": ("uniform", 0.0, 0.999),
            },
        },
        "columns": ("validation/accuracy", "validation/valence_ccc", "validation/arousal_ccc"),
        "rank_by": "validation/loss",
    }
