"""RALD on FG-Emotions with the usual step decay: the learning rate times 0.1 every 100 epochs.

Trains: as `rald_fg_emotions`, whose paper prints a factor of 0.005. Paper: Liu et al., 2024, Table
1: accuracy 0.9734, the mean of class accuracies. Time: it needs a GPU. Score: not trained here.
Command: python -m affect_jax.main --config configs/rald_fg_emotions_decay.py \\
             --workdir runs/rald_decay --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import rald_fg_emotions


def get_config() -> ConfigDict:
    """Return `rald_fg_emotions` with another decay."""
    config = rald_fg_emotions.get_config()
    config.optimizer.decay_factor = 0.1
    return config
