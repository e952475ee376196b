"""FAN on synthetic faces: 68 landmarks, without any data files.

Trains: heatmap regression with a loss on every stack. A small EmoFAN has the same trunk (with max
pooling) and can start from this run with --config.init_from; see docs/landmarks.md.
Paper: Bulat and Tzimiropoulos, ICCV 2017. Half of the steps (--config.num_steps=300) took 4 minutes
of one CPU core. On unseen persons the NME was then 0.043 (0.027 by the box).
Command: python -m affect_jax.main --config configs/fan_synthetic.py --workdir runs/fan_synthetic
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return a small FAN at 64 px."""
    config = base.get_config()
    config.system = "fan"
    config.batch_size = 32
    config.num_steps = 600
    config.log_every = 20
    config.eval_every = 150
    # pool "max" as in the trunk of EmoFAN; the stand-alone FAN of the paper has "avg".
    config.model = base.model("fan", width=48, depth=3, stacks=2, pool="max", decode="centroid")

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.ema_decay = 0.99

    config.data.source = "synthetic"
    config.data.synthetic.num_train = 16000
    config.data.synthetic.num_validation = 320
    config.data.synthetic.num_test = 640
    config.data.synthetic.render_size = 96
    config.data.synthetic.frames_per_video = 1
    config.data.image_size = 64
    config.data.crop_scale = 1.4
    config.data.cache = "memory"
    config.checkpoint.every = 100
    config.checkpoint.best_metric = "nme"
    return config
