"""Refinement sampling on prepared photos: a narrow ResNet-18, minutes on one core.

Trains: expressions only, from scratch. Every epoch pools up to 512 photos of each person and draws
500 of each class from the pool (Wasi et al., 2023). For every epoch, `metrics.jsonl` has a row with
split `epoch`: the number of examples of each class, and of different photos among them.
`--config.data.sampling=shuffle` shows every photo once instead.
Commands: python -m data_pipelines.prepare --dataset manifest --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/refine_faces.py --workdir runs/refine \\
              --config.data.data_dir=DATA
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return a narrow ResNet-18 at 64 px on the prepared data set `manifest`."""
    config = base.get_config()
    config.batch_size = 32
    config.num_steps = 1000
    config.log_every = 50
    config.eval_every = 125

    config.model = base.model("resnet18", width=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-4
    config.ema_decay = 0.99

    config.data.source = "tfds"
    config.data.dataset = "manifest"
    config.data.image_size = 64
    config.data.sampling = "refine"
    config.data.augment = "arbex_heavy"
    config.data.cache = "memory"

    config.checkpoint.every = 500
    config.checkpoint.best_metric = "balanced_accuracy"
    return config
