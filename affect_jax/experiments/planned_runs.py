"""Planned runs, and their status, metrics and origin as read from their folders.

A run is stale if its data, or a stage that it started from, have changed since it began.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax import data_record, runtime
from affect_jax.config import ConfigError
from affect_jax.training import run_lock
from configs import base
from data_pipelines import locks
from data_pipelines.sources.cache import DataCache

RECORD_FILE = "cell.json"
ERROR_FILE = "error.txt"
LOCK_FILE = ".lock"
DONE, FAILED, OPEN, ELSEWHERE = "done", "failed", "open", "elsewhere"
# Fields that may change when a run is resumed, but decide how long it is and what it chooses from.
_DECISIVE = ("num_steps", "num_epochs", "eval_every")

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep or a cross-validation.

    Attributes:
      needs: folders of its stages, runs that must be finished before this one.
      files: the run is finished only if its folder holds these.
      data: a config with the data that the folder's record describes; None: `config`.
      cache: shares sources and decoded images with other runs.
    """

    name: str
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    needs: tuple[pathlib.Path, ...] = ()
    files: tuple[str, ...] = ()
    data: ml_collections.ConfigDict | None = None
    cache: DataCache | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a planned run.

    Attributes:
      status: DONE, FAILED, OPEN (not finished) or ELSEWHERE (another process works on it).
      figures: of a finished run, see `read_figures`.
      seconds: spent on it in all attempts that ended.
      error: one line, which names the file of a longer message.
    """

    name: str
    status: str
    figures: Figures
    seconds: float
    error: str = ""


def outcome(run: PlannedRun) -> Outcome:
    """Return what the folder of a run says about it."""
    figures, error = {}, stale(run)
    if error:
        status = FAILED
    elif _is_finished(run):
        status, figures = DONE, read_figures(run.workdir) or {}
    elif locks.is_held(run.workdir / LOCK_FILE) or run_lock.is_held(run.workdir):
        status, error = ELSEWHERE, "another process works on it"
    elif (path := run.workdir / ERROR_FILE).exists():
        status = FAILED
        error, *rest = path.read_text(errors="replace").strip().splitlines() or [""]
        error += f" ... (all of it: {path})" if rest else ""
    else:
        status = OPEN
    return Outcome(run.name, status, figures, read_record(run.workdir).get("seconds", 0.0), error)


def problems(outcomes: Iterable[Outcome], asked: Collection[Outcome], kind: str) -> list[str]:
    """Return lines about failed runs and the number of unfinished `asked` ones.

    `kind` says what the runs are, such as "folds".
    """
    bad = (o for o in outcomes if o.status in (FAILED, ELSEWHERE))
    lines = [": ".join(filter(None, (o.name, o.status, o.error))) for o in bad]
    if unfinished := sum(o.status == OPEN for o in asked):
        lines.append(f"{unfinished} of {len(asked)} {kind} are not finished yet")
    return lines


def _is_finished(run: PlannedRun) -> bool:
    """Return whether a run has reached its end with exactly the config it has now."""
    try:
        recorded = json.loads((run.workdir / config_lib.CONFIG_FILE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False  # a damaged file is reported when the run starts
    # A run of an earlier version lacks fields, whose defaults keep its behaviour.
    now, then = (
        config_lib.to_plain(config_lib.from_recorded(config))
        for config in (config_lib.to_plain(run.config), recorded)
    )
    for config in (now, then):
        config["data"].pop("accept_changed")  # it is given for one call
    return (
        now == then
        # The folder may hold a shorter run that is being made longer.
        and _planned_steps(run) in (None, last_step(run.workdir))
        and all((run.workdir / name).exists() for name in run.files)
        and read_figures(run.workdir) is not None
    )


def _planned_steps(run: PlannedRun) -> int | None:
    """Return the steps of the whole run; None if the length of an epoch is unknown."""
    if run.config.num_steps is not None:
        return run.config.num_steps
    rows = [r for r in _rows(run.workdir) if r["split"] == "train" and r.get("epoch")]
    if not rows:
        return None
    return math.ceil(run.config.num_epochs * round(rows[-1]["step"] / rows[-1]["epoch"]))


def _rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    exists = (workdir / runtime.METRICS_FILE).exists()
    return runtime.read_metrics(workdir) if exists else []


def read_figures(workdir: pathlib.Path) -> Figures | None:
    """Return the metrics of a finished run; None if it is not finished.

    Test metrics have their own names, others are called `SPLIT/NAME`. Validation metrics
    belong to the tested checkpoint.
    """
    rows = _rows(workdir)
    if not rows or not rows[-1].get("final"):
        return None
    *others, final = rows
    figures: Figures = {}
    for row in others:
        at = final.get("checkpoint") if row["split"] == "validation" else final["step"]
        if row["split"] not in ("train", "epoch") and row["step"] == at:
            figures |= {f"{row['split']}/{name}": v for name, v in _metrics(row).items()}
    return figures | _metrics(final)


def _metrics(row: dict[str, Any]) -> Figures:
    return {k: v for k, v in row.items() if k not in runtime.NOT_METRICS and v is not None}


def digest(config: ml_collections.ConfigDict) -> str:
    """Return a short name of what a run learns.

    Fields with default values are left out, so that fields added by later versions do not change
    the name.
    """
    default, given = _fields(base.get_config()), _fields(config)
    fields = {
        key: value
        for key, value in given.items()
        if (key in _DECISIVE or not config_lib.is_free(key))
        and (key.startswith("model.") or key not in default or default[key] != value)
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return key -> value, with "max" or "min" in place of an automatic `best_mode`."""
    fields = config_lib.flatten(config_lib.to_plain(config))
    metric, mode = fields["checkpoint.best_metric"], fields["checkpoint.best_mode"]
    return fields | {"checkpoint.best_mode": config_lib.selection_mode(metric, mode)}


