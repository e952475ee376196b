"""The model in the box: EmoFAN on photos and synthetic faces, cropped as the detector finds them.

Trains: expressions on photos of a manifest whose boxes the detector found, valence, arousal and
landmarks on synthetic faces of the same manifest. Validation persons choose the checkpoint, and
test persons are read once. Paper: Toisoul et al., 2021.
Command: python -m affect_jax.main --config configs/box.py --workdir runs/box \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import emofan_faces


def get_config() -> ConfigDict:
    """Return a small EmoFAN at 96 px for photos and synthetic faces together."""
    config = emofan_faces.get_config()
    config.batch_size = 128
    config.num_steps = 2000
    config.eval_every = 250
    config.checkpoint.every = 250
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.warmup_steps = 100
    config.ema_decay = 0.998
    # Landmarks of the synthetic faces are learnt with the rest, not before it.
    config.landmark_stage.steps = 0
    config.loss.heatmap_weight = 400.0
    # The crop that the detector makes: its box with a little more around it.
    config.data.crop = "box"
    config.data.crop_scale = 1.15
    config.eval.calibrate = True
    return config
