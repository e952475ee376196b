"""RALD-L on RAF-DB: relations without a label tree, for 7 coarse classes.

Trains: ResNet-18 with relations between images, labels and both, and NNLDL, on the official split;
validation persons are cut from the training list. Paper: Liu et al., 2024, Table 2: accuracy
0.9058. Time: it needs a GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset raf_db --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/rald_l_rafdb.py --workdir runs/rald_l_rafdb \\
              --config.data.data_dir=DATA --config.init_from=resnet18.pth \\
              --config.model.relations.vectors=word2vec.bin

The paper states its training for FG-Emotions alone and no pretraining for RAF-DB; both are taken
over from `rald_fg_emotions` here. Leave out `init_from` to train from scratch.
"""

from ml_collections import ConfigDict

from configs import rald_fg_emotions


def get_config() -> ConfigDict:
    """Return `rald_fg_emotions` without the tree, on `raf_db`."""
    config = rald_fg_emotions.get_config()
    config.model.hierarchy = ""
    config.model.relations.hierarchy_bias = False
    config.data.dataset = "raf_db"
    config.checkpoint.best_metric = "accuracy"  # of the paper's Table 2
    # An epoch has about 87 steps. Validate and save every five.
    config.eval_every = 435
    config.checkpoint.every = 435
    return config
