"""Jobs that lose a process, are stopped, or go on with other devices: nothing is lost."""

import signal
import time

import numpy as np
import pytest

from affect_jax import runtime
from tests.affect_jax import tiny
from tests.affect_jax.training.test_resume import finish, free_port, last_step, wait_for_step

pytestmark = pytest.mark.slow

FILE = "tests/affect_jax/small_resnet.py"
STEPS = 60
CHANGES = {
    "num_steps": STEPS,
    "eval_every": STEPS,
    "checkpoint__every": 5,
    "optimizer__name": "sgd",
    "optimizer__momentum": 0.0,
    "eval__flip": False,
    "report__pictures": False,
}


def start(workdir, processes: int, devices: int) -> list:
    """A job of some processes with `devices` each, one workdir."""
    port = free_port()
    flags = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    return [
        tiny.start(
            workdir,
            *([*flags, f"--process_id={rank}", "--heartbeat_timeout=15"] if processes > 1 else []),
            file=FILE,
            devices=devices,
            **CHANGES,
        )
        for rank in range(processes)
    ]


def losses(workdir) -> dict[int, float]:
    rows = [r for r in runtime.read_metrics(workdir) if r["split"] == "train"]
    assert len({r["step"] for r in rows}) == len(rows)
    return {r["step"]: r["loss"] for r in rows}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Losses of a run on one device."""
    workdir = tmp_path_factory.mktemp("one")
    (process,) = start(workdir, 1, 1)
    finish(process)
    return losses(workdir)


def test_a_killed_process_ends_the_job_which_then_resumes(uninterrupted, tmp_path):
    """Either of two: the other says what to do within a bounded time."""
    for killed, target in ((1, 12), (0, 24)):
        job = start(tmp_path, 2, 2)
        wait_for_step(job[0], tmp_path, target)
        job[killed].send_signal(signal.SIGKILL)
        moment = time.monotonic()
        output, _ = job[1 - killed].communicate(timeout=120)
        job[killed].communicate()
        assert time.monotonic() - moment < 90
        assert job[1 - killed].returncode not in (0, None), output

        if killed == 1:
            assert "process 1 has not answered for 15 s. This process stops too" in output
            assert "resumes from the last checkpoint" in output
    for process in (job := start(tmp_path, 2, 2)):
        output = finish(process)
        if process is job[0]:
            assert "resumed from step" in output
    found = losses(tmp_path)
    assert found.keys() == uninterrupted.keys()
    np.testing.assert_allclose(list(found.values()), list(uninterrupted.values()), rtol=1e-3)
    assert runtime.read_metrics(tmp_path)[-1]["final"] is True


def test_a_run_goes_on_with_other_devices_and_processes(uninterrupted, tmp_path):
    """One process with four devices, two with two, one with one; a signal to one stops all."""
    for processes, devices, signalled, target in ((1, 4, 0, 8), (2, 2, 1, 24)):
        job = start(tmp_path, processes, devices)
        wait_for_step(job[0], tmp_path, target)
        job[signalled].send_signal(signal.SIGTERM)
        for process in job:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 128 + signal.SIGTERM, output
            if process is job[0]:  # the others log warnings alone
                assert "run the same command to resume" in output
        stopped_at = last_step(tmp_path)
        assert (tmp_path / "checkpoints" / str(stopped_at)).is_dir()
    (process,) = start(tmp_path, 1, 1)
    assert f"resumed from step {stopped_at}" in finish(process)
    found = losses(tmp_path)
    assert found.keys() == uninterrupted.keys()
    np.testing.assert_allclose(list(found.values()), list(uninterrupted.values()), rtol=1e-3)
