"""EmoFAN on synthetic videos, on a frozen trunk; tested with smoothing too.

Trains: valence, arousal and 8 expressions on a frozen trunk. Train configs/fan_synthetic.py first.
Paper: Toisoul et al., 2021 (the last five outputs weighted .1 .1 .15 .25 .4).
Command: python -m affect_jax.main --config configs/emofan_video_synthetic.py \
             --workdir runs/emofan_video --config.init_from=runs/fan_synthetic
Figures: docs/landmarks.md.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return an EmoFAN on the trunk of `fan_synthetic`, and videos that change slowly."""
    config = base.get_config()
    config.batch_size = 32
    config.num_steps = 700
    config.log_every = 20
    config.eval_every = 175
    config.init_from = "runs/fan_synthetic"

    config.model.width = 48
    config.model.depth = 3
    config.model.stacks = 2
    config.model.emotion_blocks = 3
    config.model.decode = "centroid"
    config.model.train_trunk = False

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.ema_decay = 0.99

    config.data.source = "synthetic"
    config.data.synthetic.num_train = 12000
    config.data.synthetic.num_validation = 320
    config.data.synthetic.num_test = 1920
    config.data.synthetic.render_size = 96
    config.data.synthetic.frames_per_video = 8
    config.data.synthetic.videos_per_person = 1
    config.data.synthetic.frame_time = 0.1
    config.data.image_size = 64
    config.data.crop_scale = 1.4
    config.data.cache = "memory"
    config.eval.video = True
    config.checkpoint.every = 100
    return config
