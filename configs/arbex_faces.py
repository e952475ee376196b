"""ARBEx on your own photos: a tiny network, from a CSV or JSONL manifest.

Trains: expressions, from scratch. Each epoch pools up to 512 photos of each person and draws 500 of
each class from the pool; `--config.data.sampling=shuffle` shows every photo once instead. Test
persons are in no other split. Paper: Wasi et al., 2023. Time: about 6 minutes of one CPU core
(estimated). Score: see docs/results/arbex.md.
Command: python -m affect_jax.main --config configs/arbex_faces.py --workdir runs/arbex_faces \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import arbex_synthetic, base


def get_config() -> ConfigDict:
    """Return `arbex_synthetic` with heavy augmentation and refinement, on a manifest."""
    config = arbex_synthetic.get_config()
    config.num_steps = 1000
    config.eval_every = 125
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4

    config.data.source = "manifest"
    config.data.crop_scale = 0.0
    config.data.augment = "arbex_heavy"
    config.data.augment_overrides = base.get_config().data.augment_overrides
    config.data.sampling = "refine"
    config.data.refine.per_group = 512
    config.data.refine.per_class = 500

    config.checkpoint.every = 125
    config.checkpoint.best_metric = "balanced_accuracy"
    return config
