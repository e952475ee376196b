"""Name table of torchvision's ResNet-18 checkpoints."""

from typing import Any

from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.released.spec import IMAGENET_MEAN, IMAGENET_STD, Arguments, Release, State

_BLOCK = {
    "conv1": "conv1",
    "bn1": "norm1",
    "conv2": "conv2",
    "bn2": "norm2",
    "downsample.0": "shortcut_conv",
    "downsample.1": "shortcut_norm",
}


def _infer(state: State) -> dict[str, Any]:
    if "layer1.0.conv3.weight" in state or "layer1.2.conv1.weight" in state:
        raise ValueError("it is a deeper ResNet: only ResNet-18 can be read")
    return {"n_expression": state["fc.weight"].shape[0], "width": state["conv1.weight"].shape[0]}


def _modules(arguments: Arguments) -> dict[str, str]:
    """Return the names of four stages of two blocks, the same for all sizes."""
    del arguments
    return {"conv1": "stem_conv", "bn1": "stem_norm", "fc": "head"} | {
        f"layer{stage + 1}.{i}.{theirs}": f"stages/{stage}/{i}/{ours}"
        for stage in range(4)
        for i in range(2)
        for theirs, ours in _BLOCK.items()
    }


RELEASES = (
    Release(
        architecture="resnet18",
        model="resnet18",
        infer=_infer,
        modules=_modules,
        # The shorter side at 256 pixels, the middle 224 of both.
        preprocessing=Preprocessing(
            image_size=224,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            crop="whole",
            fit="cover",
            margin=256 / 224 - 1,
        ),
        licence="torchvision: BSD-3-Clause",
        on_hubs=True,
    ),
)
