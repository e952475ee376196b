"""ViT-B/16 + SE (squeeze and excitation) on CK+: stage 2, 10 folds by person.

Trains: 7 expressions, from the weights of `vit_se_fer2013`: anger, disgust, fear, happy, sadness,
surprise, and neutral from onset frames.
Paper: Aouayeb et al., 2021; docs/vit_se.md lists what it leaves open.
Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset ck_plus --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --mode=crossval --config configs/vit_se_ckplus.py \\
              --workdir runs/vit_se_ckplus --config.data.data_dir=DATA \\
              --config.init_from=runs/vit_se_stage1
"""

from ml_collections import ConfigDict

from configs import vit_se_fer2013


def get_config() -> ConfigDict:
    """Return `vit_se_fer2013` on `ck_plus`."""
    config = vit_se_fer2013.get_config()
    config.data.dataset = "ck_plus"
    config.batch_size = 32
    config.num_epochs = 30.0
    # Validate every five epochs, six times per fold: an epoch has 30 steps, a checkpoint 1.4 GB.
    config.eval_every = 150
    config.checkpoint.every = 150
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_epochs = 3.0
    config.loss.class_weights = "none"
    config.data.crop = "auto"
    config.crossval.folds = 10
    # A fold has few images per class, and all of them count.
    config.eval.min_count = 1
    return config
