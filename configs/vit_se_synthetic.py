"""ViT-Ti/16 with squeeze and excitation on embedded synthetic faces, from scratch.

Trains: 8 expressions at 96 px on grey, tightly cut faces of about 48 px, as FER-2013 has them, with
4 of the 12 blocks. Paper: Aouayeb et al., 2021.
Time: 31 minutes of one busy CPU core. Score on 640 test persons, without squeeze and excitation
(stage 1 of the sweep below): accuracy 0.347, macro F1 0.322; chance is 0.125. See
docs/results/vit_se.md.
Command: python -m affect_jax.main --config configs/vit_se_synthetic.py --workdir runs/vit_se

configs/sweeps/vit_se_stages.py has the two stages of the paper: first many faces, then folds of 213
faces of other persons.
"""

from ml_collections import ConfigDict

from configs import base, quickstart


def get_config() -> ConfigDict:
    """Return `vit_se_fer2013` with a third of the depth, on the quickstart's faces."""
    config = base.get_config()
    config.system = "vit_se"
    config.batch_size = 16
    config.num_steps = 6000
    config.log_every = 50
    config.eval_every = 1000

    config.model = base.model(
        "vit_ti16", se=True, depth=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
    config.ema_decay = 0.99

    config.data = quickstart.small().data
    config.data.image_size = 96
    config.data.synthetic.num_train = 24000
    config.data.augment_overrides.grey = 0.5
    config.data.augment_overrides.brightness = 0.2
    config.data.augment_overrides.contrast = 0.2
    config.checkpoint.every = 1000
    config.checkpoint.best_metric = "accuracy"
    return config
