"""A full disk ends every writer with one line that says what to do; nothing is spoilt."""

import errno
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import types

import pytest

from affect_jax import export, report, runtime
from affect_jax.errors import UserError
from affect_jax.experiments import planned_runs, runs, train_run
from affect_jax.runtime import logs, metric_writer
from affect_jax.training import loop
from affect_jax.weights import checkpoint_damage, model_dir
from affect_jax.weights.checkpoints import Checkpointer
from data_pipelines import disk
from tests.affect_jax import tiny
from tests.affect_jax.weights.test_checkpoints import make_state, record

CHANGES = {
    "num_steps": 2,
    "checkpoint__every": 1,
    "eval_every": 2,
    "eval__flip": False,
    "report__pictures": False,
}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    loop.train_and_evaluate(tiny.one_block(**CHANGES), workdir)
    return workdir


def fill(monkeypatch, name: str) -> None:
    """No room for files whose name holds `name`."""
    whole = os.fsync

    def fsync(number: int) -> None:
        if name in pathlib.Path(os.readlink(f"/proc/self/fd/{number}")).name:
            raise FULL
        whole(number)

    monkeypatch.setattr(metric_writer.os, "fsync", fsync)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "data.",
        "predictions.npz",
        "results.md",
        # Of the same folder as those two.
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("predictions.csv", "curves.png")),
    ],
)
def test_a_run_names_the_file_and_goes_on_later(
    name,
    finished,
    tmp_path,
    monkeypatch,
):
    for part in ("checkpoints", "metrics.jsonl", "config.json"):
        copy = shutil.copytree if (finished / part).is_dir() else shutil.copy
        copy(finished / part, tmp_path / part)
    changes = CHANGES | {"report__pictures": True}
    fill(monkeypatch, name)
    with pytest.raises(disk.DiskFullError) as caught:
        train_run.train_run(tiny.one_block(**changes), tmp_path)
    text = str(caught.value)
    assert name.strip(".") in text and str(tmp_path) in text and "\n" not in text
    assert "free some space" in text
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    train_run.train_run(tiny.one_block(**changes), tmp_path)
    assert (tmp_path / "report" / report.RESULTS_FILE).exists()


def test_a_checkpoint_that_has_no_room_leaves_those_before(tmp_path, monkeypatch, caplog, capfd):
    logs.quiet_orbax()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state(1), record=record(), metrics={"loss": 1.0})
    checkpointer.wait()

    def seal(_):
        raise FULL

    monkeypatch.setattr(checkpoint_damage, "seal", seal)
    checkpointer.save(2, make_state(2), record=record(), metrics={"loss": 1.0})
    with pytest.raises(UserError, match=r"no room to write a checkpoint.*free some space"):
        checkpointer.wait()
    checkpointer.close()
    assert not [r for r in caplog.records if r.exc_info]
    assert "Traceback" not in capfd.readouterr().err
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    monkeypatch.undo()
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest_step() == 1
    checkpointer.save(2, make_state(2), record=record(), metrics={"loss": 1.0})
    checkpointer.wait()
    assert checkpointer.latest_step() == 2
    checkpointer.close()


def test_echoes_are_left_out_and_other_errors_are_not(caplog, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    monkeypatch.setattr(threading, "excepthook", shown.append)
    logs.quiet_orbax()
    logs.quiet_orbax()

    class Unraisable:
        def __init__(self, error):
            self.exc_value = error

    for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), None):
        sys.unraisablehook(Unraisable(error))
        threading.excepthook(Unraisable(error))
    assert [str(u.exc_value) for u in shown] == ["another", "another", "None", "None"]
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        logger.error("failed: %s", 1, exc_info=(OSError, FULL, None))
        assert not caplog.records
        logger.error("failed: %s", 2, exc_info=(ValueError, ValueError("x"), None))
        assert len(caplog.records) == 1
        caplog.clear()


def passed_through(error: Exception, module: str) -> Exception:
    """The error after it was raised in the code of a module."""
    code = {"__name__": module, "error": error}
    with pytest.raises(type(error)):
        exec("raise error", code)
    error.__traceback__ = error.__traceback__.tb_next  # without this function
    return error


@pytest.mark.parametrize(
    ("module", "kept"),
    [("orbax.checkpoint.x", False), ("concurrent.futures.thread", False), ("theirs.upload", True)],
)
def test_errors_of_other_code_are_left_alone(module, kept, caplog, monkeypatch):
    """A program that imports this library has threads and log lines of its own."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    monkeypatch.setattr(threading, "excepthook", shown.append)
    logs.quiet_orbax()
    ended = passed_through(RuntimeError("cannot schedule new futures after shutdown"), module)
    full = passed_through(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), module)
    for hook in (sys.unraisablehook, threading.excepthook):
        hook(types.SimpleNamespace(exc_value=ended))
    for error in (ended, full):
        logging.getLogger("absl").error("no", exc_info=(type(error), error, error.__traceback__))
    assert (len(shown), len(caplog.records)) == ((2, 2) if kept else (0, 0))


def test_export_says_so(finished, tmp_path, monkeypatch, capsys):
    def save(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: ... [OS error 28: No space left on device]")

    monkeypatch.setattr(model_dir, "save_model", save)
    arguments = ["--workdir", str(finished), "--output", str(tmp_path / "model")]
    assert export.main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # after what the log says
    assert str(tmp_path / "model") in line and "free some space" in line


def test_a_sweep_ends_at_once(tmp_path):
    started = []

    def run(cell):
        started.append(cell.name)
        raise UserError("no room to write a checkpoint; free some space") from FULL

    both = [planned_runs.PlannedRun(n, tiny.one_block(), tmp_path / n) for n in "ab"]
    with pytest.raises(UserError, match="no room"):
        runs.run_all(both, run=run)
    assert started == ["a"]


def test_the_command_ends_with_one_line_and_a_status(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / runtime.EVALUATIONS_FILE).symlink_to("/dev/full")
    (tmp_path / "config.py").write_text(
        "from tests.affect_jax import test_full_disk as t, tiny\n"
        "def get_config(): return tiny.one_block(**t.CHANGES)\n"
    )
    command = [sys.executable, "-m", "affect_jax.main", "--mode=eval", "--workdir"]
    done = subprocess.run(
        [*command, str(tmp_path / "run"), "--config", str(tmp_path / "config.py")],
        cwd=tiny.ROOT,
        env={**os.environ, "XLA_FLAGS": tiny.xla_flags(1)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "eval.jsonl: the disk is full" in lines[-1] and "free some space" in lines[-1]
    assert "Traceback" not in done.stderr
