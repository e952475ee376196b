"""Name tables of FAN (face-alignment) and EmoNet checkpoints."""

import re
from typing import Any

from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.released.spec import Arguments, Release, State, affectnet_classes
from data_pipelines.images import presets
from data_pipelines.landmarker import WINDOW_BOX, WINDOW_LIFT, WINDOW_SIDE

_BLOCK = {
    "bn1": "norm1",
    "conv1": "conv1",
    "bn2": "norm2",
    "conv2": "conv2",
    "bn3": "norm3",
    "conv3": "conv3",
    "downsample.0": "shortcut_norm",
    "downsample.2": "shortcut_conv",
}
_HOURGLASS = {"b1": "skip", "b2": "down", "b3": "up"}
_STACK = {
    "conv_last": "conv",
    "bn_end": "norm",
    "l": "heatmaps",
    "bl": "feature_bridge",
    "al": "heatmap_bridge",
}


def _block(official: str, ours: str) -> dict[str, str]:
    return {f"{official}.{theirs}": f"{ours}/{name}" for theirs, name in _BLOCK.items()}


def fan_modules(arguments: Arguments, root: str = "") -> dict[str, str]:
    """Return official name -> our path for a FAN that lies at `root` in our model."""
    table = {"conv1": f"{root}stem_conv", "bn1": f"{root}stem_norm"}
    for number in (1, 2, 3):
        table |= _block(f"conv{number + 1}", f"{root}stem_block{number}")
    for i in range(arguments["stacks"]):
        stack = f"{root}stacks/{i}"
        level_path = f"{stack}/hourglass"
        for level in range(arguments["depth"], 0, -1):  # the outermost has the highest number
            for theirs, ours in _HOURGLASS.items():
                table |= _block(f"m{i}.{theirs}_{level}", f"{level_path}/{ours}")
            level_path += "/inner"
        table |= _block(f"m{i}.b2_plus_1", level_path)
        table |= _block(f"top_m_{i}", f"{stack}/block")
        table |= {f"{theirs}{i}": f"{stack}/{ours}" for theirs, ours in _STACK.items()}
    return table


def emonet_modules(arguments: Arguments) -> dict[str, str]:
    """Return official name -> our path for EmoNet (`fan` and `emotion`)."""
    table = fan_modules(arguments, root="fan/")
    table["conv1x1_input_emo_2"] = "emotion/project"
    for i in range(arguments["emotion_blocks"]):
        # A pooling layer follows each block and takes the odd numbers.
        table |= _block(f"emo_net_2.{2 * i}", f"emotion/blocks/{i}")
    return table | {
        "emo_fc_2.0": "emotion/hidden",
        "emo_fc_2.1": "emotion/norm",
        "emo_fc_2.3": "emotion/output",
    }


def _infer_fan(state: State) -> dict[str, Any]:
    landmarks, width = state["l0.weight"].shape[:2]
    return {
        "width": width,
        "depth": max(_numbers(r"m0\.b1_(\d+)\.bn1\.weight", state), default=0),
        "stacks": len(_numbers(r"l(\d+)\.weight", state)),
        "landmarks": landmarks,
    }


def _infer_emonet(state: State) -> dict[str, Any]:
    trunk = _infer_fan(state)
    in_features = state["conv1x1_input_emo_2.weight"].shape[1]
    return {
        **trunk,
        "n_expression": state["emo_fc_2.3.weight"].shape[0] - 2,
        "attention": in_features == trunk["width"] * (1 + trunk["stacks"]),
        "emotion_blocks": len(_numbers(r"emo_net_2\.(\d+)\.bn1\.weight", state)),
        "pool": "max",
    }


def _numbers(pattern: str, state: State) -> list[int]:
    matches = (re.fullmatch(pattern, name) for name in state)
    return [int(match[1]) for match in matches if match]


RELEASES = (
    Release(
        architecture="emonet",
        model="emofan",
        infer=_infer_emonet,
        modules=emonet_modules,
        preprocessing=Preprocessing(image_size=256, crop_scale=presets.PRESETS["emofan"].box_scale),
        licence="EmoNet weights: CC BY-NC-ND 4.0",
        class_names=affectnet_classes,
    ),
    Release(
        architecture="fan",
        model="fan",
        infer=lambda state: {**_infer_fan(state), "pool": "avg"},
        modules=fan_modules,
        # Its window around a detected face; landmarks do not come before it.
        preprocessing=Preprocessing(
            image_size=256,
            face_scale=2 * WINDOW_SIDE / WINDOW_BOX,
            face_shift=(0.0, -WINDOW_LIFT),
        ),
        licence="face-alignment: BSD-3-Clause",
    ),
)
