"""Interrupted runs: killed at random steps, stopped politely, spread over processes."""

import os
import random
import signal
import socket
import time

import numpy as np
import pytest

from affect_jax import runtime
from affect_jax.evaluation.evaluator import Evaluation, Evaluator
from affect_jax.runtime.parallel import Mapper
from affect_jax.training import loop, step
from tests.affect_jax import small_resnet, tiny

STEPS = 14
CHANGES = {
    "num_steps": STEPS,
    "checkpoint__every": 3,
    "eval_every": 7,
    "eval__flip": False,
    "report__pictures": False,
}


def losses(workdir) -> dict[int, tuple]:
    """Step -> the training row without what depends on the clock."""
    clock = {"time", "images_per_second", "input_wait_share"}
    rows = [r for r in runtime.read_metrics(workdir) if r["split"] == "train"]
    assert len({r["step"] for r in rows}) == len(rows)
    return {r["step"]: tuple((k, r[k]) for k in sorted(r.keys() - clock)) for r in rows}


def last_step(workdir) -> int:
    """Newest step in metrics.jsonl of a run that is being written."""
    if not (workdir / "metrics.jsonl").exists():
        return 0
    return max((r["step"] for r in runtime.read_metrics(workdir)), default=0)


def finish(process) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for_step(process, workdir, step: int) -> None:
    deadline = time.monotonic() + 240
    while last_step(workdir) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    output = finish(tiny.start(workdir, **CHANGES))
    assert "macro F1" in output
    expected = losses(workdir)
    assert sorted(expected) == list(range(1, STEPS + 1))
    return workdir, expected


def test_killed_and_stopped_runs_repeat_the_same_losses(uninterrupted, tmp_path):
    """kill -9, half a row left behind, then SIGTERM: nothing is lost or doubled."""
    _, expected = uninterrupted
    process = tiny.start(tmp_path, **CHANGES)
    wait_for_step(process, tmp_path, random.Random(7).randint(2, STEPS - 4))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open(tmp_path / "metrics.jsonl", "ab") as rows:
        rows.write(b'{"step": 6, "spl')

    process = tiny.start(tmp_path, **CHANGES)
    wait_for_step(process, tmp_path, STEPS - 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "run the same command to resume" in output
    stopped_at = last_step(tmp_path)

    output = finish(tiny.start(tmp_path, **CHANGES))
    assert f"resumed from step {stopped_at}" in output
    assert losses(tmp_path) == expected
    assert runtime.read_metrics(tmp_path)[-1]["final"] is True


COMPARED = (
    *("loss", "cross_entropy", "neighbour_loss", "ccc", "gradient_norm"),
    *("valence_ccc", "nll"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("mapping", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_two_processes_train_like_one(mapping, tmp_path):
    """Each process reads its half of every batch; losses, metrics and files are those of one.

    Gradient descent without momentum: Adam would blow rounding up to the size of a step.
    """
    changes = {
        "num_steps": 4,
        "optimizer__name": "sgd",
        "optimizer__momentum": 0.0,
        "parallel__mapping": mapping,
        "eval__flip": False,
        # Images attend to those of the other process, and both fill one bank.
        "model__relations__enabled": True,
        "model__relations__residual": True,
        "model__relations__dropout": 0.0,
        "model__relations__bank_size": 6,
    }
    config = small_resnet.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    loop.train_and_evaluate(config, tmp_path / "one")
    port = free_port()
    processes = [
        tiny.start(
            tmp_path / "two",
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={rank}",
            file="tests/affect_jax/small_resnet.py",
            **changes,
        )
        for rank in range(2)
    ]
    for process in processes:
        finish(process)
    rows = [runtime.read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [r["split"] for r in rows[0]] == [r["split"] for r in rows[1]]
    for one, two in zip(*rows, strict=True):
        for name in COMPARED:
            if name in one:
                np.testing.assert_allclose(two[name], one[name], rtol=1e-3, err_msg=name)
    predictions = (tmp_path / "two" / "report" / "predictions.csv").read_text()
    assert len(predictions.splitlines()) == 41


def test_a_signal_during_the_last_validation_is_not_lost(monkeypatch, tmp_path):
    def validate(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return Evaluation({"loss": 0.0})

    terms = {"loss": 0.0, "gradient_norm": 0.0}
    monkeypatch.setattr(Evaluator, "run", validate)
    monkeypatch.setattr(step, "make_train_step", lambda *_: lambda state, *_: (state, terms))
    monkeypatch.setattr(Mapper, "map", lambda _, step, **__: step)
    with pytest.raises(loop.Stopped, match="step 1"):
        loop.train_and_evaluate(tiny.config(num_steps=1), tmp_path)
