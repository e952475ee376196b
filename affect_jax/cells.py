"""Many runs in one process: the cells of a sweep, the folds of a cross-validation.

Each is an ordinary run in a folder of its own. Finished ones are skipped, interrupted ones go on, a
failing one is recorded and does not end the others, unless the mistake is one that all would make.
A lock on the folder lets several processes share the work; it goes with the process that holds it,
however that ends.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax import observe, parallel, train
from affect_jax.errors import UserError
from configs import base
from data_pipelines import caching, locks
from data_pipelines.example import DataError

log = logging.getLogger(__name__)

ERROR_FILE = "error.txt"
_RECORD_FILE = "cell.json"
_LOCK_FILE = ".lock"
DONE, FAILED, OPEN, ELSEWHERE = "done", "failed", "open", "elsewhere"
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
    """

    name: str
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    needs: tuple[pathlib.Path, ...] = ()
    files: tuple[str, ...] = ()


@dataclasses.dataclass
class Outcome:
    """What became of a cell.

    Attributes:
      status: "done", "failed", "open" (not run to its end) or "elsewhere" (another process has it).
      figures: name -> value of a finished cell: of the test split; `SPLIT/NAME` of other splits.
      seconds: spent on it in all attempts that came to an end.
      error: what went wrong in one line, which names the file of a longer message.
    """

    status: str
    figures: Figures = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


def read_figures(workdir: pathlib.Path) -> Figures | None:
    """Metrics of a finished run; None if it is not finished.

    Test metrics have their own names. Those of other splits are `SPLIT/NAME`; of the validation
    split they belong to the checkpoint that was tested.
    """
    if not (workdir / observe.METRICS_FILE).exists():
        return None
    rows = observe.read_metrics(workdir)
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
    return {k: v for k, v in row.items() if k not in observe.NOT_METRICS and v is not None}


def outcome(cell: Cell) -> Outcome:
    """What is known of a cell from its folder."""
    seconds = _record(cell.workdir).get("seconds", 0.0)
    if message := stale(cell):
        return Outcome(FAILED, {}, seconds, message)
    if (figures := _finished(cell)) is not None:
        return Outcome(DONE, figures, seconds)
    if locks.is_held(cell.workdir / _LOCK_FILE):
        return Outcome(ELSEWHERE, {}, seconds, "another process works on it")
    error = cell.workdir / ERROR_FILE
    if error.exists():
        text = error.read_text(errors="replace").strip()
        first, *rest = text.splitlines() or [""]
        return Outcome(FAILED, {}, seconds, f"{first} ... (all of it: {error})" if rest else first)
    return Outcome(OPEN, {}, seconds)


