"""RALD-L on your own photos: ResNet-18 with relations, from scratch.

Trains: expressions, with relations between images, labels and both, and NNLDL; the recipe and the
data of `resnet18_faces`, its baseline. Paper: Liu et al., 2024, Table 2. Time: as
`resnet18_faces`. Score on 722 test photos,
three seeds: accuracy 0.582, macro F1 0.511 (docs/results/rald.md).
Command: python -m affect_jax.main --config configs/rald_faces.py --workdir runs/rald_faces \\
             --config.data.manifest=PATH.csv
"""

from ml_collections import ConfigDict

from configs import base, resnet18_faces


def get_config() -> ConfigDict:
    """Return `resnet18_faces` with relations; the image blocks keep their input."""
    config = resnet18_faces.get_config()
    config.system = "rald"
    config.model = base.model("resnet18", mean=config.model.mean, std=config.model.std)
    config.model.relations.enabled = True
    # As printed, the network behind the attention hardly trains in 800 steps of 32 photos.
    config.model.relations.normalise = True
    config.model.relations.residual = True
    config.model.relations.bank_size = 32  # as many as in a training batch
    return config
