"""RALD on FG-Emotions: the paper's recipe as printed.

Trains: ResNet-18 from scratch with relations between images (ITRR), labels (HLRR, with the tree of
33 fine and 6 coarse classes) and both (LGIFO), and label disambiguation by 5 neighbours (NNLDL).
Paper: Liu et al., 2024, Table 1: accuracy 0.9734, the mean of class accuracies. Time: it needs a
GPU. Score: not trained here.
Commands: python -m data_pipelines.prepare --dataset fg_emotions --manual_dir FOLDER --data_dir DATA
          python -m affect_jax.main --config configs/rald_fg_emotions.py --workdir runs/rald \\
              --config.data.data_dir=DATA --config.model.relations.vectors=word2vec.bin

Without `vectors` the label vectors are drawn from the tree. The paper leaves open: image size,
normalisation, augmentation, momentum and weight decay. Its step decay multiplies the learning rate
by 0.005, in `rald_fg_emotions_decay` by the usual 0.1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the recipe of the paper; docs/rald.md lists what it leaves open."""
    config = base.get_config()
    config.system = "rald"
    config.batch_size = 128
    config.num_epochs = 300.0
    config.model = base.model(
        "resnet18",
        hierarchy="fg_emotions",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config.model.relations.enabled = True
    config.model.relations.hierarchy_bias = True

    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.01
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.step_epochs = 100.0
    config.optimizer.decay_factor = 0.005

    config.data.source = "tfds"
    config.data.dataset = "fg_emotions"
    config.data.image_size = 224
    config.data.augment = "none"
    config.data.augment_overrides.margin = 32 / 224  # random crop of 224 from 256
    config.data.augment_overrides.flip = 0.5
    config.checkpoint.best_metric = "balanced_accuracy"  # the mean of class accuracies
    # An epoch has about 50 steps. Validate and save every five.
    config.eval_every = 250
    config.checkpoint.every = 250
    return config