def digest(config: ml_collections.ConfigDict) -> str:
    """A short name of what a run learns; the same in later versions, whose new fields are idle."""
    default = config_lib.flatten(config_lib.to_plain(base.get_config()))
    fields = {
        key: value
        for key, value in config_lib.flatten(config_lib.to_plain(config)).items()
        if (key in _TELLING or not config_lib.is_free(key))
        and (key.startswith("model.") or key not in default or default[key] != value)
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _stage_states(folders: Sequence[pathlib.Path]) -> dict[str, dict[str, Any]] | None:
    """Of each stage, by its folder's name: what it is now; None if one is not finished."""
    states = {}
    for folder in folders:
        if read_figures(folder) is None:
            return None
        states[folder.name] = {
            "step": _last_step(folder),
            "config": digest(config_lib.read_workdir_config(folder)),
            "stages": _record(folder).get("stages", {}),
        }
    return states


def stale(cell: Cell, planned: Mapping[str, str] | None = None) -> str:
    """What is wrong with a cell that began from a stage which is another one now; else "".

    Args:
      cell: what is in its folder is judged; one of an earlier version, which kept no record of its
        stages, passes.
      planned: name -> `digest` of the stages as they will be, for a look ahead; by default they are
        taken as they are, and one that is not finished passes.
    """
    then = _record(cell.workdir).get("stages")
    if then is None or not _has_results(cell.workdir):
        return ""
    if planned is not None:
        changed = _changed(then, planned)
    else:
        now = _stage_states(cell.needs)
        changed = [] if now is None else [n for n in now if now[n] != then.get(n)]
    if not changed:
        return ""
    return (
        f"{cell.workdir} was trained from another stage {' and '.join(changed)} than there is now; "
        "move the folder away or remove it, and start again"
    )


def _changed(stages: Mapping[str, Any], planned: Mapping[str, str]) -> list[str]:
    """Recorded stages, and stages of theirs, that are planned otherwise."""
    names = []
    for name, state in stages.items():
        if planned.get(name, state["config"]) != state["config"]:
            names.append(name)
        names += _changed(state["stages"], planned)
    return list(dict.fromkeys(names))


def _has_results(workdir: pathlib.Path) -> bool:
    return (
        any((workdir / "checkpoints").glob("[0-9]*"))
        or any((workdir / "folds").glob("*"))
        or read_figures(workdir) is not None
    )


def _finished(cell: Cell) -> Figures | None:
    """Figures of a cell that has been run to its end with the very config it has now."""
    path = cell.workdir / config_lib.CONFIG_FILE
    if not path.exists():
        return None
    try:
        recorded = json.loads(path.read_text())
    except json.JSONDecodeError:
        return None  # the run itself says what is wrong with it
    # A run of an earlier version lacks fields, which then had the values they have by default now.
    now, then = (
        config_lib.to_plain(config_lib.from_recorded(c))
        for c in (config_lib.to_plain(cell.config), recorded)
    )
    if now != then or stale(cell):
        return None
    planned = _planned_steps(cell)
    if planned is not None and _last_step(cell.workdir) != planned:
        return None  # of a shorter run that is being made longer
    if not all((cell.workdir / name).exists() for name in cell.files):
        return None
    return read_figures(cell.workdir)


def _planned_steps(cell: Cell) -> int | None:
    """Steps of a whole run; None if nothing tells how many an epoch has."""
    if cell.config.num_steps is not None:
        return cell.config.num_steps
    rows = []
    if (cell.workdir / observe.METRICS_FILE).exists():
        rows = [r for r in observe.read_metrics(cell.workdir) if r["split"] == "train"]
    epochs = [(r["step"], r["epoch"]) for r in rows if r.get("epoch")]
    if not epochs:
        return None
    step, epoch = epochs[-1]
    return math.ceil(cell.config.num_epochs * round(step / epoch))


def _last_step(workdir: pathlib.Path) -> int | None:
    if not (workdir / observe.METRICS_FILE).exists():
        return None
    rows = observe.read_metrics(workdir)
    return rows[-1]["step"] if rows else None


def _record(workdir: pathlib.Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return json.loads((workdir / _RECORD_FILE).read_text())
    return {}


def train_cell(cell: Cell, *, show_test: bool = True) -> None:
    """Runs a cell as `--mode=train` would; without `show_test` its test figures are not printed."""
    train.train_and_evaluate(cell.config, cell.workdir, show_test=show_test)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Around a report that is written because something failed, which it must not hide."""
    try:
        yield
    except Exception as error:
        log.error("nor could the report be written: %s", error)


def run_all(
    cells: Sequence[Cell],
    *,
    run: Callable[[Cell], None] = train_cell,
    after: Callable[[], object] = lambda: None,
    required: bool = False,
) -> int:
    """Runs the cells that are not finished, in order.

    A mistake in the config or in the weights to start from is the same in all of them: as long as
    no cell has trained, a UserError of one ends all, so that it is not told once for every cell.
    Data (a DataError) may be bad in one fold alone, and a program error or a loss that is no number
    may come of one row: these are recorded.

    Args:
      cells: in the order in which they are run.
      run: runs one to its end, or raises.
      after: called after each that was run, whatever became of it.
      required: wait for cells that another process has, and let the first failure end all.

    Returns:
      The number of cells that failed.

    Raises:
      train.Stopped: after SIGINT or SIGTERM; the cell it came in has saved its state.
      UserError: a required cell failed, or one by a mistake before any had trained.
    """
    failed, spent = 0, []
    waiting = [c for c in cells if not parallel.any_process(_finished(c) is not None)]
    if len(waiting) < len(cells):
        log.info("%d of %d are finished already", len(cells) - len(waiting), len(cells))
    with caching.shared():
        for number, cell in enumerate(waiting, start=1):
            left = f", about {_left(spent, len(waiting) - number + 1)} left" if spent else ""
            with _locked(cell.workdir, wait=required) as mine:
                if not mine:
                    log.info("%s: another process works on it", cell.name)
                    continue
                if parallel.any_process(_finished(cell) is not None):
                    continue  # by another process, meanwhile
                log.info("[%d of %d] %s%s", number, len(waiting), cell.name, left)
                begin = time.monotonic()
                error = _attempt(cell, run)
                spent.append(time.monotonic() - begin)
            if error is not None:
                failed += 1
                if required:
                    raise UserError(f"{cell.name} failed, and others need it: {_told(error)}")
                if _is_mistake(error) and not any(_has_trained(c.workdir) for c in cells):
                    raise UserError(f"{cell.name} failed before any was trained: {_told(error)}")
                log.error("%s failed: %s", cell.name, _told(error))
            after()
    return failed


def _told(error: Exception) -> str:
    if isinstance(error, UserError | DataError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _is_mistake(error: Exception) -> bool:
    return isinstance(error, UserError) and not isinstance(error, train.Diverged)


def _has_trained(workdir: pathlib.Path) -> bool:
    """Whether a run, or a fold of it, has done a step that it keeps."""
    return any(
        any((folder / "checkpoints").glob("[0-9]*")) or _last_step(folder) is not None
        for folder in (workdir, *(workdir / "folds").glob("*"))
    )


def _left(spent: Sequence[float], cells: int) -> str:
    return observe.duration(sum(spent) / len(spent) * cells)


def _attempt(cell: Cell, run: Callable[[Cell], None]) -> Exception | None:
    """Runs a cell; returns what went wrong, None if nothing."""
    begin = time.monotonic()
    failure, written = None, ""
    try:
        for needed in cell.needs:
            if read_figures(needed) is None:
                raise UserError(f"it needs the run in {needed}, which is not finished")
        if parallel.any_process(bool(another := stale(cell))):
            raise UserError(another or "it was trained from another stage; see the main process")
        _record_stages(cell)
        run(cell)
    except train.Stopped:
        _close(cell, begin, "")
        raise
    except (UserError, DataError) as error:
        failure, written = error, _told(error)
    except Exception as error:  # whatever it is, the other cells are none the worse for it
        failure, written = error, f"{_told(error)}\n\n{traceback.format_exc()}"
    _close(cell, begin, written)
    return failure


def _close(cell: Cell, begin: float, error: str) -> None:
    if not parallel.is_main_process():
        return
    cell.workdir.mkdir(parents=True, exist_ok=True)
    seconds = _record(cell.workdir).get("seconds", 0.0) + time.monotonic() - begin
    _update_record(cell, seconds=round(seconds, 1))
    if error:
        observe.write_atomically(cell.workdir / ERROR_FILE, f"{error.strip()}\n".encode())
    else:
        (cell.workdir / ERROR_FILE).unlink(missing_ok=True)


def _record_stages(cell: Cell) -> None:
    """Notes what the stages of a cell are, unless it has begun: from others, perhaps."""
    if parallel.is_main_process() and cell.needs and not _has_results(cell.workdir):
        _update_record(cell, stages=_stage_states(cell.needs))


def _update_record(cell: Cell, **values: Any) -> None:
    cell.workdir.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**_record(cell.workdir), "name": cell.name, **values}) + "\n"
    observe.write_atomically(cell.workdir / _RECORD_FILE, content.encode())


@contextlib.contextmanager
def _locked(workdir: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Holds the folder's lock; yields False, without it, where another job has it."""
    if not parallel.is_main_process():
        yield not parallel.any_process(False)
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / _LOCK_FILE, "w") as file:
        mine = locks.take(file)
        if not mine:
            time.sleep(0.1)  # it may be one that only looks whether it is held
            mine = locks.take(file)
        if not mine and wait:
            log.info("waiting for another process that works on %s", workdir)
            mine = locks.take(file, wait=True)
        yield not parallel.any_process(not mine)
