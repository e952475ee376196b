"""Name tables of POSTER++ and ARBEx checkpoints, and of their two backbones."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.released.spec import IMAGENET_MEAN, IMAGENET_STD, Arguments, Release, State

_SCALES = range(3)
_RESIDUAL = ("norm1", "conv1", "act", "conv2", "norm2")
_SHORTCUT = ("shortcut_conv", "shortcut_norm")
_UNIT = ("conv", "norm", "act")
_BOTTLENECK = ("expand", "depthwise", "project")
_TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention/qkv",
    "attn.proj": "attention/out",
    "norm2": "norm2",
    "mlp.fc1": "mlp/fc1",
    "mlp.fc2": "mlp/fc2",
}


# Our path -> official path, in POSTER++ and in ARBEx: of the landmark network,
_LANDMARK_PARTS = {
    "stem": ("conv1", "path_1.0"),
    "stem_depthwise": ("conv2_dw", "path_1.1"),
    "stages/0/down": ("conv_23", "path_1.2"),
    "stages/0/units": ("conv_3.model", "path_1.3.net"),
    "stages/1/down": ("conv_34", "path_2.0"),
    "stages/1/units": ("conv_4.model", "path_2.1.net"),
    "stages/2/down": ("conv_45", "path_3.0"),
    "stages/2/units": ("conv_5.model", "path_3.1.net"),
    "features": ("conv_6_sep", "path_3.2"),
}
# of the other modules, where `{i}` counts scales from 0 and `{n}` from 1,
_PARTS = {
    "landmark_convs/2": ("last_face_conv", "conv"),
    "image_convs/{i}": ("conv{n}", "convs.{i}"),
    "fusions/{i}/norm": ("window{n}.norm", "window_module.{i}.norm"),
    "fusions/{i}/attention/key_value": ("attn{n}.qkv", "attns.{i}.qkv"),
    "fusions/{i}/attention/output": ("attn{n}.proj", "attns.{i}.linear"),
    "fusions/{i}/mlp_norm": ("ffn{n}.norm", "ffns.{i}.norm"),
    "fusions/{i}/mlp/fc1": ("ffn{n}.mlp.fc1", "ffns.{i}.mlp.0"),
    "fusions/{i}/mlp/fc2": ("ffn{n}.mlp.fc2", "ffns.{i}.mlp.3"),
    "transformer/embed/0/0": ("embed_q.0", "embs.0.0"),
    "transformer/embed/0/1": ("embed_q.1", "embs.0.1"),
    "transformer/embed/1/0": ("embed_k.0", "embs.1"),
    "transformer/embed/2/0": ("embed_v.proj", "embs.2.proj"),
}
# and of arrays other than a module's weight or bias.
_ENTRIES = {
    "fusions/{i}/attention/position_bias": (
        "attn{n}.relative_position_bias_table",
        "attns.{i}.table",
    ),
    "fusions/{i}/attention_scale": ("ffn{n}.gamma1", "ffns.{i}.gamma_1"),
    "fusions/{i}/mlp_scale": ("ffn{n}.gamma2", "ffns.{i}.gamma_2"),
}


def _column(table: Mapping[str, tuple[str, str]], column: int) -> dict[str, str]:
    return {ours: names[column] for ours, names in table.items()}


@dataclasses.dataclass(frozen=True)
class _Scheme:
    """What one of the two projects calls things.

    Attributes:
      image, landmark, transformer: prefixes of the three networks.
      stage: the units of a stage of the image network, with `{}` for its number from 1.
      residual, shortcut: the two branches of such a unit.
      unit, bottleneck: parts of the landmark network's blocks, in the order of ours.
      landmark_parts, parts, entries: a column of the tables above.
    """

    image: str
    landmark: str
    transformer: str
    stage: str
    residual: str
    shortcut: str
    unit: tuple[str, ...]
    bottleneck: tuple[str, ...]
    landmark_parts: Mapping[str, str]
    parts: Mapping[str, str]
    entries: Mapping[str, str]


POSTER = _Scheme(
    image="ir_back.",
    landmark="face_landback.",
    transformer="VIT.",
    stage="body{}",
    residual="res_layer",
    shortcut="shortcut_layer",
    unit=("conv", "bn", "prelu"),
    bottleneck=("conv", "conv_dw", "project"),
    landmark_parts=_column(_LANDMARK_PARTS, 0),
    parts=_column(_PARTS, 0) | {"head": "VIT.head.linear"},
    entries=_column(_ENTRIES, 0),
)
ARBEX = _Scheme(
    image="ir.",
    landmark="landmark.",
    transformer="vit.",
    stage="net_{}.net",
    residual="res",
    shortcut="shortcut",
    unit=("net.0", "net.1", "net.2"),
    bottleneck=("net.0", "net.1", "net.2"),
    landmark_parts=_column(_LANDMARK_PARTS, 1),
    parts=_column(_PARTS, 1),
    entries=_column(_ENTRIES, 1),
)


def _spread(table: Mapping[str, str]) -> dict[str, str]:
    """Return official -> ours for every scale of a table ours -> official."""
    return {
        theirs.format(i=i, n=i + 1): ours.format(i=i)
        for ours, theirs in table.items()
        for i in _SCALES
    }


def _image_modules(scheme: _Scheme, stages: tuple[int, ...], at: str = "", root: str = "") -> dict:
    """Return the names of the image network: official below `at`, ours below `root`."""
    table = {
        f"{at}input_layer.{k}": f"{root}{ours}"
        for k, ours in enumerate(("stem_conv", "stem_norm", "stem_act"))
    }
    for stage, size in enumerate(stages):
        for i in range(size):
            theirs = f"{at}{scheme.stage.format(stage + 1)}.{i}"
            ours = f"{root}stages/{stage}/{i}"
            for branch, parts in ((scheme.residual, _RESIDUAL), (scheme.shortcut, _SHORTCUT)):
                for k, part in enumerate(parts):
                    table[f"{theirs}.{branch}.{k}"] = f"{ours}/{part}"
    return table


def _landmark_modules(
    scheme: _Scheme, stages: tuple[int, ...], at: str = "", root: str = ""
) -> dict:
    """Return the names of the landmark network, as `_image_modules`."""
    parts = scheme.landmark_parts
    bottlenecks = {}
    for stage, size in enumerate(stages):
        down, units = f"stages/{stage}/down", f"stages/{stage}/units"
        bottlenecks[down] = parts[down]
        bottlenecks |= {f"{units}/{i}": f"{parts[units]}.{i}" for i in range(size)}
    modules = {name: parts[name] for name in ("stem", "stem_depthwise", "features")}
    for ours, theirs in bottlenecks.items():
        for part, official in zip(_BOTTLENECK, scheme.bottleneck, strict=True):
            modules[f"{ours}/{part}"] = f"{theirs}.{official}"
    return {
        f"{at}{theirs}.{official}": f"{root}{ours}/{part}"
        for ours, theirs in modules.items()
        for part, official in zip(_UNIT, scheme.unit, strict=True)
    }


def _modules(scheme: _Scheme, arguments: Arguments) -> dict[str, str]:
    """Return the names of the whole network."""
    stages = arguments["image_stages"], arguments["landmark_stages"]
    at, root = scheme.transformer, "transformer/"
    return (
        _image_modules(scheme, stages[0], scheme.image, "image_net/")
        | _landmark_modules(scheme, stages[1], scheme.landmark, "landmark_net/")
        | _spread(scheme.parts)
        | {
            f"{at}blocks.{i}.{theirs}": f"{root}blocks/{i}/{ours}"
            for i in range(arguments["vit_depth"])
            for theirs, ours in _TRANSFORMER_BLOCK.items()
        }
        | {
            f"{at}norm": f"{root}norm",
            f"{at}se_block.linear1": f"{root}gate/reduce",
            f"{at}se_block.linear2": f"{root}gate/expand",
        }
    )


def _entries(scheme: _Scheme) -> dict[str, str]:
    """Return the names of tokens, tables and factors."""
    return _spread(scheme.entries) | {
        f"{scheme.transformer}cls_token": "transformer/cls_token",
        f"{scheme.transformer}pos_embed": "transformer/pos_embed",
    }


def _count(pattern: str, state: State) -> int:
    """Count the different values of the group of `pattern` at the beginning of names."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _image_stages(scheme: _Scheme, state: State, at: str = "") -> tuple[int, ...]:
    prefixes = (re.escape(at + scheme.stage.format(stage + 1)) for stage in _SCALES)
    return tuple(_count(rf"{prefix}\.(\d+)\.", state) for prefix in prefixes)


