"""ResNet-50 on your own photos: the larger baseline of `resnet18_faces`.

Trains: expressions (and valence and arousal if the manifest has them) from scratch.
Paper: He et al., 2016. Time: about three times as long as ResNet-18. Score: not trained here.
Command: python -m affect_jax.main --config configs/resnet50_faces.py --workdir runs/resnet50 \\
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import resnet18_faces


def get_config() -> ConfigDict:
    """Return `resnet18_faces` with 50 layers."""
    config = resnet18_faces.get_config()
    config.model.name = "resnet50"
    return config
