"""RALD on synthetic fine-grained faces: the whole system, without any data files.

Trains: ResNet-18 of quarter width with relations between images and labels and with NNLDL, on 33
fine expressions below 6 coarse ones. Faces show mixtures of neighbouring expressions, and training
labels are drawn from them. Paper: Liu et al., 2024. Time: 5 minutes on 2 CPU cores. Score,
one seed: balanced accuracy 0.44 (docs/results/rald.md). The run ends in a table of contexts.
Command: python -m affect_jax.main --config configs/rald_synthetic.py --workdir runs/rald
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return RALD at 48 px; the image blocks keep their input (`residual`)."""
    config = base.get_config()
    config.system = "rald"
    config.batch_size = 128
    config.num_steps = 600
    config.log_every = 20
    config.eval_every = 150

    config.model = base.model(
        "resnet18", width=16, hierarchy="fg_emotions", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    config.model.relations.enabled = True
    config.model.relations.hierarchy_bias = True
    config.model.relations.normalise = True
    config.model.relations.residual = True
    config.model.relations.bank_size = 132  # 4 of each class

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.ema_decay = 0.99

    config.data.source = "synthetic"
    config.data.synthetic.classes = "fg_emotions"
    config.data.synthetic.ambiguity = 0.3
    config.data.synthetic.num_train = 16000
    config.data.synthetic.num_validation = 660
    config.data.synthetic.num_test = 2000
    config.data.synthetic.render_size = 96
    config.data.synthetic.frames_per_video = 1
    config.data.image_size = 48
    config.data.crop_scale = 1.2
    config.data.augment = "none"
    config.data.augment_overrides.flip = 0.5
    config.data.cache = "memory"
    config.checkpoint.every = 150
    config.checkpoint.best_metric = "loss"
    return config
