"""EmoFAN on AFEW-VA: valence and arousal, five folds by actor.

Trains: the whole network, from one trained on AffectNet, as in the paper. Give the run or model
directory of that network as --config.init_from, for example a converted emonet_8. Paper: Toisoul et
al., 2021 (valence CCC 0.69, arousal CCC 0.66). Time and score: not measured here, because the data
are available on application only.
Command: python -m affect_jax.main --mode=crossval --config configs/emofan_afewva.py \
             --workdir runs/emofan_afewva --config.data.data_dir=DATA --config.init_from=MODEL
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return EmoFAN at 256 px without expressions, which AFEW-VA does not have."""
    config = base.get_config()
    config.batch_size = 32
    config.num_epochs = 10.0
    config.model.train_trunk = True
    config.loss.categories = False
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.ema_decay = 0.999

    config.data.source = "tfds"
    config.data.dataset = "afew_va"
    config.data.image_size = 256
    config.crossval.protocol = "folds"
    config.crossval.folds = 5
    # A fraction of the actors that are not tested.
    config.data.validation_fraction = 0.1
    return config