def _landmark_stages(scheme: _Scheme, state: State, at: str = "") -> tuple[int, ...]:
    units = (scheme.landmark_parts[f"stages/{stage}/units"] for stage in _SCALES)
    return tuple(_count(rf"{re.escape(at + prefix)}\.(\d+)\.", state) for prefix in units)


def _number_stages(state: State) -> State:
    """Rename units of an IR-50 ("body.7") by stage; the widths show the stage.

    Face recognisers are published so; their fourth stage becomes "body4", which is not used.
    """
    widths = {
        int(match[1]): value.shape[0]
        for name, value in state.items()
        if (match := re.fullmatch(r"body\.(\d+)\.res_layer\.1\.weight", name))
    }
    stages = sorted(set(widths.values()))
    first = {width: min(n for n, w in widths.items() if w == width) for width in stages}

    def renamed(name: str) -> str:
        match = re.match(r"body\.(\d+)\.", name)
        if match is None or int(match[1]) not in widths:
            return name
        number = int(match[1])
        width = widths[number]
        rest = name.removeprefix(match[0])
        return f"body{stages.index(width) + 1}.{number - first[width]}.{rest}"

    return {renamed(name): value for name, value in state.items()}


def _infer_image(state: State) -> dict[str, Any]:
    width = state["input_layer.0.weight"].shape[0]
    return {"width": width, "stage_sizes": _image_stages(POSTER, state)}


