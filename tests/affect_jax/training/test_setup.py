"""A run that is resumed with another length keeps the phases that it has begun."""

import os
import signal

import pytest

from affect_jax import runtime
from affect_jax.evaluation.evaluator import Evaluation, Evaluator
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import Phase
from affect_jax.training import loop, step
from tests.affect_jax import tiny


@pytest.fixture
def train_until(monkeypatch, tmp_path):
    """Trains a run with steps that compute nothing until it is stopped: (total, last) -> stages."""
    calls = []

    def fake_step(state, *_):
        calls.append(1)
        if len(calls) == fake_step.last:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, {"loss": 0.0, "gradient_norm": 0.0}

    monkeypatch.setattr(Evaluator, "run", lambda *_: Evaluation({"loss": 0.0}))
    monkeypatch.setattr(step, "make_train_step", lambda *_: fake_step)
    monkeypatch.setattr(Mapper, "map", lambda _, step, **__: step)

    def train(total, last):
        fake_step.last = last
        config = tiny.config(num_steps=total, landmark_stage__steps=6, checkpoint__every=100)
        with pytest.raises(loop.Stopped, match=f"step {last}"):
            loop.train_and_evaluate(config, tmp_path)
        rows = [r for r in runtime.read_metrics(tmp_path) if r["split"] == "train"]
        return [r["stage"] for r in rows]

    return train


def test_a_run_that_is_made_longer_stays_in_its_phase(train_until):
    """The landmarks were half of the shorter run; the longer one would have more of them."""
    train_until(6, 4)
    assert train_until(14, 5) == ["landmarks"] * 3 + ["emotion"] * 2


@pytest.mark.parametrize(
    ("planned", "recorded", "done", "expected"),
    [
        (100, {"first": 0, "second": 50}, 60, 50),  # begun
        (100, {"first": 0, "second": 50}, 50, 100),  # the state is of the first phase
        (20, {"first": 0, "second": 50}, 10, 20),
        (20, {"first": 0, "second": 50}, 30, 30),  # not before the steps that are done
        (100, {}, 60, 100),  # a checkpoint of an earlier version
    ],
)
def test_the_border_of_a_resumed_run(planned, recorded, done, expected):
    phases = step.resumed([Phase("first", 0), Phase("second", planned, 0.1)], recorded, done)
    assert phases == [Phase("first", 0), Phase("second", expected, 0.1)]
