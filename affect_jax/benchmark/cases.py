"""The cases of `benchmark train` and `benchmark infer`: our systems at full size and their peers.

A case is a config of ours, what it changes, and the PyTorch network that it is compared with. Both
sides do equal work: the same sizes, batch, precision, frozen parts, loss terms and kind of
optimizer. What only one side has (moving averages, mixing, clipping, layer-wise learning rates,
sharpness-aware steps) is off.
"""

import argparse
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax.benchmark import peer, suite
from affect_jax.errors import UserError, nearest
from data_pipelines.hierarchies import tree

# AdamW at a constant rate, and nothing that the peers do not do.
EQUAL_WORK: dict[str, Any] = {
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
    "optimizer.warmup_epochs": 0.0,
    "optimizer.weight_decay": 0.01,
    "optimizer.clip_norm": 0.0,
    "optimizer.layer_decay": 1.0,
    "optimizer.sam_rho": 0.0,
    "ema_decay": 0.0,
    "mixing.mixup_alpha": 0.0,
    "mixing.cutmix_alpha": 0.0,
    "loss.label_smoothing": 0.0,
    "loss.class_weights": "none",
    "loss.heatmap_weight": 0.0,
    "landmark_stage.steps": 0,
}
_CLASSES = tuple(f"class {i}" for i in range(7))
PEER_MODES = ("eager", "compile")
# Our model -> the peer's name, where they differ.
PEER_OF = {"emofan": "emonet"}
_STEPS = 1000  # length of the run that the steps are taken from


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
      name: of the case.
      system: a file of configs/.
      model: another model of the same kind, such as vit_ti16; "": the config's.
      batch_size, image_size: 0: the config's.
      dtype: of the computation, on both sides; "": the config's.
      settings: dotted fields of the config -> values, after `EQUAL_WORK`.
      equal_work: apply `EQUAL_WORK`.
      peer: one of `peer.CLASSIFIERS`; "": none.
      freeze: parts of the peer that do not train, see `peer.freeze`.
      peer_arguments: constructor arguments of the peer.
      peer_differs: how the peer's work differs from ours; "": not at all.
      context: what RALD's images are compared with; "": the config's.
      engine: of our side, see `infer.ENGINES`.
      directory: of the model that predicts; "": random weights.
      decode: a prediction begins with JPEGs.
      clock: "wall", or "cpu": seconds of all threads of the process, which what else the machine
        does hardly changes.
    """

    name: str
    system: str
    model: str = ""
    batch_size: int = 0
    image_size: int = 0
    dtype: str = "bfloat16"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    equal_work: bool = True
    peer: str = ""
    freeze: Sequence[str] = ()
    peer_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    peer_differs: str = ""
    context: str = ""
    engine: str = "jax"
    decode: bool = False
    clock: str = "wall"
    directory: str = ""


_CLASSIFIER = {"loss.regression": "none", "model.regression": False}
_VIT = {"model.se": False, "model.drop_path": 0.0}
_ALONE = "ResNet-18 alone"

# Every system at full size. The first ones are measured first where time is short.
FULL_SIZE = (
    Case("emofan", "base", batch_size=32, image_size=256, peer="emonet"),
    Case("vit_b16", "vit_se_fer2013", batch_size=128, settings=_VIT, peer="vit_b16"),
    Case("poster_v2", "poster_v2_rafdb", batch_size=64, peer="poster_v2", freeze=("landmark_net",)),
    Case(
        "resnet50",
        "resnet50_faces",
        batch_size=128,
        image_size=224,
        settings=_CLASSIFIER,
        peer="resnet50",
    ),
    Case(
        "emofan_frozen",
        "base",
        batch_size=32,
        image_size=256,
        settings={"model.train_trunk": False},
        peer="emonet",
        freeze=("trunk",),
    ),
    Case(
        "arbex",
        "arbex_rafdb",
        batch_size=64,
        peer="poster_v2",
        peer_differs="POSTER++ without balancing",
    ),
    Case("rald", "rald_fg_emotions", batch_size=128, peer="resnet18", peer_differs=_ALONE),
    Case(
        "resnet50_b256",
        "resnet50_faces",
        batch_size=256,
        image_size=224,
        settings=_CLASSIFIER,
        peer="resnet50",
    ),
    Case(
        "vit_se_as_configured",
        "vit_se_fer2013",
        batch_size=128,
        equal_work=False,
        peer="vit_b16",
        peer_differs="ViT-B/16 without SE, mixing, stochastic depth and moving average",
    ),
)
KNOWN = {case.name: case for case in FULL_SIZE}
# Of `benchmark infer`, which chooses batch and dtype.
INFERENCE = {
    case.name: case
    for case in (
        *(KNOWN[name] for name in ("emofan", "vit_b16")),
        Case(
            "resnet18",
            "resnet18_faces",
            image_size=224,
            settings=_CLASSIFIER,
            peer="resnet18",
        ),
        *(KNOWN[name] for name in ("resnet50", "poster_v2", "rald")),
    )
}


def parse(
    entries: Sequence[str | Mapping[str, Any]], known_cases: Mapping[str, Case] = KNOWN
) -> list[Case]:
    """Return the cases that a plan or `--cases` names.

    Args:
      entries: names of known cases; or mappings with fields of `Case`, which change the known case
        that `case` names, or make a new one.
      known_cases: by their names.

    Raises:
      UserError: an unknown case, field or peer, or the same name twice.
    """
    found: list[Case] = []
    for entry in entries:
        fields: dict[str, Any] = {"case": entry} if isinstance(entry, str) else dict(entry)
        known = fields.pop("case", None)
        if known is not None and known not in known_cases:
            raise UserError(f"no case {known!r}; {nearest(known, known_cases)}")
        allowed = [field.name for field in dataclasses.fields(Case)]
        for field in fields:
            if field not in allowed:
                raise UserError(f"a case has no field {field!r}; {nearest(field, allowed)}")
        if known is not None:
            old = known_cases[known]
            fields["settings"] = {**old.settings, **fields.get("settings", {})}
            case = dataclasses.replace(old, **fields)
        elif "name" in fields and "system" in fields:
            case = Case(**fields)
        else:
            raise UserError(f"a case needs `case`, or `name` and `system`; got {fields}")
        if case.peer and case.peer not in peer.CLASSIFIERS:
            raise UserError(
                f"case {case.name}: no peer {case.peer!r}; {nearest(case.peer, peer.CLASSIFIERS)}"
            )
        if case.name in [other.name for other in found]:
            raise UserError(f"two cases are called {case.name!r}; give one of them another `name`")
        found.append(case)
    return found


def read_plan(path: str | pathlib.Path, allowed: Sequence[str]) -> dict[str, Any]:
    """Return a plan: a JSON object with `cases` and options of the command.

    Raises:
      UserError: the file cannot be read, or has a key that is not allowed.
    """
    try:
        plan = json.loads(pathlib.Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"--plan {path}: {error}") from None
    if not isinstance(plan, dict):
        raise UserError(f"--plan {path}: it must be a JSON object, as {{'cases': ['emofan']}}")
    for key in plan:
        if key not in allowed:
            raise UserError(f"--plan {path}: no option {key!r}; {nearest(key, allowed)}")
    return plan


def config_of(case: Case) -> ml_collections.ConfigDict:
    """Return the config of our side.

    It asks for no device: the process that drives the others must not take one.

    Raises:
      UserError: the config or a field does not exist.
    """
    config = config_lib.load_file(suite.CONFIGS / f"{case.system}.py")
    config = config.copy_and_resolve_references()
    config.model.name = case.model or config.model.name
    config.model.dtype = case.dtype or config.model.dtype
    config.batch_size = case.batch_size or config.batch_size
    config.data.image_size = case.image_size or config.data.image_size
    config.num_steps = _STEPS
    known = config_lib.flatten(config)
    changes = {**(EQUAL_WORK if case.equal_work else {}), **case.settings}
    for key, value in changes.items():
        if key not in known:
            raise UserError(f"case {case.name}: no field {key!r}; {nearest(key, known)}")
        config.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
    return config


def classes_of(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Return the classes of a config's label tree, or seven without names."""
    name = config.model.get("hierarchy")
    return tree.load(name).fine if name else _CLASSES


