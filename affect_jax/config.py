"""Loading, overriding, checking and comparing configurations."""

import copy
import importlib.util
import json
import math
import pathlib
import traceback
import types
from collections.abc import Iterable
from typing import Any

import ml_collections

from affect_jax import runtime
from affect_jax.errors import UserError, nearest
from affect_jax.metrics.names import known_names
from configs import base
from data_pipelines import defaults
from data_pipelines.schema import DataError

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"  # see `data_record`

# What may differ between a workdir's config and the one it is resumed with. None of it changes
# which examples are seen or what a step computes, but for the length of the run: a longer one goes
# on with the learning rates of the longer schedule.
_FREE = (
    "num_steps",
    "num_epochs",
    "log_every",
    "eval_every",
    "eval.",
    "checkpoint.every",
    "checkpoint.keep",
    "report.",
    "compilation_cache",
    "parallel.",
    *defaults.FREE,
    "sweep.",
    "crossval.",
)
# Where the data lie. Free in a workdir that has recorded its data, which are compared themselves.
_PLACES = ("data.manifest", "data.folder", "data.data_dir")
# What a cross-validation cuts its folds by: free in other runs, which have none.
_CUT = ("crossval.protocol", "crossval.folds")
# A run that began, and one that was tested, perhaps without its checkpoints by now.
_RESULTS = (f"{runtime.CHECKPOINTS_FOLDER}/[0-9]*", "report/predictions.npz")


class ConfigError(UserError):
    """A configuration that cannot work; the message names the key and what to do."""


def load_file(path: str | pathlib.Path) -> ml_collections.ConfigDict:
    """Runs `get_config()` of a config file; errors as in `load_module`."""
    return load_module(path).get_config()


def load_module(path: str | pathlib.Path) -> types.ModuleType:
    """A config file as a module.

    Raises:
      ConfigError: if there is no such file or it has no `get_config`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = f" In {path.parent}: {nearest(path.name, siblings)}" if siblings else ""
        raise ConfigError(f"no config file {path}.{hint}")
    spec = importlib.util.spec_from_file_location("affect_jax_config", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = getattr(error, "lineno", None) or last.lineno
        raise ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} defines no get_config()")
    return module


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of a nested mapping."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict | dict) and len(value):
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def check_overrides(config: ml_collections.ConfigDict, arguments: Iterable[str]) -> None:
    """Checks the keys of `--config.a.b=value` arguments before they are parsed.

    A section whose field has the type `object` may be given as a whole, None among others.

    Raises:
      ConfigError: for a key that does not exist, naming the nearest one that does; for a section as
        a whole that may not be, or one beside a field of its own.
    """
    known = flatten(config)
    sections = {
        key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)
    }
    given = [
        argument.lstrip("-").split("=", 1)[0].removeprefix("config.")
        for argument in arguments
        if argument.startswith("-") and argument.lstrip("-").startswith("config.")
    ]
    for key in given:
        if key in sections and not _is_switchable(config, key):
            raise ConfigError(
                f"--config.{key} is a section; set one of its fields: "
                + ", ".join(sorted(k for k in known if k.startswith(key + ".")))
            )
        parents = [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]
        for parent in parents:
            if parent in given:
                raise ConfigError(
                    f"--config.{key} and --config.{parent}: give the fields or the whole, not both"
                )
        if key in known or key in sections:
            continue
        for parent in parents:
            if parent in known and _is_switchable(config, parent):
                field = key.removeprefix(parent + ".")
                raise ConfigError(
                    f"--config.{key}: config.{parent} is {known[parent]!r} here and has no fields; "
                    f"give its settings as --config.{parent}=\"{{'{field}': VALUE}}\""
                )
        by_last = {k.rsplit(".", 1)[-1]: k for k in known}
        last = key.rsplit(".", 1)[-1]
        hint = nearest(key, known)
        if last in by_last:
            hint = f"did you mean {by_last[last]!r}?"
        raise ConfigError(f"--config.{key}: there is no such field; {hint}")


def _is_switchable(config: ml_collections.ConfigDict, key: str) -> bool:
    """Whether the field may hold None, a truth value or a section, as `model.reliability` may."""
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    return config.get_type(name) is object


def to_plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A JSON-able copy: placeholders become values or None, tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def check(config: ml_collections.ConfigDict) -> None:
    """Checks values that would otherwise fail only in the middle of a run.

    Raises:
      ConfigError: naming the key.
    """
    try:
        defaults.DataConfig.of(config.data)
    except DataError as error:
        raise ConfigError(f"config.{error}") from None
    positive = ("log_every", "checkpoint.every", "checkpoint.keep")
    flat = flatten(config)
    for key in positive:
        if flat[key] < 1:
            raise ConfigError(f"config.{key} = {flat[key]}; it must be at least 1")
    for key in ("eval_every", "eval.batch_size", "eval.min_count", "landmark_stage.steps"):
        if flat[key] < 0:
            raise ConfigError(f"config.{key} = {flat[key]}; it must not be negative")
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"config.ema_decay = {config.ema_decay}; it must lie in [0, 1)")
    for key in ("mean", "std"):
        values = config.model[key]
        numbers = values if isinstance(values, tuple | list) else (values,)
        bad = len(numbers) != 3 or not all(math.isfinite(x) for x in numbers)
        if bad or (key == "std" and min(numbers) <= 0):
            raise ConfigError(
                f"config.model.{key} = {values}; give three numbers, as (0.5,0.5,0.5)"
            )
    selection_mode(config.checkpoint.best_metric, config.checkpoint.best_mode)
    if config.loss.teacher and not config.loss.distillation_weight:
        raise ConfigError(
            "config.loss.teacher is set, but config.loss.distillation_weight is 0: the teacher "
            "would not be used"
        )


def selection_mode(metric: str, mode: str = "auto") -> str:
    """Returns "max" or "min", whichever value of `metric` is the best one.

    Args:
      metric: `checkpoint.best_metric`.
      mode: `checkpoint.best_mode`; "auto" or "" asks for what is known of the metric.

    Raises:
      ConfigError: an unknown mode, one that contradicts the metric, or "auto" for a metric that is
        unknown or of which neither more nor less is better.
    """
    key = f"config.checkpoint.best_mode = {mode!r}"
    if mode not in ("", "auto", "max", "min"):
        raise ConfigError(f'{key}; use "auto", "max" or "min"')
    higher = runtime.higher_is_better(metric)
    if higher is None:
        if mode in ("max", "min"):
            return mode
        known = known_names()
        if metric not in known:
            raise ConfigError(
                f"config.checkpoint.best_metric = {metric!r} is not a metric; "
                + nearest(metric, known)
            )
        raise ConfigError(
            f"config.checkpoint.best_metric = {metric!r}: neither more nor less of it is better; "
            'set checkpoint.best_mode to "max" or "min", or choose another metric'
        )
    right = "max" if higher else "min"
    if mode not in ("", "auto", right):
        raise ConfigError(
            f"{key} with best_metric = {metric!r} would choose the worst checkpoint; "
            f'leave best_mode at "auto", or set it to "{right}"'
        )
    return right


def claim_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Records `config` in `workdir/config.json`, unless the folder is another config's.

    Raises:
      ConfigError: as `check_workdir`.
    """
    check_workdir(workdir, config)
    content = json.dumps(to_plain(config), indent=2) + "\n"
    runtime.write_atomically(workdir / CONFIG_FILE, content.encode())


