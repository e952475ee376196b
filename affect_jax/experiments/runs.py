"""Run the rows of a sweep, or the folds of a cross-validation, in one process.

Finished runs are skipped and interrupted ones are resumed. A failure is recorded and the other runs
continue, unless all runs would make the same mistake. A lock on each folder lets several processes
share the work; the lock ends with its process.
"""

import contextlib
import json
import logging
import pathlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.experiments import planned_runs, train_run
from affect_jax.experiments.planned_runs import DONE, ERROR_FILE, LOCK_FILE, RECORD_FILE, PlannedRun
from affect_jax.runtime import parallel
from affect_jax.training import loop, run_lock
from data_pipelines import disk, locks
from data_pipelines.schema import DataError

log = logging.getLogger(__name__)


def train(run: PlannedRun, *, show_test: bool = True) -> None:
    """Train and test a run as `--mode=train` does; show_test prints the metrics."""
    train_run.train_run(run.config, run.workdir, show_test=show_test, cache=run.cache)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Log an error of a report, which must not hide an earlier error."""
    try:
        yield
    except Exception as error:
        if not disk.is_full(error):  # then the first error says so, or the next one will
            log.error("the report could not be written either: %s", error)


def run_all(
    planned: Sequence[PlannedRun],
    *,
    run: Callable[[PlannedRun], None] = train,
    after: Callable[[], object] = lambda: None,
    required: bool = False,
) -> int:
    """Run what is not finished, in order.

    A UserError before any run has trained is a mistake in the config or in the weights to start
    from, which all runs share: it ends the call. Bad data (DataError) may concern only one fold,
    and divergence or a program error only one row: these are recorded.

    Args:
      run: trains one run to its end, or raises.
      after: called after each run, also after a failed one.
      required: wait for runs of other processes, and stop at the first failure.

    Returns:
      The number of runs that failed.

    Raises:
      Stopped: after SIGINT or SIGTERM; the interrupted run has saved its state.
      UserError: a required run failed, or one failed by a shared mistake.
    """
    failed = 0
    spent: list[float] = []
    waiting = [one for one in planned if not _is_done(one)]
    if len(waiting) < len(planned):
        log.info("%d of %d are finished already", len(planned) - len(waiting), len(planned))
    for number, one in enumerate(waiting, start=1):
        with _locked(one.workdir, wait=required) as mine:
            if not mine:
                log.info("%s is skipped: another process is training it", one.name)
                continue
            if _is_done(one):  # another process has finished it meanwhile
                continue
            left = ""
            if spent:
                seconds = sum(spent) / len(spent) * (len(waiting) - number + 1)
                left = f", about {runtime.duration(seconds)} left"
            log.info("[%d of %d] %s%s", number, len(waiting), one.name, left)
            begin = time.monotonic()
            error = _attempt(one, run)
            spent.append(time.monotonic() - begin)
        if error is not None:
            failed += 1
            if required:
                raise UserError(
                    f"{one.name} failed, and other runs start from it: {_message(error)}"
                )
            if _is_shared(error, planned):
                raise UserError(f"{one.name} failed before any training: {_message(error)}")
            log.error("%s failed: %s", one.name, _message(error))
        after()
    return failed


def _is_done(run: PlannedRun) -> bool:
    return parallel.any_process(planned_runs.outcome(run).status == DONE)


def _message(error: Exception) -> str:
    if isinstance(error, UserError | DataError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _is_shared(error: Exception, planned: Sequence[PlannedRun]) -> bool:
    """Return whether all runs would make the same mistake; the main process decides.

    The other processes may only know that the main process had an error.
    """
    mistake = isinstance(error, UserError) and not isinstance(error, loop.Diverged)
    shared = mistake and not any(_has_trained(run.workdir) for run in planned)
    return bool(parallel.from_main(lambda: int(shared)))


def _has_trained(workdir: pathlib.Path) -> bool:
    """Return whether a run, or a fold of it, has done a step that it keeps."""
    return any(
        any((folder / runtime.CHECKPOINTS_FOLDER).glob("[0-9]*"))
        or planned_runs.last_step(folder) is not None
        for folder in (workdir, *(workdir / "folds").glob("*"))
    )


def _attempt(one: PlannedRun, run: Callable[[PlannedRun], None]) -> Exception | None:
    """Run one run and record the attempt; return the failure, or None."""
    begin = time.monotonic()
    failure, written = None, ""
    try:
        for stage in one.needs:
            if planned_runs.read_figures(stage) is None:
                raise UserError(f"it needs the run in {stage}, which is not finished")
        if parallel.any_process(bool(reason := planned_runs.stale(one))):
            raise UserError(reason or "its results are out of date; see the main process")
        if one.needs and not planned_runs.has_results(one.workdir):
            _update_record(one, stages=planned_runs.stage_states(one.needs))
        run(one)
    except loop.Stopped:
        _record_attempt(one, begin, "")
        raise
    except Exception as error:  # of any kind: the other runs can still succeed
        if disk.is_full(error):
            raise  # but not on a full disk
        failure, written = error, _message(error)
        if not isinstance(error, UserError | DataError):
            written += f"\n\n{traceback.format_exc()}"
    _record_attempt(one, begin, written)
    return failure


def _record_attempt(run: PlannedRun, begin: float, error: str) -> None:
    """Add the time of an attempt to the run's record; write or remove its error file."""
    seconds = planned_runs.read_record(run.workdir).get("seconds", 0.0) + time.monotonic() - begin
    _update_record(run, seconds=round(seconds, 1))
    if not parallel.is_main_process():
        return
    if error:
        runtime.write_atomically(run.workdir / ERROR_FILE, f"{error.strip()}\n".encode())
    else:
        (run.workdir / ERROR_FILE).unlink(missing_ok=True)


def _update_record(run: PlannedRun, **values: Any) -> None:
    if parallel.is_main_process():
        run.workdir.mkdir(parents=True, exist_ok=True)
        content = {**planned_runs.read_record(run.workdir), "name": run.name, **values}
        runtime.write_atomically(run.workdir / RECORD_FILE, (json.dumps(content) + "\n").encode())


@contextlib.contextmanager
def _locked(workdir: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder; yield False, without it, where another job has it."""
    if not parallel.is_main_process():
        yield not parallel.any_process(False)
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK_FILE, "w") as file:
        mine = locks.take(file)
        if not mine:
            time.sleep(0.1)  # a process that only looks at the lock has it for a moment
            mine = locks.take(file)
        if wait and (not mine or run_lock.is_held(workdir)):
            log.info("waiting for another process that is training %s", workdir)
            mine = mine or locks.take(file, wait=True)
        # `--mode=train` in this very folder holds a lock of its own.
        while wait and run_lock.is_held(workdir):
            time.sleep(1)
        yield not parallel.any_process(not mine or run_lock.is_held(workdir))
