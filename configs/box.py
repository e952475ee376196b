"""The model in the box: EmoFAN on photos and drawn faces, cropped as the detector finds them.

Trains: first the landmark trunk on drawn faces, then expressions on the photos of a manifest, and
valence, arousal and landmarks on its drawn faces (`data_pipelines.box_faces` makes it). Two more
runs go on from the first with heavier rare classes, and the mean of the three is exported:
docs/results/box.md has the commands. Paper: Toisoul et al., 2021. Time: 25, 17 and 22 minutes on 2
CPU cores. Score on 722 test photos: accuracy 0.741, balanced accuracy 0.662, ECE 0.050.
Command: python -m affect_jax.main --config configs/box.py --workdir runs/box1 \
             --config.data.manifest=box/box.csv
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
