"""FAN on 300W-LP, tested on AFLW2000-3D: the face-alignment network at full size.

Trains: heatmap regression at 256 px on the 68 points of 300W-LP, with a loss on each of 4 stacks.
The error on held-out training photos chooses the checkpoint. Prepare the data first:
    python -m data_pipelines.prepare --dataset landmarks_300w/300w_lp --manual_dir YOUR_FILES \
        --data_dir DATA
Paper: Bulat and Tzimiropoulos, ICCV 2017 (40 epochs, RMSprop, 2.5e-4 falling to 1e-5; here Adam).
Time and score: not measured here; it needs accelerators.
Command: python -m affect_jax.main --config configs/fan_300w.py --workdir runs/fan_300w \
             --config.data.data_dir=DATA
For the trunk of EmoFAN, add --config.model.stacks=2 --config.model.pool=max.
To train on 300W instead, add --config.data.dataset=landmarks_300w/300w.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the published network."""
    config = base.get_config()
    config.system = "fan"
    config.batch_size = 64
    config.num_epochs = 40.0
    config.log_every = 50
    # The trunk of EmoFAN has 2 stacks and pool "max".
    config.model = base.model("fan", decode="centroid", dtype="bfloat16")

    config.optimizer.learning_rate = 2.5e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 500
    config.ema_decay = 0.999

    config.data.source = "tfds"
    config.data.dataset = "landmarks_300w/300w_lp"
    config.data.validation_fraction = 0.03
    config.data.image_size = 256
    config.data.augment_overrides.rotation = 50.0
    config.data.augment_overrides.scale = 0.2
    config.data.augment_overrides.brightness = 0.3
    config.data.augment_overrides.contrast = 0.3
    config.data.augment_overrides.saturation = 0.3
    config.data.augment_overrides.grey = 0.1
    config.data.augment_overrides.blur = 0.2
    config.data.augment_overrides.erase = 0.3
    config.checkpoint.every = 1000
    config.checkpoint.best_metric = "nme"
    return config
