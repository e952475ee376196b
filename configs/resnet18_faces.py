"""ResNet-18, the baseline of EmoFAN, on the same photos and in the same loop.

Trains: expressions (and valence and arousal if the manifest has them) from scratch.
Paper: Toisoul et al., 2021, Table 5. Time: 10 minutes on 2 CPU cores for 1,300 photos (estimated).
Score on 722 test photos, three seeds: accuracy 0.653, macro F1 0.581 (see README.md).
Command: python -m affect_jax.main --config configs/resnet18_faces.py --workdir runs/resnet18 \
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import base, emofan_faces


def get_config() -> ConfigDict:
    """Return ResNet-18 of full width on the data and splits of `emofan_faces`."""
    config = emofan_faces.get_config()
    config.landmark_stage.steps = 0
    config.num_steps = 800
    config.model = base.model(
        "resnet18", regression=True, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    # One cycle: a long rise and a long fall.
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup_steps = 240
    config.data.augment_overrides.scale = 0.2
    config.data.augment_overrides.saturation = 0.25
    # Rare classes have few of the 209 validation photos, where likelihood is the stabler measure.
    config.checkpoint.best_metric = "loss"
    return config
