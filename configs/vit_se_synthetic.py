"""ViT-Ti with squeeze and excitation on embedded synthetic faces, from scratch in minutes.

Trains: 8 expressions at 96 px with a ViT-Ti/16 of two blocks. Paper: Aouayeb et al., 2021.
Time: about 4 minutes on 2 idle CPU cores (estimated). Score: not measured yet.
Command: python -m affect_jax.main --config configs/vit_se_synthetic.py --workdir runs/vit_se

The two stages of the paper, first many faces of one camera, then 213 of another, cut into folds by
person, are configs/sweeps/vit_se_stages.py.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base


def get_config() -> ConfigDict:
    """A ViT-Ti/16 of 2 blocks, on faces that are aligned by their landmarks."""
    config = base.get_config()
    config.system = "classifier"
    config.batch_size = 32
    config.num_steps = 800
    config.log_every = 50
    config.eval_every = 400

    config.model = ConfigDict(
        dict(
            name="vit_ti16",  # vit_s16, vit_b16, vit_l16
            se=True,  # squeeze and excitation on the class token
            depth=2,  # blocks; 0: the published number, 12
            pool="token",  # token, mean
            regression=False,  # valence and arousal too
            drop_path=0.0,  # stochastic depth: rate of the last block
            dropout=0.0,
            remat=False,  # recompute blocks in the backward pass: less memory, more time
            attention="auto",  # auto (cuDNN for 16-bit types on a GPU), xla, cudnn
            reliability=placeholder(object),
            dtype="float32",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )
    )
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.ema_decay = 0.99

    config.data.source = "synthetic"
    config.data.synthetic.num_train = 8000
    config.data.synthetic.num_validation = 320
    config.data.synthetic.num_test = 640
    config.data.synthetic.render_size = 112
    config.data.synthetic.frames_per_video = 1
    config.data.image_size = 96
    # A few thousand pictures teach no network of patches to follow a face that moves.
    config.data.augment = "none"
    config.data.augment_overrides.flip = 0.5
    config.data.augment_overrides.brightness = 0.2
    config.data.augment_overrides.contrast = 0.2
    config.data.crop_scale = 1.4
    config.data.cache = "memory"
    config.checkpoint.every = 100
    config.checkpoint.best_metric = "accuracy"
    config.checkpoint.best_mode = "max"
    return config