def stage_states(folders: Iterable[pathlib.Path]) -> dict[str, dict[str, Any]] | None:
    """Return the state of each stage by folder name; None if one is unfinished."""
    states = {}
    for folder in folders:
        if read_figures(folder) is None:
            return None
        states[folder.name] = {
            "step": last_step(folder),
            "config": digest(config_lib.read_workdir_config(folder)),
            "stages": read_record(folder).get("stages", {}),
            "data": data_record.digest(folder),
        }
    return states


def has_results(workdir: pathlib.Path) -> bool:
    """Return whether a run in `workdir` has begun, or is finished without its files."""
    return config_lib.holds_results(workdir) or read_figures(workdir) is not None


def stale(run: PlannedRun, planned: Mapping[str, str] | None = None) -> str:
    """Return why results cannot be used, other data or another stage; else "".

    A run of an earlier version, without a record of its stages, is accepted.

    Args:
      planned: name -> `digest` of the stages as they will be. By default the stages are compared as
        they are, and an unfinished stage is accepted.
    """
    if not has_results(run.workdir):
        return ""
    data = run.data or run.config
    changed = (
        None if data.data.accept_changed else data_record.changed(run.workdir, data, run.cache)
    )
    if changed is not None and not changed.only_order:
        return (
            f"{run.workdir} was trained on other data than there are now; first difference, "
            f"{changed.text}; put the data back, move the folder away and start again, or keep the "
            "run by --config.data.accept_changed=True"
        )
    then = read_record(run.workdir).get("stages")
    if then is None:
        return ""
    then = _with_nested(then)
    if planned is None:
        now = stage_states(run.needs) or {}
    else:
        now = {name: {"config": planned[name]} for name in then if name in planned}
    if others := [name for name in now if not _is_same_stage(now[name], then.get(name, {}))]:
        return (
            f"{run.workdir} was trained from another stage {' and '.join(others)} than there is "
            "now; move the folder away or remove it, and start again"
        )
    return ""


def _with_nested(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded stages together with the stages that those were trained from."""
    found: dict[str, Any] = {}
    for name, state in stages.items():
        found = {**_with_nested(state["stages"]), **found, name: state}
    return found


def _is_same_stage(now: Mapping[str, Any], then: Mapping[str, Any]) -> bool:
    """Return whether two states of a stage agree in all that both know."""
    both = now.keys() & then.keys()
    known = [key for key in both if key != "data" or None not in (now[key], then[key])]
    return bool(both) and all(now[key] == then[key] for key in known)


def last_step(workdir: pathlib.Path) -> int | None:
    """Return the step of the last row of a run's metrics; None without a row."""
    rows = _rows(workdir)
    return rows[-1]["step"] if rows else None


def read_record(workdir: pathlib.Path) -> dict[str, Any]:
    """Return what `cell.json` of a folder holds; empty without it."""
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return json.loads((workdir / RECORD_FILE).read_text())
    return {}


def parse_numbers(text: str, key: str) -> tuple[int, ...]:
    """Parse a list such as "0,1,2", the value of the config field `key`.

    Raises:
      ConfigError: it is not a list of whole numbers.
    """
    try:
        return tuple(int(part) for part in str(text).split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"config.{key} = {text!r}; give numbers, such as 0,1,2") from None


def without_sections(
    config: ml_collections.ConfigDict, *sections: str
) -> ml_collections.ConfigDict:
    """Return a copy of a config without some sections, which it may lack."""
    kept = {name: value for name, value in config.to_dict().items() if name not in sections}
    return ml_collections.ConfigDict(kept)