def label(case: Case, config: ml_collections.ConfigDict) -> str:
    """Return what the rows of a case are called."""
    about = f"{config.model.name} {config.data.image_size} px, {config.model.dtype}"
    return f"{case.name}: {about}, {config.batch_size}"


def add_options(parser: argparse.ArgumentParser, known: Mapping[str, Case] = KNOWN) -> None:
    """Add the options of a plan."""
    parser.add_argument("--cases", type=names, default=[], help=f"all, or of: {', '.join(known)}")
    parser.add_argument("--plan", help="JSON file with these options")
    parser.add_argument(
        "--peer",
        type=names,
        default=[],
        nargs="?",
        const=["compile"],
        help="measure PyTorch as well: eager, compile; default: compile",
    )
    parser.add_argument(
        "--profile",
        type=names,
        default=[],
        nargs="?",
        const=["all"],
        help="cases whose kernels are profiled; default: all",
    )
    parser.add_argument("--threads", type=int, default=0, help="cores of the CPU; default: all")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: seconds of processor time, for a machine that does other work as well",
    )
    for name in ("build_deadline", "deadline"):
        parser.add_argument(f"--{name}", type=float, default=1e9, help="seconds")
    parser.set_defaults(environment={})


def names(text: str) -> list[str]:
    """Return the parts of a list such as a,b."""
    return [name for name in text.split(",") if name]


