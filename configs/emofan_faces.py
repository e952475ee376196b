"""EmoFAN on your own photos: a CSV or JSONL manifest, or one folder per class.

Trains: first the landmark trunk on synthetic faces, because photos rarely have landmarks; then the
whole network on expressions, and on valence and arousal if the manifest has them. Validation
persons choose the checkpoint, and test persons are read once. Time for 1,300 training photos: 25 to
40 minutes on 2 CPU cores. Score on 722 test photos: accuracy 0.72, macro F1 0.64 (see README.md).
Paper: Toisoul et al., 2021.
Command: python -m affect_jax.main --config configs/emofan_faces.py --workdir runs/emofan_faces \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return a small EmoFAN at 96 px for a few thousand photos."""
    config = base.get_config()
    config.batch_size = 32
    config.num_steps = 1900
    config.log_every = 10

    config.model.width = 64
    config.model.depth = 3
    config.model.stacks = 1
    config.model.emotion_blocks = 3

    config.landmark_stage.steps = 500
    config.landmark_stage.data = "synthetic"
    config.landmark_stage.learning_rate = 2e-3
    config.data.synthetic.num_train = 16000

    config.loss.label_smoothing = 0.1
    config.loss.class_weights = "sqrt_balanced"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-4
    config.ema_decay = 0.99

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
    return config
