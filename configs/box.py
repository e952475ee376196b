"""The model in the box: EmoFAN on photos and drawn faces, cropped as the detector finds them.

Trains: first the landmark trunk on drawn faces, then expressions on the photos of a manifest whose
boxes the detector found, and valence, arousal and landmarks on the drawn faces in the same
manifest. Validation persons choose the checkpoint, and test persons are not read. Paper: Toisoul
et al., 2021. Time: BOX_TIME. Score: BOX_SCORE; docs/results/box.md says how the manifest was made.
Command: python -m affect_jax.main --config configs/box.py --workdir runs/box \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import emofan_faces


def get_config() -> ConfigDict:
    """Return a small EmoFAN at 96 px for photos and drawn faces together."""
    config = emofan_faces.get_config()
    config.num_steps = 2200
    config.log_every = 20
    config.eval_every = 120
    config.checkpoint.every = 120
    config.landmark_stage.steps = 400
    config.loss.heatmap_weight = 100.0
    # The crop that the detector makes: its box with a little more around it.
    config.data.crop = "box"
    config.data.crop_scale = 1.15
    return config
