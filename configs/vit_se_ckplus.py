"""ViT-B/16 + SE (squeeze and excitation) on CK+: stage 2, 10 folds by person.

Trains: 7 expressions, from the weights of `vit_se_fer2013`. Anger, disgust,
fear, happy, sadness, surprise and, from onset frames, neutral.
Paper: Aouayeb et al., 2021; what it leaves open is in docs/vit_se.md.
Time: meant for a GPU or more. Score: not trained here.
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
    # An epoch is 30 steps and a checkpoint 1.4 GB: every five epochs, six in each fold.
    config.eval_every = 150
    config.checkpoint.every = 150
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_epochs = 3.0
    config.loss.class_weights = "none"
    config.data.crop = "auto"
    config.crossval.folds = 10
    # A fold has few images of a class, and all of them count.
    config.eval.min_count = 1
    return config
