"""Name table of torchvision's ResNet-18 checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from affect_jax.weights.model_dir import Preprocessing
from affect_jax.weights.released.spec import Released

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_BLOCK = {
    "conv1": "conv1",
    "bn1": "norm1",
    "conv2": "conv2",
    "bn2": "norm2",
    "downsample.0": "shortcut_conv",
    "downsample.1": "shortcut_norm",
}


def _infer(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "layer1.0.conv3.weight" in state or "layer1.2.conv1.weight" in state:
        raise ValueError("it is a deeper ResNet: only ResNet-18 can be read")
    return {"n_expression": state["fc.weight"].shape[0], "width": state["conv1.weight"].shape[0]}


def resnet18_modules(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Names of ResNet-18: four stages of two blocks."""
    del arguments  # the names do not depend on the sizes
    table = {"conv1": "stem_conv", "bn1": "stem_norm", "fc": "head"}
    for stage in range(4):
        for i in range(2):
            for theirs, ours in _BLOCK.items():
                table[f"layer{stage + 1}.{i}.{theirs}"] = f"stages/{stage}/{i}/{ours}"
    return table


RELEASES = (
    Released(
        architecture="resnet18",
        model="resnet18",
        infer=_infer,
        modules=resnet18_modules,
        preprocessing=Preprocessing(image_size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        licence="torchvision: BSD-3-Clause",
        on_hubs=True,
    ),
)
