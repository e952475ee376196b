"""EmoFAN on synthetic faces degraded like photos: a start for training on photos.

Trains: landmarks, expressions, valence and arousal together, on faces framed like photos that show
one face, with every augmentation. Paper: Toisoul et al., 2021. Time: about 10 minutes on 2 CPU
cores. Score: accuracy 0.92 on synthetic persons; on photos, see docs/results/synthetic.md.
Command: python -m affect_jax.main --config configs/emofan_synthetic.py \
             --workdir runs/emofan_synthetic
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """Return a larger quickstart that transfers to photos."""
    config = quickstart.small()
    config.num_steps = 1700
    config.eval_every = 500
    config.model.width = 48
    config.landmark_stage.steps = 300
    config.loss.heatmap_weight = 1000.0
    config.loss.label_smoothing = 0.05
    config.optimizer.weight_decay = 1e-4

    config.data.synthetic.num_train = 24000
    config.data.crop_scale = 1.65
    config.data.augment = "emofan"
    augment = config.data.augment_overrides
    augment.brightness = augment.contrast = augment.saturation = 0.4
    augment.hue = 0.05
    augment.grey = 0.4
    augment.blur = 0.3
    augment.blur_sigma = 1.5
    augment.noise = 0.3
    augment.jpeg = 0.3
    augment.erase = 0.3
    augment.erase_area = 0.15
    return config
