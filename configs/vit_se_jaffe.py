"""ViT-B/16 + SE (squeeze and excitation) on JAFFE: stage 2, one fold per person.

Trains: 7 expressions, from the weights of `vit_se_fer2013`. JAFFE has ten persons; each is the test
set of one fold.
Paper: Aouayeb et al., 2021; docs/vit_se.md lists what it leaves open.
Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset jaffe --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --mode=crossval --config configs/vit_se_jaffe.py \\
              --workdir runs/vit_se_jaffe --config.data.data_dir=DATA \\
              --config.init_from=runs/vit_se_stage1
"""

from ml_collections import ConfigDict

from configs import vit_se_ckplus


def get_config() -> ConfigDict:
    """Return `vit_se_ckplus` on `jaffe`."""
    config = vit_se_ckplus.get_config()
    config.data.dataset = "jaffe"
    # Validate every ten epochs, three times per fold: an epoch has 5 steps, a checkpoint 1.4 GB.
    config.eval_every = 50
    config.checkpoint.every = 50
    return config
