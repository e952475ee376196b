"""ViT-B/16 with squeeze and excitation on SFEW: stage 2, its official split.

Trains: 7 expressions on a few hundred film frames, from the weights of `vit_se_fer2013`.
Paper: Aouayeb et al., 2021; docs/vit_se.md lists what it leaves open.
Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset sfew --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/vit_se_sfew.py \\
              --workdir runs/vit_se_sfew --config.data.data_dir=DATA \\
              --config.init_from=runs/vit_se_stage1
"""

from ml_collections import ConfigDict

from configs import vit_se_fer2013


def get_config() -> ConfigDict:
    """Return `vit_se_fer2013` on `sfew`."""
    config = vit_se_fer2013.get_config()
    config.data.dataset = "sfew"
    config.batch_size = 32
    config.num_epochs = 30.0
    # Validate every five epochs, six times in all: an epoch has 24 steps, a checkpoint 1.4 GB.
    config.eval_every = 120
    config.checkpoint.every = 120
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_epochs = 3.0
    return config
