"""EmoFAN on synthetic faces: the whole pipeline, without any data files.

Trains: the landmark trunk on heatmaps, then landmarks, valence, arousal and 8 expressions together.
Paper: Toisoul et al., 2021. Time: about 4 minutes on 2 CPU cores. Score on the test persons, mean
of five seeds (`sweeps/quickstart_seeds.py`): accuracy 0.95, CCC 0.92 (valence) and 0.93 (arousal),
NME 0.049. Worst values: 0.93, 0.90, 0.92 and 0.050.
Command: python -m affect_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return a small EmoFAN at 64 px."""
    config = small()
    # Small batches give more updates in a few minutes.
    config.batch_size = 16
    config.num_steps = 3000
    config.log_every = 40
    config.eval_every = 1500
    config.landmark_stage.steps = 400
    config.landmark_stage.learning_rate = 3e-3
    config.optimizer.learning_rate = 3e-3
    config.ema_decay = 0.995
    config.checkpoint.every = 400
    # Crop the middle of the image, with the face anywhere in it. Crops around the landmarks would
    # be aligned, and a linear model of their pixels classifies two thirds of them.
    config.data.crop = "whole"
    config.data.augment_overrides.margin = 0.28
    config.data.augment_overrides.random_crop = False
    return config


def small() -> ConfigDict:
    """Return an easier config, on tightly cropped faces, for studies of few steps."""
    config = base.get_config()
    config.batch_size = 32
    config.num_steps = 1400
    config.log_every = 20
    config.eval_every = 700

    config.model.width = 32
    config.model.depth = 3
    config.model.stacks = 1
    config.model.emotion_blocks = 3
    config.model.decode = "centroid"

    # A short start on landmarks alone, then all losses together. The emotion branch needs features
    # that keep training, and heatmaps show landmarks only as long as they are supervised.
    config.landmark_stage.steps = 250
    config.landmark_stage.learning_rate = 2e-3
    config.loss.heatmap_weight = 400.0

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.ema_decay = 0.99

    config.data.source = "synthetic"
    config.data.synthetic.num_train = 12000
    config.data.synthetic.num_validation = 320
    config.data.synthetic.num_test = 640
    config.data.synthetic.render_size = 96
    config.data.synthetic.frames_per_video = 1
    config.data.image_size = 64
    config.data.crop_scale = 1.15
    # Each face is seen three or four times. Stronger augmentation would need more steps.
    config.data.augment = "none"
    config.data.augment_overrides.flip = 0.5
    config.data.cache = "memory"
    config.checkpoint.every = 200
    return config