def _infer_landmark(state: State) -> dict[str, Any]:
    width = state["conv1.conv.weight"].shape[0]
    return {"width": width, "stage_sizes": _landmark_stages(POSTER, state)}


def _infer(scheme: _Scheme, state: State) -> dict[str, Any]:
    """Infer arguments from shapes; the transformer always has 8 heads."""
    modules = {ours: theirs for theirs, ours in _spread(scheme.parts).items()}
    entries = {ours: theirs for theirs, ours in _spread(scheme.entries).items()}
    tables = [state[entries[f"fusions/{i}/attention/position_bias"]].shape for i in _SCALES]
    dims = tuple(state[f"{modules[f'image_convs/{i}']}.weight"].shape[0] for i in _SCALES)
    stem = scheme.landmark + scheme.landmark_parts["stem"]
    width = state[f"{stem}.{scheme.unit[0]}.weight"].shape[0]
    if dims[:2] != (width, 2 * width):
        raise ValueError(f"maps of {dims[:2]} features with landmark maps of {width}, {2 * width}")
    _, positions, embedding = state[f"{scheme.transformer}pos_embed"].shape
    return {
        "n_expression": state[f"{head}.weight"].shape[0]
        if (head := scheme.parts.get("head"))
        else 0,
        "input_size": 16 * math.isqrt((positions - 1) // 3),
        "image_width": state[f"{scheme.image}input_layer.0.weight"].shape[0],
        "image_stages": _image_stages(scheme, state, scheme.image),
        "landmark_width": width,
        "landmark_stages": _landmark_stages(scheme, state, scheme.landmark),
        "dims": dims,
        "windows": tuple((math.isqrt(rows) + 1) // 2 for rows, _ in tables),
        "heads": tuple(heads for _, heads in tables),
        "embedding": embedding,
        "vit_depth": _count(rf"{re.escape(scheme.transformer)}blocks\.(\d+)\.", state),
    }


def _unused(scheme: _Scheme, index: str) -> tuple[str, ...]:
    """Return beginnings of official entries that never reach the networks' output."""
    at = scheme.transformer
    dead = ("patch_embed.", "CON1.", "IRLinear1.", "IRLinear2.", "eca_block.")
    return (
        *(f"{network}output_layer." for network in (scheme.image, scheme.landmark)),
        *(f"{at}{name}" for name in dead),
        *(f"{at}blocks.{i}.conv." for i in range(24)),
        *(index.format(i=i, n=i + 1) for i in _SCALES),
    )


# Trained and tested on images that are face crops already.
_PREPROCESSING = Preprocessing(image_size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="whole")
_LICENCE = "POSTER_V2: MIT"


def _release(
    architecture: str, model: str, scheme: _Scheme, licence: str, position_index: str
) -> Release:
    return Release(
        architecture=architecture,
        model=model,
        infer=lambda state: _infer(scheme, state),
        modules=lambda arguments: _modules(scheme, arguments),
        preprocessing=_PREPROCESSING,
        licence=licence,
        entries=lambda arguments: _entries(scheme),
        unused=_unused(scheme, position_index),
    )


RELEASES = (
    Release(
        architecture="ir50",
        model="ir50",
        infer=_infer_image,
        modules=lambda arguments: _image_modules(POSTER, arguments["stage_sizes"]),
        preprocessing=_PREPROCESSING,
        licence=_LICENCE,
        prepare=_number_stages,
        unused=("output_layer.", "body4."),
    ),
    Release(
        architecture="mobilefacenet",
        model="mobilefacenet",
        infer=_infer_landmark,
        modules=lambda arguments: _landmark_modules(POSTER, arguments["stage_sizes"]),
        preprocessing=dataclasses.replace(_PREPROCESSING, image_size=112),
        licence=_LICENCE,
        unused=("output_layer.",),
    ),
    _release("poster_v2", "poster_v2", POSTER, _LICENCE, "attn{n}.relative_position_index"),
    _release(
        "arbex", "arbex_backbone", ARBEX, "ARBEx: no licence file", "attns.{i}.index_relative"
    ),
)
