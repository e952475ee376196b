"""One training at a time in a workdir; the lock goes with its process."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.experiments import runs
from affect_jax.experiments.planned_runs import ELSEWHERE, PlannedRun, outcome
from affect_jax.training import loop, run_lock
from tests.affect_jax import tiny

HOLD = """
import pathlib, sys, time
from affect_jax.training import run_lock
with run_lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that trains in tmp_path/run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=tiny.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_is_refused_until_the_first_is_gone(other, tmp_path):
    workdir = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            loop.train_and_evaluate(tiny.one_block(), workdir)
        text = str(caught.value)
        assert f"process {other.pid} on" in text and str(workdir) in text and "\n" not in text
        assert "choose another --workdir" in text
    assert [p.name for p in workdir.iterdir()] == [run_lock.LOCK_FILE]
    assert run_lock.is_held(workdir)
    assert outcome(PlannedRun("a", tiny.one_block(), workdir)).status == ELSEWHERE
    ran = []
    assert runs.run_all([PlannedRun("a", tiny.one_block(), workdir)], run=ran.append) == 0
    assert ran == []
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not run_lock.is_held(workdir)
    with run_lock.held(workdir):
        pass


def test_the_lock_is_free_after_an_error_and_apart_from_that_of_a_cell(tmp_path):
    def run(cell):
        with run_lock.held(cell.workdir):
            raise UserError("made to fail")

    cell = PlannedRun("a", tiny.one_block(), tmp_path)
    with pytest.raises(UserError, match="made to fail"):
        runs.run_all([cell], run=run, required=True)
    with run_lock.held(tmp_path), pytest.raises(UserError, match="another process trains in"):
        run_lock.held(tmp_path).__enter__()
    with run_lock.held(tmp_path):
        pass


def test_all_processes_end_when_the_main_one_may_not_begin(monkeypatch, tmp_path):
    """The others learn of it where they would wait for it."""
    monkeypatch.setattr(run_lock.parallel, "is_main_process", lambda: False)
    monkeypatch.setattr(
        run_lock.parallel, "all_gather_hosts", lambda array: np.array([[1.0, 1.0, 0.0], array])
    )
    with pytest.raises(UserError, match="main process stopped"), run_lock.held(tmp_path / "r"):
        pass
    assert not (tmp_path / "r").exists()
