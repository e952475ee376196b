"""Many runs in one process: failures, locks, processes that share the work or are killed."""

import errno
import fcntl
import signal

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.experiments import planned_runs, runs, train_run
from affect_jax.experiments.planned_runs import PlannedRun
from affect_jax.report import comparison_table
from affect_jax.training import loop
from tests.affect_jax import tiny
from tests.affect_jax.experiments.sweeps import (
    PLAIN,
    kill_when,
    read_csv,
    run_sweep,
    start,
    write_sweep,
)


def test_a_longer_run_is_resumed(fakes, tmp_path):
    path = write_sweep(tmp_path, PLAIN)
    run_sweep(path, tmp_path / "w", sweep__seeds="0")
    run_sweep(path, tmp_path / "w", sweep__seeds="0", num_steps=20)
    assert len(fakes) == 4


def test_a_failing_run_is_recorded_and_does_not_end_the_others(fakes, tmp_path):
    path = write_sweep(tmp_path, '"rows": {"bad": {"loss.regression": "pcc"}, "good": {}}')
    assert run_sweep(path, tmp_path / "w") == 3
    assert len(fakes) == 6
    error = (tmp_path / "w/cells/bad/seed1/error.txt").read_text()
    assert error.startswith("RuntimeError: made to fail") and "Traceback" in error
    assert "bad, seed 1: failed: RuntimeError" in (tmp_path / "w/report/table.md").read_text()
    status = [r["status"] for r in read_csv(tmp_path / "w/report/cells.csv")]
    assert sorted(status) == ["done"] * 3 + ["failed"] * 3
    assert run_sweep(path, tmp_path / "w") == 3  # failed ones alone are tried again
    assert len(fakes) == 9


def test_a_mistake_of_the_first_run_ends_the_sweep(tmp_path, monkeypatch):
    started = []

    def mistaken(config, workdir, show_test=True, cache=None):
        started.append(workdir)
        raise UserError("no weights there")

    monkeypatch.setattr(train_run, "train_run", mistaken)
    with pytest.raises(UserError, match=r"R\+C, seed 0 failed before.*no weights there"):
        run_sweep(write_sweep(tmp_path, PLAIN), tmp_path / "w")
    assert len(started) == 1


def test_a_failing_stage_ends_the_sweep(fakes, tmp_path):
    described = (
        '"stages": {"trunk": {"loss.regression": "pcc"}}, "rows": {"a": {"init_from": '
        '"stage:trunk"}}'
    )
    with pytest.raises(UserError, match=r"stage trunk failed.*made to fail"):
        run_sweep(write_sweep(tmp_path, described), tmp_path / "w")
    assert len(fakes) == 1


def test_file_systems_without_locks_are_told(fakes, tmp_path, monkeypatch, caplog):
    def none(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert run_sweep(write_sweep(tmp_path, PLAIN), tmp_path / "w", sweep__seeds="0") == 0
    assert len(fakes) == 2 and "has no locks" in caplog.text


def test_a_report_that_fails_hides_no_other_error(fakes, tmp_path, monkeypatch, caplog):
    def stop(*_, **__):
        raise loop.Stopped(3, signal.SIGTERM)

    monkeypatch.setattr(train_run, "train_run", stop)
    monkeypatch.setattr(comparison_table.Comparison, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(loop.Stopped):
        run_sweep(write_sweep(tmp_path, PLAIN), tmp_path / "w")
    assert "could not be written either" in caplog.text


def test_a_run_of_another_process_is_left_to_it(fakes, tmp_path):
    path = write_sweep(tmp_path, PLAIN)
    folder = tmp_path / "w/cells/MSE/seed0"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_sweep(path, tmp_path / "w", sweep__seeds="0") == 0
    assert fakes == [("shake_shake", 0)]
    status = {r["row"]: r["status"] for r in read_csv(tmp_path / "w/report/cells.csv")[:2]}
    assert status == {"R+C": "done", "MSE": "elsewhere"}
    assert "MSE, seed 0: elsewhere" in (tmp_path / "w/report/table.md").read_text()
    run_sweep(path, tmp_path / "w", sweep__report_only=True)
    assert "elsewhere" not in (tmp_path / "w/report/table.md").read_text()


@pytest.mark.parametrize(("main_says", "ends"), [(0.0, False), (1.0, True)])
def test_processes_agree_on_whether_a_failure_ends_all(main_says, ends, tmp_path, monkeypatch):
    """A process knows of the main one's error only that there was one: the main one decides."""
    one = PlannedRun("a", tiny.one_block(), tmp_path / "a")
    monkeypatch.setattr(runs.parallel, "is_main_process", lambda: False)
    monkeypatch.setattr(
        runs.parallel, "all_gather_hosts", lambda mine: np.array([[0.0, 0.0, main_says], mine])
    )
    assert runs._is_shared(UserError("the main process has stopped"), [one]) is ends
    assert runs._is_shared(RuntimeError("of this process alone"), [one]) is ends


KILLED = """
import sys, time
from affect_jax.config import load_file
from affect_jax.experiments import sweep
from affect_jax.training import loop
from tests.affect_jax import fake_runs

def run(config, workdir, show_test=True, cache=None):
    if config.loss.regression == "mse":
        time.sleep(300)
    fake_runs.finish(config, workdir, 0.5)

loop.train_and_evaluate = run
sweep.run(load_file(sys.argv[1]), sys.argv[2], sys.argv[1])
"""


def test_a_killed_sweep_leaves_nothing_locked_and_skips_what_was_finished(fakes, tmp_path):
    path = write_sweep(tmp_path, PLAIN + ', "seeds": (0,)')
    process = start("-c", KILLED, str(path), str(tmp_path / "w"))
    second = tmp_path / "w/cells/MSE/seed0"
    kill_when(process, lambda: (second / ".lock").exists())
    assert planned_runs.read_figures(second) is None
    assert run_sweep(path, tmp_path / "w") == 0
    assert fakes == [("mse", 0)]
