"""Many runs in one process: the cells of a sweep, the folds of a cross-validation.

Each is an ordinary run in a folder of its own. Finished ones are skipped, interrupted ones go on, a
failing one is recorded and does not end the others, unless the mistake is one that all would make.
A lock on the folder lets several processes share the work; it goes with the process that holds it,
however that ends.
"""

import contextlib
import dataclasses
import json
import logging
import math
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.experiments import train_run
from affect_jax.experiments.finished_runs import (
    RECORD_FILE,
    Cell,
    Figures,
    digest,
    has_results,
    last_step,
    read_figures,
    read_record,
    stage_states,
    stale,
)
from affect_jax.runtime import parallel
from affect_jax.training import loop, run_lock
from data_pipelines import disk, locks
from data_pipelines.schema import DataError
from data_pipelines.sources import cache

__all__ = [
    "DONE",
    "ELSEWHERE",
    "ERROR_FILE",
    "FAILED",
    "OPEN",
    "Cell",
    "Outcome",
    "digest",
    "outcome",
    "read_figures",
    "reporting",
    "run_all",
    "stale",
    "train_cell",
]

log = logging.getLogger(__name__)

ERROR_FILE = "error.txt"
_LOCK_FILE = ".lock"
DONE, FAILED, OPEN, ELSEWHERE = "done", "failed", "open", "elsewhere"


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


def outcome(cell: Cell) -> Outcome:
    """What is known of a cell from its folder."""
    seconds = read_record(cell.workdir).get("seconds", 0.0)
    if message := stale(cell):
        return Outcome(FAILED, {}, seconds, message)
    if (figures := _finished(cell)) is not None:
        return Outcome(DONE, figures, seconds)
    if locks.is_held(cell.workdir / _LOCK_FILE) or run_lock.is_held(cell.workdir):
        return Outcome(ELSEWHERE, {}, seconds, "another process works on it")
    error = cell.workdir / ERROR_FILE
    if error.exists():
        text = error.read_text(errors="replace").strip()
        first, *rest = text.splitlines() or [""]
        return Outcome(FAILED, {}, seconds, f"{first} ... (all of it: {error})" if rest else first)
    return Outcome(OPEN, {}, seconds)


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
    for config in (now, then):
        config["data"].pop("accept_changed")  # a word for one call
    if now != then or stale(cell):
        return None
    planned = _planned_steps(cell)
    if planned is not None and last_step(cell.workdir) != planned:
        return None  # of a shorter run that is being made longer
    if not all((cell.workdir / name).exists() for name in cell.files):
        return None
    return read_figures(cell.workdir)


def _planned_steps(cell: Cell) -> int | None:
    """Steps of a whole run; None if nothing tells how many an epoch has."""
    if cell.config.num_steps is not None:
        return cell.config.num_steps
    rows = []
    if (cell.workdir / runtime.METRICS_FILE).exists():
        rows = [r for r in runtime.read_metrics(cell.workdir) if r["split"] == "train"]
    epochs = [(r["step"], r["epoch"]) for r in rows if r.get("epoch")]
    if not epochs:
        return None
    step, epoch = epochs[-1]
    return math.ceil(cell.config.num_epochs * round(step / epoch))


def train_cell(cell: Cell, *, show_test: bool = True) -> None:
    """Runs a cell as `--mode=train` would; without `show_test` its test figures are not printed."""
    train_run.train_run(cell.config, cell.workdir, show_test=show_test)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Around a report that is written because something failed, which it must not hide."""
    try:
        yield
    except Exception as error:
        if disk.is_full(error):
            return  # which the error that is being told says too, or what comes next will
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
    with cache.shared():
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
                if _ends_all(error, cells):
                    raise UserError(f"{cell.name} failed before any was trained: {_told(error)}")
                log.error("%s failed: %s", cell.name, _told(error))
            after()
    return failed


def _told(error: Exception) -> str:
    if isinstance(error, UserError | DataError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _ends_all(error: Exception, cells: Sequence[Cell]) -> bool:
    """Whether an error is a mistake that all cells have in common, on every process alike.

    The others may know of the main process's error only that there was one.
    """
    mistake = isinstance(error, UserError) and not isinstance(error, loop.Diverged)
    alone = mistake and not any(_has_trained(cell.workdir) for cell in cells)
    return bool(parallel.from_main(lambda: int(alone)))


def _has_trained(workdir: pathlib.Path) -> bool:
    """Whether a run, or a fold of it, has done a step that it keeps."""
    return any(
        any((folder / "checkpoints").glob("[0-9]*")) or last_step(folder) is not None
        for folder in (workdir, *(workdir / "folds").glob("*"))
    )


def _left(spent: Sequence[float], cells: int) -> str:
    return runtime.duration(sum(spent) / len(spent) * cells)


def _attempt(cell: Cell, run: Callable[[Cell], None]) -> Exception | None:
    """Runs a cell; returns what went wrong, None if nothing."""
    begin = time.monotonic()
    failure, written = None, ""
    try:
        for needed in cell.needs:
            if read_figures(needed) is None:
                raise UserError(f"it needs the run in {needed}, which is not finished")
        if parallel.any_process(bool(another := stale(cell))):
            raise UserError(another or "it was trained from another start; see the main process")
        _record_stages(cell)
        run(cell)
    except loop.Stopped:
        _close(cell, begin, "")
        raise
    except Exception as error:  # whatever it is, the other cells are none the worse for it
        if disk.is_full(error):
            raise  # but by this all of them would fail
        failure, written = error, _told(error)
        if not isinstance(error, UserError | DataError):
            written += f"\n\n{traceback.format_exc()}"
    _close(cell, begin, written)
    return failure


def _close(cell: Cell, begin: float, error: str) -> None:
    if not parallel.is_main_process():
        return
    cell.workdir.mkdir(parents=True, exist_ok=True)
    seconds = read_record(cell.workdir).get("seconds", 0.0) + time.monotonic() - begin
    _update_record(cell, seconds=round(seconds, 1))
    if error:
        runtime.write_atomically(cell.workdir / ERROR_FILE, f"{error.strip()}\n".encode())
    else:
        (cell.workdir / ERROR_FILE).unlink(missing_ok=True)


def _record_stages(cell: Cell) -> None:
    """Notes what the stages of a cell are, unless it has begun: from others, perhaps."""
    if parallel.is_main_process() and cell.needs and not has_results(cell.workdir):
        _update_record(cell, stages=stage_states(cell.needs))


def _update_record(cell: Cell, **values: Any) -> None:
    cell.workdir.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**read_record(cell.workdir), "name": cell.name, **values}) + "\n"
    runtime.write_atomically(cell.workdir / RECORD_FILE, content.encode())


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
        if wait and (not mine or run_lock.is_held(workdir)):
            log.info("waiting for another process that works on %s", workdir)
        if not mine and wait:
            mine = locks.take(file, wait=True)
        # `--mode=train` in this very folder holds a lock of its own.
        while mine and wait and run_lock.is_held(workdir):
            time.sleep(1)
        mine = mine and not run_lock.is_held(workdir)
        yield not parallel.any_process(not mine)
