"""Load, check and compare configurations."""

import copy
import importlib.util
import json
import math
import pathlib
import traceback
import types
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
# which examples are seen or what a step computes, with two exceptions: a longer run continues with
# the learning rates of the longer schedule and moves the borders of phases to come, and
# `model.remat` changes the rounding.
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
    "model.remat",
    *defaults.FREE,
    "sweep.",
    "crossval.",
)
# Paths of the data. Free in a workdir that has recorded its data: then the data are compared.
_PLACES = ("data.manifest", "data.folder", "data.data_dir", "data.features")
# What a cross-validation cuts its folds by: free in other runs.
_CUT = ("crossval.protocol", "crossval.folds")
# A run that began, and one that was tested, perhaps with its checkpoints deleted since.
_RESULTS = (f"{runtime.CHECKPOINTS_FOLDER}/[0-9]*", "report/predictions.npz")


class ConfigError(UserError):
    """A configuration that cannot work; the message names the key and what to do."""


def load_file(path: str | pathlib.Path) -> ml_collections.ConfigDict:
    """Return the config of a config file; errors as in `load_module`."""
    return load_module(path).get_config()


def load_module(path: str | pathlib.Path) -> types.ModuleType:
    """Return a config file as a module.

    Raises:
      ConfigError: the file does not exist, cannot be run, or has no `get_config`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = f" In {path.parent}: {nearest(path.name, siblings)}" if siblings else ""
        raise ConfigError(f"there is no config file {path}.{hint}")
    spec = importlib.util.spec_from_file_location("affect_jax_config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else last.lineno
        raise ConfigError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} defines no get_config()")
    return module


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of every leaf of a nested mapping."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict | dict) and len(value):
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def to_plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return a JSON-able copy: placeholders become values or None, tuples lists."""
    return json.loads(json.dumps(config.to_dict()))


def check(config: ml_collections.ConfigDict) -> None:
    """Check values that would otherwise fail only in the middle of a run.

    Raises:
      ConfigError: a value is not allowed; the message names the key.
    """
    try:
        defaults.DataConfig.of(config.data)
    except DataError as error:
        raise ConfigError(f"config.{error}") from None
    flat = flatten(config)
    for key in ("log_every", "checkpoint.every", "checkpoint.keep"):
        if flat[key] < 1:
            raise ConfigError(f"config.{key} = {flat[key]}; it must be at least 1")
    for key in ("eval_every", "eval.batch_size", "eval.min_count", "landmark_stage.steps"):
        if flat[key] < 0:
            raise ConfigError(f"config.{key} = {flat[key]}; it must not be negative")
    sizes = config.eval.bank_sizes
    if not isinstance(sizes, tuple | list) or not all(type(n) is int and n > 0 for n in sizes):
        raise ConfigError(f"config.eval.bank_sizes = {sizes!r}; give numbers above 0, as (32,512)")
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
            "config.loss.teacher has no effect with config.loss.distillation_weight = 0; set both"
        )


def selection_mode(metric: str, mode: str = "auto") -> str:
    """Return "max" or "min": which value of `metric` is the best.

    Args:
      metric: `checkpoint.best_metric`.
      mode: `checkpoint.best_mode`; "auto" or "": by the metric.

    Raises:
      ConfigError: the metric or mode is unknown, the mode contradicts the metric, or "auto" is
        given for a metric that has no better direction.
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
            f"config.checkpoint.best_metric = {metric!r} has no better direction; "
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
    """Record `config` in `workdir/config.json`; refuse another config's folder.

    Raises:
      ConfigError: as `check_workdir`.
    """
    check_workdir(workdir, config)
    content = json.dumps(to_plain(config), indent=2) + "\n"
    runtime.write_atomically(workdir / CONFIG_FILE, content.encode())


def check_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Check `config` against the one recorded in `workdir`; write nothing.

    A folder without checkpoints (its own or of folds) is accepted.

    Raises:
      ConfigError: the folder has a run of another config (the message lists the differences), or
        its config cannot be read.
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
        # Results of differently cut folds cannot be reused.
        if key in moved or (is_free(key) and not (folds and key in _CUT)):
            continue
        old, new = recorded.get(key, "(absent)"), wanted.get(key, "(absent)")
        if old != new:
            lines.append(f"  {key}: there {old!r}, now {new!r}")
    if lines:
        shown = "\n".join(lines[:10]) + (f"\n  ... {len(lines)} in all" * (len(lines) > 10))
        raise ConfigError(
            f"{workdir} holds a run of another config:\n{shown}\n"
            "Use a new --workdir, or the values it was started with."
        )


def holds_results(workdir: pathlib.Path) -> bool:
    """Return whether a folder has a run or fold that has begun or was tested."""
    return _holds(workdir) or _holds(workdir, "folds/*/")


def _holds(workdir: pathlib.Path, folder: str = "") -> bool:
    return any(any(workdir.glob(f"{folder}{name}")) for name in _RESULTS)


def is_free(key: str) -> bool:
    """Return whether `key` may differ when a run is resumed."""
    return any(key == free or (free[-1] == "." and key.startswith(free)) for free in _FREE)


def from_recorded(recorded: dict[str, Any]) -> ml_collections.ConfigDict:
    """Return the config of a run from its `to_plain`, perhaps of an earlier version.

    Missing fields take the values of `configs/base.py` and the defaults of the model.
    `checkpoint.best_mode` is "auto" if the metric determines it.
    """
    recorded = copy.deepcopy(recorded)
    newest = base.get_config()
    model = recorded.setdefault("model", {})
    for name, value in base.model(model.setdefault("name", newest.model.name)).items():
        model.setdefault(name, value)
    del newest["model"]
    for key, value in flatten(to_plain(newest)).items():
        *sections, name = key.split(".")
        place = recorded
        for section in sections:
            place = place.setdefault(section, {})
        place.setdefault(name, value)
    checkpoint = recorded["checkpoint"]
    if runtime.higher_is_better(checkpoint["best_metric"]) is not None:
        checkpoint["best_mode"] = "auto"
    return ml_collections.ConfigDict(recorded)


def read_workdir_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """Return the config a workdir was trained with (see `from_recorded`).

    Raises:
      ConfigError: the folder is not a workdir, or its config is damaged.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    try:
        return from_recorded(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(
            f"{workdir} is not the workdir of a run: it has no {CONFIG_FILE}; give the --workdir "
            "of a training run"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is damaged: {error}; restore it from a copy, or use a new --workdir"
        ) from None
