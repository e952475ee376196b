"""RALD-L on AffectNet's 7 classes: relations without a label tree.

Trains: as `rald_l_rafdb`, on AffectNet without contempt, from its official training list;
validation persons are cut from it. Paper: Liu et al., 2024, Table 2, prints 0.6524. It
prints the split of FER-2013 for it (28,709 / 3,589 / 3,589), so the protocol is unknown: do not
compare with this figure. Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset affectnet --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/rald_l_affectnet7.py \\
              --workdir runs/rald_l_affectnet7 --config.data.data_dir=DATA \\
              --config.init_from=resnet18.pth --config.model.relations.vectors=word2vec.bin
"""

from ml_collections import ConfigDict

from configs import rald_l_rafdb


def get_config() -> ConfigDict:
    """Return `rald_l_rafdb` on `affectnet`, with balanced class weights."""
    config = rald_l_rafdb.get_config()
    config.num_epochs = 30.0
    config.data.dataset = "affectnet"
    config.data.classes = "affectnet7"
    # Neutral and happy are three quarters of the training list, a seventh each of the test list.
    config.loss.class_weights = "balanced"
    config.optimizer.step_epochs = 10.0
    # An epoch has about 2,200 steps.
    config.eval_every = 2000
    config.checkpoint.every = 2000
    return config
