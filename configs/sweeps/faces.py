"""EmoFAN and its baseline ResNet-18 on your own photos, with three seeds each.

Trains: `emofan_faces` and `resnet18_faces` unchanged, three seeds each. Test persons are in no
other split. Paper: Toisoul et al., 2021, Table 5. Time for 1,300 training photos: 20 minutes
(ResNet-18, estimated) and 35 minutes (EmoFAN) per run on 2 CPU cores.
Command: python -m affect_jax.main --mode=sweep --config configs/sweeps/faces.py \
             --workdir runs/faces --config.data.manifest=PATH.csv
"""

from typing import Any

from ml_collections import ConfigDict

from affect_jax.config import flatten
from configs import emofan_faces, resnet18_faces


def get_config() -> ConfigDict:
    """Return the config of EmoFAN."""
    return emofan_faces.get_config()


def get_sweep(config: ConfigDict) -> dict[str, Any]:
    """Return one row per config; the command line can change their common fields."""
    before, after = (flatten(c.get_config()) for c in (emofan_faces, resnet18_faces))
    changes = {
        key: value
        for key, value in after.items()
        if not key.startswith("model.") and value != before[key]
    }
    changes["model"] = resnet18_faces.get_config().model.to_dict()
    return {
        "title": "Expressions on photos",
        "seeds": (0, 1, 2),
        "rows": {"ResNet-18": changes, "EmoFAN": {}},
        "columns": ("accuracy", "balanced_accuracy", "f1_macro", "nll", "ece"),
        "reference": "ResNet-18",
    }
