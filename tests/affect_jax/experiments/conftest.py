"""Runs that are made up instead of trained."""

import pytest

from affect_jax.experiments import train_run
from tests.affect_jax import fake_runs


@pytest.fixture
def fakes(monkeypatch):
    """Make up runs; (loss, seed) of each one started, in order. Those with the loss pcc fail."""
    started = []

    def run(config, workdir, show_test=True, cache=None):
        started.append((config.loss.regression, config.seed))
        if config.loss.regression == "pcc":
            raise RuntimeError("made to fail")
        better = 0.1 if config.loss.regression == "mse" else 0.0
        fake_runs.finish(config, workdir, 0.5 + better + 0.01 * config.seed)

    monkeypatch.setattr(train_run, "train_run", run)
    return started
