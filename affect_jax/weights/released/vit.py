"""Name tables of vision transformers: timm, Hugging Face, original JAX .npz.

The last two are first rewritten with timm's names and PyTorch's layouts. An entry that is not
recognised keeps its name, so that it is reported under the one it has in the file.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from affect_jax.models.preprocessing import Preprocessing
from affect_jax.models.vit import PATCH, SIZES
from affect_jax.weights.released.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Arguments,
    Clues,
    Normalisation,
    Release,
    State,
)

_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/out",
    "norm2": "norm2",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}
_PROJECTIONS = ("query", "key", "value")
_LEAF = {"kernel": "weight", "scale": "weight"}


def _torch_layout(value: np.ndarray, name: str) -> np.ndarray:
    """Return an array of Flax, with attention heads on an axis, as in PyTorch."""
    if name.endswith("attn.qkv.weight") and value.ndim == 3:  # (in, heads, dim)
        return value.reshape(value.shape[0], -1).T
    if name.endswith("attn.qkv.bias"):
        return value.reshape(-1)
    if name.endswith("attn.proj.weight") and value.ndim == 3:  # (heads, dim, out)
        return value.reshape(-1, value.shape[-1]).T
    if name.endswith("weight") and value.ndim == 4:  # HWIO
        return value.transpose(3, 2, 0, 1)
    return value.T if name.endswith("weight") and value.ndim == 2 else value


class _Scheme(NamedTuple):
    """What another project calls things.

    Attributes:
      separator: between a module and its array.
      names: of arrays and modules outside of blocks -> timm's.
      block: pattern of a module in a block: its number and the rest.
      parts: such rests -> timm's.
      projection: pattern of a rest that is one of `_PROJECTIONS`.
      layout: from the project's arrays to PyTorch's, given timm's name.
    """

    separator: str
    names: Mapping[str, str]
    block: str
    parts: Mapping[str, str]
    projection: str
    layout: Callable[[np.ndarray, str], np.ndarray]


_HUGGING_FACE = _Scheme(
    separator=".",
    names={
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
        "classifier": "head",
    },
    block=r"encoder\.layer\.(\d+)\.(.+)",
    parts={
        "layernorm_before": "norm1",
        "attention.output.dense": "attn.proj",
        "layernorm_after": "norm2",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
    projection=r"attention\.attention\.(query|key|value)",
    layout=lambda value, name: value,
)
_JAX = _Scheme(
    separator="/",
    names={
        "cls": "cls_token",
        "Transformer/posembed_input/pos_embedding": "pos_embed",
        "embedding": "patch_embed.proj",
        "Transformer/encoder_norm": "norm",
        "head": "head",
    },
    block=r"Transformer/encoderblock_(\d+)/(.+)",
    parts={
        "LayerNorm_0": "norm1",
        "MultiHeadDotProductAttention_1/out": "attn.proj",
        "LayerNorm_2": "norm2",
        "MlpBlock_3/Dense_0": "mlp.fc1",
        "MlpBlock_3/Dense_1": "mlp.fc2",
    },
    projection=r"MultiHeadDotProductAttention_1/(query|key|value)",
    layout=_torch_layout,
)
_DISTILLED = ("dist_token", "distillation_token")
_HALF = ((0.5,) * 3, (0.5,) * 3)
_NAMED = {
    "augreg|in21k|imagenet21k|google": _HALF,
    "deit|dino|mae|moco|ibot|msn": (IMAGENET_MEAN, IMAGENET_STD),
}
# Part of the file, but not of a classifier: the tanh layer that language models pool with.
_HUGGING_FACE_UNUSED = ("pooler.",)


def timm_names(state: State) -> dict[str, np.ndarray]:
    """Return the entries with timm's names and PyTorch's layouts."""
    for name in state:
        if name.endswith("embeddings.patch_embeddings.projection.weight"):
            return _rewrite(state, _HUGGING_FACE, ("vit.", "deit."))
        if re.fullmatch(r"(.*/)?embedding/kernel", name):
            return _rewrite(state, _JAX, (name.removesuffix("embedding/kernel"),))
    return dict(state)


def _place(name: str, scheme: _Scheme) -> tuple[str, str | None]:
    """Return timm's name of an entry, and its packed `_PROJECTIONS`, if any."""
    if name in scheme.names:
        return scheme.names[name], None
    module, _, leaf = name.rpartition(scheme.separator)
    leaf = _LEAF.get(leaf, leaf)
    if module in scheme.names:
        return f"{scheme.names[module]}.{leaf}", None
    if found := re.fullmatch(scheme.block, module):
        number, rest = found.groups()
        if rest in scheme.parts:
            return f"blocks.{number}.{scheme.parts[rest]}.{leaf}", None
        if part := re.fullmatch(scheme.projection, rest):
            return f"blocks.{number}.attn.qkv.{leaf}", part[1]
    return name, None


def _rewrite(state: State, scheme: _Scheme, prefixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Rename entries without prefixes; pack queries, keys and values if complete."""
    rewritten: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for original, value in state.items():
        name = functools.reduce(str.removeprefix, prefixes, original)
        name, part = _place(name, scheme)
        if part is None:
            rewritten[name] = scheme.layout(value, name)
        else:
            parts.setdefault(name, {})[part] = (original, scheme.layout(value, name))
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
            "have; use the weights without distillation"
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
    """Return mean and deviation with which a vision transformer was trained.

    Google's own weights, and timm's by the same recipe ("augreg"), have 0.5 and 0.5; DeiT and
    weights trained with its code (DINO, MAE, MoCo v3, iBOT) have ImageNet's. Both have the same
    array names.
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


def _modules(arguments: Arguments) -> dict[str, str]:
    table = {"patch_embed.proj": "patches", "norm": "norm", "head": "head"}
    for i in range(arguments["depth"]):
        table |= {f"blocks.{i}.{theirs}": f"blocks/{i}/{ours}" for theirs, ours in _BLOCK.items()}
    return table


RELEASES = tuple(
    Release(
        architecture=f"vit_{size}16",
        model=f"vit_{size}16",
        infer=functools.partial(_infer, size),
        modules=_modules,
        entries=lambda arguments: {"cls_token": "cls_token", "pos_embed": "pos_embed"},
        prepare=timm_names,
        unused=_HUGGING_FACE_UNUSED,
        preprocessing=Preprocessing(image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3, crop="whole"),
        licence="the original and timm's ViT weights: Apache-2.0",
        on_hubs=True,
        normalisation=normalisation_of,
    )
    for size in SIZES
)
