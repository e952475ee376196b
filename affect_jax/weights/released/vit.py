"""Name tables of vision transformers: timm, Hugging Face, and the original JAX .npz files.

The last two are first rewritten with timm's names and PyTorch's layouts. An entry that is not
recognised keeps its name, so that it is reported under the one it has in the file.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from affect_jax.models.vit import PATCH, SIZES
from affect_jax.weights.model_dir import Preprocessing
from affect_jax.weights.released.resnet import IMAGENET_MEAN, IMAGENET_STD
from affect_jax.weights.released.spec import Clues, Normalisation, Released

State = Mapping[str, np.ndarray]

_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/out",
    "norm2": "norm2",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}
_PROJECTIONS = ("query", "key", "value")

_HUGGING_FACE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}
_HUGGING_FACE_BLOCK = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_JAX = {
    "cls": "cls_token",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "embedding": "patch_embed.proj",
    "Transformer/encoder_norm": "norm",
    "head": "head",
}
_JAX_BLOCK = {
    "LayerNorm_0": "norm1",
    "MultiHeadDotProductAttention_1/out": "attn.proj",
    "LayerNorm_2": "norm2",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
}
_JAX_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_DISTILLED = ("dist_token", "distillation_token")
_HALF = ((0.5,) * 3, (0.5,) * 3)
_NAMED = {
    "augreg|in21k|imagenet21k|google": _HALF,
    "deit|dino|mae|moco|ibot|msn": (IMAGENET_MEAN, IMAGENET_STD),
}
# Part of the file, but not of a classifier: the tanh layer that language models pool with.
_HUGGING_FACE_UNUSED = ("pooler.",)


def timm_names(state: State) -> dict[str, np.ndarray]:
    """The entries under timm's names, in PyTorch's layouts, whichever scheme they come in."""
    for name in state:
        if name.endswith("embeddings.patch_embeddings.projection.weight"):
            return _from_hugging_face(state)
        if re.fullmatch(r"(.*/)?embedding/kernel", name):
            return _from_jax(state, name.removesuffix("embedding/kernel"))
    return dict(state)


def _from_hugging_face(state: State) -> dict[str, np.ndarray]:
    def place(name: str) -> tuple[str, str | None]:
        name = name.removeprefix("vit.").removeprefix("deit.")
        if name in _HUGGING_FACE:
            return _HUGGING_FACE[name], None
        module, _, leaf = name.rpartition(".")
        if module in _HUGGING_FACE:
            return f"{_HUGGING_FACE[module]}.{leaf}", None
        found = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", module)
        if found and found[2] in _HUGGING_FACE_BLOCK:
            return f"blocks.{found[1]}.{_HUGGING_FACE_BLOCK[found[2]]}.{leaf}", None
        if found and (part := re.fullmatch(r"attention\.attention\.(query|key|value)", found[2])):
            return f"blocks.{found[1]}.attn.qkv.{leaf}", part[1]
        return name, None

    return _rewrite(state, place, lambda value, name: value)


def _from_jax(state: State, prefix: str) -> dict[str, np.ndarray]:
    def place(name: str) -> tuple[str, str | None]:
        name = name.removeprefix(prefix)
        if name in _JAX:
            return _JAX[name], None
        module, _, leaf = name.rpartition("/")
        leaf = _JAX_LEAF.get(leaf, leaf)
        if module in _JAX:
            return f"{_JAX[module]}.{leaf}", None
        found = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", module)
        if found and found[2] in _JAX_BLOCK:
            return f"blocks.{found[1]}.{_JAX_BLOCK[found[2]]}.{leaf}", None
        if found:
            part = re.fullmatch(r"MultiHeadDotProductAttention_1/(query|key|value)", found[2])
            if part:
                return f"blocks.{found[1]}.attn.qkv.{leaf}", part[1]
        return name, None

    return _rewrite(state, place, _torch_layout)


def _torch_layout(value: np.ndarray, name: str) -> np.ndarray:
    """Flax's layouts, with the heads of attention on an axis of their own, to PyTorch's."""
    if name.endswith("attn.qkv.weight") and value.ndim == 3:  # (in, heads, dim)
        return value.reshape(value.shape[0], -1).T
    if name.endswith("attn.qkv.bias"):
        return value.reshape(-1)
    if name.endswith("attn.proj.weight") and value.ndim == 3:  # (heads, dim, out)
        return value.reshape(-1, value.shape[-1]).T
    if name.endswith("weight") and value.ndim == 4:  # HWIO
        return value.transpose(3, 2, 0, 1)
    return value.T if name.endswith("weight") and value.ndim == 2 else value


def _rewrite(
    state: State,
    place: Callable[[str], tuple[str, str | None]],
    layout: Callable[[np.ndarray, str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Entries at their places; queries, keys and values are packed where all three are there."""
    rewritten: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for original, value in state.items():
        name, part = place(original)
        if part is None:
            rewritten[name] = layout(value, name)
        else:
            parts.setdefault(name, {})[part] = (original, layout(value, name))
    for name, found in parts.items():
        if len({value.shape for _, value in found.values()}) == 1 and len(found) == 3:
            rewritten[name] = np.concatenate([found[p][1] for p in _PROJECTIONS])
        else:
            rewritten |= dict(found.values())
    return rewritten