def parse_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Return the options of the command line, after those of `--plan`."""
    plan = parser.parse_known_args(arguments)[0].plan
    if plan:
        allowed = {action.dest for action in parser._actions} - {"help", "plan"} | {"environment"}
        try:
            parser.set_defaults(**read_plan(plan, sorted(allowed)))
        except UserError as error:
            parser.error(str(error))
    return parser.parse_args(arguments)


def of_plan(options: argparse.Namespace, known_cases: Mapping[str, Case] = KNOWN) -> list[Case]:
    """Return the cases of the options; without any, the one of `--system`.

    This process, and those that it starts, use the cores that `--threads` leaves.

    Raises:
      UserError: an unknown case, mode of the peer, or case to profile.
    """
    limit_cores(options.threads)
    given = list(known_cases) if options.cases == ["all"] else options.cases
    found = parse(given, known_cases) or [of_options(options)]
    found = [dataclasses.replace(case, clock=options.clock) for case in found]
    for mode in options.peer:
        if mode not in PEER_MODES:
            raise UserError(f"--peer {mode}: use {', '.join(PEER_MODES)}")
    known = [case.name for case in found]
    for name in options.profile:
        if name not in (*known, "all"):
            raise UserError(f"--profile {name}: {nearest(name, known)}")
    if options.peer and not any(case.peer for case in found):
        raise UserError(
            f"--peer: no PyTorch network is comparable with {', '.join(known)}; use a case of "
            f"{', '.join(known_cases)}, or a --model of {', '.join(peer.TIMM)}"
        )
    return found


def limit_cores(count: int) -> None:
    """Let this process and its children use `count` cores alone; 0: all.

    Raises:
      UserError: there are fewer cores, or the system cannot choose them.
    """
    if not count:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UserError(f"--threads {count}: this system cannot choose cores; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise UserError(f"--threads {count}: give 1 to {len(cores)}, the cores of this process")
    os.sched_setaffinity(0, cores[-count:])


def of_options(options: argparse.Namespace) -> Case:
    """Return the case of `--system` and the options that change it."""
    case = Case(
        options.system,
        options.system,
        model=options.model,
        batch_size=options.batch_size,
        image_size=options.image_size,
        dtype=options.dtype,
        equal_work=bool(getattr(options, "peer", ())),
    )
    model = options.model or config_lib.load_file(suite.CONFIGS / f"{case.system}.py").model.name
    name = PEER_OF.get(model, model)
    return dataclasses.replace(case, peer=name if name in peer.CLASSIFIERS else "")
