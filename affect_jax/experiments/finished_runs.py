"""One cell as its folder shows it: its figures, and what it was trained from.

A cell is stale if its data, or a stage that it began from, are others now than when it began.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax import data_record, runtime
from configs import base

RECORD_FILE = "cell.json"
# Fields that may change on the way, but say how far a run goes and what it chooses from.
_TELLING = ("num_steps", "num_epochs", "eval_every")

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
      name: shown in the log.
      config: of the run.
      workdir: its folder.
      needs: folders of runs that must be finished before this one, its stages.
      files: without these in its folder it is not finished.
      data: a config with the data of the folder's record; None: `config`.
    """

    name: str
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    needs: tuple[pathlib.Path, ...] = ()
    files: tuple[str, ...] = ()
    data: ml_collections.ConfigDict | None = None


def read_figures(workdir: pathlib.Path) -> Figures | None:
    """Metrics of a finished run; None if it is not finished.

    Test metrics have their own names. Those of other splits are `SPLIT/NAME`; of the validation
    split they belong to the checkpoint that was tested.
    """
    if not (workdir / runtime.METRICS_FILE).exists():
        return None
    rows = runtime.read_metrics(workdir)
    if not rows or not rows[-1].get("final"):
        return None
    final = rows[-1]
    figures: Figures = {}
    for row in rows:
        at = final.get("checkpoint") if row["split"] == "validation" else final["step"]
        if row is final or row["split"] in ("train", "epoch") or row["step"] != at:
            continue
        figures |= {f"{row['split']}/{k}": v for k, v in _numbers(row).items()}
    return figures | _numbers(final)


def _numbers(row: dict[str, Any]) -> Figures:
    return {k: v for k, v in row.items() if k not in runtime.NOT_METRICS and v is not None}


def digest(config: ml_collections.ConfigDict) -> str:
    """A short name of what a run learns; the same in later versions, whose new fields are idle."""
    default, given = (
        _with_mode(config_lib.flatten(config_lib.to_plain(c))) for c in (base.get_config(), config)
    )
    fields = {
        key: value
        for key, value in given.items()
        if (key in _TELLING or not config_lib.is_free(key))
        and (key.startswith("model.") or key not in default or default[key] != value)
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _with_mode(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config with "max" or "min" in place of an automatic best_mode."""
    mode = fields["checkpoint.best_mode"]
    higher = runtime.higher_is_better(fields["checkpoint.best_metric"])
    if higher is not None:
        mode = "max" if higher else "min"
    return {**fields, "checkpoint.best_mode": mode}


def stage_states(folders: Sequence[pathlib.Path]) -> dict[str, dict[str, Any]] | None:
    """Of each stage, by its folder's name: what it is now; None if one is not finished."""
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


def stale(cell: Cell, planned: Mapping[str, str] | None = None) -> str:
    """What is wrong with a cell that began from other data, or another stage, than now; else "".

    Args:
      cell: what is in its folder is judged; one of an earlier version, which kept no record of its
        stages, passes.
      planned: name -> `digest` of the stages as they will be, for a look ahead; by default they are
        taken as they are, and one that is not finished passes.
    """
    if not has_results(cell.workdir):
        return ""
    if found := _other_data(cell):
        return found
    then = read_record(cell.workdir).get("stages")
    if then is None:
        return ""
    if planned is not None:
        changed = _changed(then, planned)
    else:
        now = stage_states(cell.needs)
        changed = [] if now is None else [n for n in now if not _same_stage(now[n], then.get(n))]
    if not changed:
        return ""
    return (
        f"{cell.workdir} was trained from another stage {' and '.join(changed)} than there is now; "
        "move the folder away or remove it, and start again"
    )


def _other_data(cell: Cell) -> str:
    config = cell.data or cell.config
    if config.data.accept_changed:
        return ""
    found = data_record.changed(cell.workdir, config)
    if found is None:
        return ""
    return (
        f"{cell.workdir} was trained on other data than there are now; first difference, "
        f"{found.text}; put the data back as they were, move the folder away and start again, or "
        "keep what was trained by --config.data.accept_changed=True"
    )


def _same_stage(now: Mapping[str, Any], then: Mapping[str, Any] | None) -> bool:
    """Whether a stage is the one that was recorded, by what both records hold."""
    then = then or {}
    both = now.keys() & then.keys()
    known = [key for key in both if key != "data" or None not in (now[key], then[key])]
    return bool(both) and all(now[key] == then[key] for key in known)


def _changed(stages: Mapping[str, Any], planned: Mapping[str, str]) -> list[str]:
    """Recorded stages, and stages of theirs, that are planned otherwise."""
    names = []
    for name, state in stages.items():
        if planned.get(name, state["config"]) != state["config"]:
            names.append(name)
        names += _changed(state["stages"], planned)
    return list(dict.fromkeys(names))


def has_results(workdir: pathlib.Path) -> bool:
    """Returns whether a run, or a fold of it, has begun in a folder."""
    return (
        any((workdir / runtime.CHECKPOINTS_FOLDER).glob("[0-9]*"))
        or any((workdir / "folds").glob("*"))
        or read_figures(workdir) is not None
    )


def last_step(workdir: pathlib.Path) -> int | None:
    """Returns the step of the last row of a run's metrics, None without one."""
    if not (workdir / runtime.METRICS_FILE).exists():
        return None
    rows = runtime.read_metrics(workdir)
    return rows[-1]["step"] if rows else None


def read_record(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns what `cell.json` holds, empty if there is none."""
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return json.loads((workdir / RECORD_FILE).read_text())
    return {}
