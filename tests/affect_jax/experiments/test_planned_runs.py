"""What the folder of a run says about it: finished or not, and what it was trained from."""

import json

import pytest

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.experiments.planned_runs import DONE, OPEN, PlannedRun, outcome
from tests.affect_jax import fake_runs, tiny
from tests.affect_jax.experiments.sweeps import STAGED, read_csv, run_sweep, write_sweep


def test_runs_of_a_stage_that_is_another_one_now_are_refused(fakes, tmp_path):
    workdir = tmp_path / "w"
    assert run_sweep(write_sweep(tmp_path, STAGED.format(8)), workdir, sweep__rows="a") == 0
    assert len(fakes) == 2
    state = json.loads((workdir / "cells/a/seed0/cell.json").read_text())["stages"]["trunk"]
    assert state["step"] == 8 and state["config"]
    with pytest.raises(UserError, match=r"cells/a/seed0 was trained from another stage trunk"):
        run_sweep(write_sweep(tmp_path, STAGED.format(16)), workdir)
    assert len(fakes) == 2  # the old stage is still there
    assert run_sweep(write_sweep(tmp_path, STAGED.format(8)), workdir) == 0
    assert len(fakes) == 3

    # The stage is trained further by other means: runs from the old one are left out.
    config = config_lib.read_workdir_config(workdir / "stages/trunk")
    config.num_steps = 16
    fake_runs.finish(config, workdir / "stages/trunk", 0.5)
    longer = write_sweep(tmp_path, STAGED.format(16))
    run_sweep(longer, workdir, sweep__report_only=True)
    status = [r["status"] for r in read_csv(workdir / "report/cells.csv")]
    assert status == ["failed", "failed"]
    assert "another stage trunk" in (workdir / "report/table.md").read_text()
    (workdir / "cells/a").rename(workdir / "set_aside")
    (workdir / "cells/b").rename(workdir / "set_aside_too")
    assert run_sweep(longer, workdir) == 0
    assert len(fakes) == 5


def test_runs_without_a_record_of_their_stages_stay_finished(fakes, tmp_path):
    path = write_sweep(tmp_path, STAGED.format(8))
    run_sweep(path, tmp_path / "w")
    for one in (tmp_path / "w/cells").glob("*/seed0/cell.json"):
        one.write_text('{"name": "a, seed 0", "seconds": 2.5}\n')
    assert run_sweep(path, tmp_path / "w", log_every=3) == 0
    assert len(fakes) == 3 + 3  # a field that is idle: every run looks for itself what is left
    run_sweep(path, tmp_path / "w", log_every=3)
    assert len(fakes) == 6


def test_a_run_made_longer_by_epochs_is_not_finished(tmp_path):
    config = tiny.config(num_steps=None, num_epochs=2.0)
    config_lib.claim_workdir(tmp_path, config)
    with runtime.MetricWriter(tmp_path) as writer:
        writer.write(8, "train", {"loss": 1.0, "epoch": 2.0})
        writer.write(8, "test", {"checkpoint": 8, "accuracy": 0.5}, final=True)
    assert outcome(PlannedRun("a", config, tmp_path)).status == DONE
    longer = tiny.config(num_steps=None, num_epochs=3.0)
    config_lib.claim_workdir(tmp_path, longer)  # and killed before anything else
    assert outcome(PlannedRun("a", longer, tmp_path)).status == OPEN