def _infer(size: str, state: State) -> dict[str, Any]:
    wanted = SIZES[size].width
    if found := [name for name in _DISTILLED if any(name in entry for entry in state)]:
        raise ValueError(
            f"it is a distilled DeiT ({found[0]}), whose second class token the model does not "
            "have; take the weights without distillation"
        )
    width, channels, *patch = state["patch_embed.proj.weight"].shape
    if width != wanted:
        fitting = [f"vit_{name}16" for name, s in SIZES.items() if s.width == width]
        hint = f", as {fitting[0]} has" if fitting else ""
        raise ValueError(f"its tokens have {width} features{hint}, not {wanted}")
    if patch != [PATCH, PATCH] or channels != 3:
        raise ValueError(f"its patches are {patch} of {channels} channels, not 16 x 16 of 3")
    prefix = int("cls_token" in state)
    places = state["pos_embed"].shape[1] - prefix
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(f"its {places} position embeddings form no square")
    blocks = {m[1] for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}
    return {
        "n_expression": state["head.weight"].shape[0] if "head.weight" in state else 0,
        "image_size": PATCH * side,
        "depth": len(blocks),
        "pool": "token" if prefix else "mean",
    }


def normalisation_of(clues: Clues) -> Normalisation:
    """Mean and deviation that a vision transformer was trained with.

    Google's own weights, and timm's by the same recipe ("augreg"), have 0.5 and 0.5; DeiT and what
    was trained with its code (DINO, MAE, MoCo v3, iBOT) have ImageNet's. The names of the arrays
    are the same.
    """
    if clues.entry in ("teacher", "student"):
        reason = f"a file with a {clues.entry} is one of self-distillation, as DINO"
        return Normalisation(IMAGENET_MEAN, IMAGENET_STD, reason)
    if any(name.endswith("embedding/kernel") for name in clues.names):
        return Normalisation(*_HALF, "the original JAX weights")
    for pattern, (mean, std) in _NAMED.items():
        if found := re.search(rf"(?<![a-z])({pattern})", clues.file.lower()):
            return Normalisation(mean, std, f"{found[1]} in the name of the file")
    if clues.model_type in ("deit", "vit_mae", "vit_msn"):
        reason = f"model_type {clues.model_type} in config.json"
        return Normalisation(IMAGENET_MEAN, IMAGENET_STD, reason)
    owner = "Google's" if any("patch_embeddings" in name for name in clues.names) else "timm's"
    return Normalisation(*_HALF, f"as most of {owner} ViT have", certain=False)


def vit_modules(arguments: Mapping[str, Any]) -> dict[str, str]:
    """timm's module names of a vision transformer."""
    table = {"patch_embed.proj": "patches", "norm": "norm", "head": "head"}
    for i in range(arguments["depth"]):
        table |= {f"blocks.{i}.{theirs}": f"blocks/{i}/{ours}" for theirs, ours in _BLOCK.items()}
    return table


def vit_entries(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arrays that are no layer's."""
    del arguments  # the same for all sizes
    return {"cls_token": "cls_token", "pos_embed": "pos_embed"}


RELEASES = tuple(
    Released(
        architecture=f"vit_{size}16",
        model=f"vit_{size}16",
        infer=functools.partial(_infer, size),
        modules=vit_modules,
        entries=vit_entries,
        prepare=timm_names,
        unused=_HUGGING_FACE_UNUSED,
        preprocessing=Preprocessing(image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3),
        licence="the original and timm's ViT weights: Apache-2.0",
        on_hubs=True,
        normalisation=normalisation_of,
    )
    for size in SIZES
)
