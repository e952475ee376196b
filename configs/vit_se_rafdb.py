"""ViT-B/16 with squeeze and excitation on RAF-DB: stage 2, its official split.

Trains: 7 expressions, from the weights of `vit_se_fer2013`. The aligned
images; validation persons are cut from the training list.
Paper: Aouayeb et al., 2021; what it leaves open is in docs/vit_se.md.
Time: meant for a GPU or more. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/vit_se_rafdb.py \\
              --workdir runs/vit_se_rafdb --config.data.data_dir=DATA \\
              --config.init_from=runs/vit_se_stage1
"""

from ml_collections import ConfigDict

from configs import vit_se_fer2013


def get_config() -> ConfigDict:
    """Return `vit_se_fer2013` on `raf_db`."""
    config = vit_se_fer2013.get_config()
    config.data.dataset = "raf_db"
    config.num_epochs = 20.0
    # Validate every two epochs, ten times in all: an epoch has 163 steps, a checkpoint 1.4 GB.
    config.eval_every = 326
    config.checkpoint.every = 326
    config.optimizer.learning_rate = 2e-4
    return config
