"""EmoFAN on your own photos: a CSV or JSONL manifest, or a folder with one folder a class.

Trains: expressions (and valence, arousal, landmarks where the manifest has them), all layers from
scratch; the model is chosen on held-out persons and the test persons are read once.
Paper: Toisoul et al., 2021.
Command: python -m affect_jax.main --config configs/emofan_faces.py --workdir runs/emofan_faces \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """A small EmoFAN at 96 px for a few thousand photos."""
    config = base.get_config()
    config.batch_size = 32
    config.num_epochs = 45.0
    config.log_every = 10

    config.model.width = 64
    config.model.depth = 3
    config.model.stacks = 1
    config.model.emotion_blocks = 3

    config.loss.label_smoothing = 0.1
    config.loss.class_weights = "sqrt_balanced"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.weight_decay = 1e-4
    config.ema_decay = 0.999

    config.data.source = "manifest"
    config.data.image_size = 96
    config.data.cache = "memory"
    config.data.augment_overrides.brightness = 0.25
    config.data.augment_overrides.contrast = 0.25
    config.data.augment_overrides.grey = 0.3
    config.data.augment_overrides.erase = 0.3
    config.data.augment_overrides.erase_area = 0.15

    config.checkpoint.every = 100
    config.checkpoint.best_metric = "f1_macro"
    config.checkpoint.best_mode = "max"
    return config
