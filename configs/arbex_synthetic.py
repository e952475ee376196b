"""ARBEx on synthetic faces: a tiny network, optionally with wrong labels.

Trains: a tiny POSTER++ with a linear layer, a head, anchors and attention, on 8 expressions.
Paper: Wasi et al., 2023. Time: about 6 minutes of one CPU core. Score: accuracy 0.81 without
balancing and without wrong labels (a stage of `sweeps/arbex_faces`). Other scores:
docs/results/arbex.md.
Command: python -m affect_jax.main --config configs/arbex_synthetic.py --workdir runs/arbex \
             --config.model.reliability.anchors=10 --config.data.synthetic.symmetric_noise=0.2
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return `arbex_tiny` at 32 px."""
    config = base.get_config()
    config.system = "arbex"
    config.batch_size = 32
    config.num_steps = 800
    config.log_every = 50
    config.eval_every = 200

    config.model = base.model("arbex_tiny", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.loss.label_smoothing = 0.11
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.ema_decay = 0.98

    config.data.source = "synthetic"
    config.data.synthetic.num_train = 10000
    config.data.synthetic.num_validation = 320
    config.data.synthetic.num_test = 1024
    config.data.synthetic.render_size = 64
    config.data.synthetic.frames_per_video = 1
    config.data.image_size = 32
    # A transformer cannot learn shifted faces from a few thousand images.
    config.data.augment = "none"
    config.data.augment_overrides.flip = 0.5
    config.data.augment_overrides.brightness = 0.2
    config.data.augment_overrides.contrast = 0.2
    config.data.crop_scale = 1.2
    config.data.cache = "memory"
    config.checkpoint.every = 200
    config.checkpoint.best_metric = "accuracy"
    return config
