"""The model in the box: EmoFAN on photos and synthetic faces, cropped as the detector finds them.

Trains: expressions on photos of a manifest whose boxes the detector found, valence, arousal and
landmarks on synthetic faces of the same manifest, after a start on synthetic landmarks. Validation
persons choose the checkpoint, and test persons are read once. Paper: Toisoul et al., 2021.
Command: python -m affect_jax.main --config configs/box.py --workdir runs/box \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import emofan_faces


def get_config() -> ConfigDict:
    """Return a small EmoFAN at 96 px for photos and synthetic faces together."""
    config = emofan_faces.get_config()
    config.batch_size = 64
    config.num_steps = 3000
    config.eval_every = 100
    config.loss.heatmap_weight = 400.0
    # The crop that the detector makes: its box with a little more around it.
    config.data.crop = "box"
    config.data.crop_scale = 1.15
    config.eval.calibrate = True
    return config