def check_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks `config` against the one recorded in `workdir`; writes nothing.

    A folder without checkpoints, its own or those of folds, has nothing to lose and passes.

    Raises:
      ConfigError: if the folder belongs to a run of another config, naming what differs, or holds
        a config that cannot be read.
    """
    folds = _holds(workdir, "folds/*/")
    holds_run = folds or any(workdir.glob(_RESULTS[0]))
    if not holds_run or not (workdir / CONFIG_FILE).exists():
        return
    moved = _PLACES if (workdir / DATA_FILE).exists() else ()
    recorded = flatten(to_plain(read_workdir_config(workdir)))
    wanted = flatten(to_plain(from_recorded(to_plain(config))))
    lines = []
    for key in sorted(recorded.keys() | wanted.keys()):
        # Results of other folds are none of these.
        if key in moved or (is_free(key) and not (folds and key in _CUT)):
            continue
        old, new = recorded.get(key, "(absent)"), wanted.get(key, "(absent)")
        if key not in recorded and key.startswith("model."):
            old = _without_field(recorded, key.removeprefix("model."))
        if old != new:
            lines.append(f"  {key}: there {old!r}, now {new!r}")
    if lines:
        shown = "\n".join(lines[:10]) + (f"\n  ... {len(lines)} in all" * (len(lines) > 10))
        raise ConfigError(
            f"{workdir} holds a run of another config:\n{shown}\n"
            "Use a new --workdir, or the values it was started with."
        )


def holds_results(workdir: pathlib.Path) -> bool:
    """Returns whether a run, or a fold, has begun in a folder, or was tested there."""
    return _holds(workdir) or _holds(workdir, "folds/*/")


def _holds(workdir: pathlib.Path, folder: str = "") -> bool:
    return any(any(workdir.glob(f"{folder}{name}")) for name in _RESULTS)


def _without_field(recorded: dict[str, Any], field: str) -> Any:
    """What the model of a recorded config took for an argument that the config does not hold.

    Configs come to list arguments that were left to the constructor when a run began.
    """
    from affect_jax import models  # here, for it takes seconds and few need it
    from affect_jax.models.reliability import SETTINGS

    part, _, rest = field.partition(".")
    name = recorded["model.name"]
    value: Any = "(absent)"
    if part == "reliability" and rest in SETTINGS:
        if any(key.startswith("model.reliability.") for key in recorded):
            value = SETTINGS[rest]
    elif part == "backbone" and rest and models.takes(name, "backbone"):
        preset = models.default(name, "backbone") or {}
        value = preset.get(rest, models.default("poster_v2", rest))
    elif models.takes(name, field):
        value = models.default(name, field)
    return json.loads(json.dumps(value, default=repr))


def is_free(key: str) -> bool:
    """Whether a field may change when a run is gone on with."""
    return any(key == free or (free[-1] == "." and key.startswith(free)) for free in _FREE)


def from_recorded(recorded: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config of a run from what `to_plain` made of it, perhaps in an earlier version.

    Fields that did not exist then have the values of `configs/base.py`, which keep things as they
    were. `checkpoint.best_mode` is "auto" where the metric tells it.
    """
    recorded = copy.deepcopy(recorded)
    for key, value in flatten(to_plain(base.get_config())).items():
        *sections, name = key.split(".")
        if sections[:1] == ["model"]:
            continue  # constructor arguments differ from model to model
        place = recorded
        for section in sections:
            place = place.setdefault(section, {})
        place.setdefault(name, value)
    checkpoint = recorded["checkpoint"]
    if runtime.higher_is_better(checkpoint["best_metric"]) is not None:
        checkpoint["best_mode"] = "auto"
    return ml_collections.ConfigDict(recorded)


def read_workdir_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The config a workdir was trained with (see `from_recorded`).

    Raises:
      ConfigError: if the folder is no workdir or its config is damaged.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    try:
        return from_recorded(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(
            f"{workdir} is no workdir of a run: there is no {CONFIG_FILE} in it"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged: {error}") from None
