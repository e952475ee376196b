"""Sweeps: what is run, skipped and compared; one sweep that is killed for real."""

import re

import numpy as np
import pytest

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.config import ConfigError
from affect_jax.experiments import planned_runs, sweep, sweep_file, train_run
from tests.affect_jax import tiny
from tests.affect_jax.experiments.sweeps import (
    PLAIN,
    STAGED,
    kill_when,
    read_csv,
    run_sweep,
    start,
    write_sweep,
)


def test_every_row_is_trained_with_every_seed_and_compared(fakes, tmp_path, capsys):
    more = ', "paper": {"MSE": {"accuracy": 0.59}}, "contrasts": (("R+C", "MSE"),)'
    path = write_sweep(tmp_path, PLAIN + more)
    assert run_sweep(path, tmp_path / "w") == 0
    assert fakes == [(loss, s) for s in (0, 1, 2) for loss in ("shake_shake", "mse")]
    report = tmp_path / "w" / "report"
    rows = {r["row"]: r for r in read_csv(report / "table.csv") if r["column"] == "accuracy"}
    assert float(rows["R+C"]["mean"]) == pytest.approx(0.51)
    assert float(rows["R+C"]["sd"]) == pytest.approx(0.01)
    assert rows["R+C"]["n"] == "3" and rows["R+C"]["difference"] == ""
    # The same seeds in both rows: the difference is exact, though each row scatters.
    assert float(rows["MSE"]["difference"]) == pytest.approx(0.1)
    assert float(rows["MSE"]["low"]) == pytest.approx(0.1)
    assert rows["MSE"]["paper"] == "0.59"
    assert float(rows["R+C - MSE"]["difference"]) == pytest.approx(-0.1)
    page = (report / "table.md").read_text()
    assert "0.610 ± 0.010" in page and "+0.100 [+0.100, +0.100] |" in page and "0.590" in page
    assert (report / "rows.png").stat().st_size > 5000
    assert (report / "differences.png").stat().st_size > 5000
    assert len(read_csv(report / "cells.csv")) == 6
    assert "+0.100" in capsys.readouterr().out


def test_a_grid_and_curves_as_in_a_paper(fakes, tmp_path):
    more = (
        ', "paper": {"MSE": {"accuracy": 0.59}}, "curves": ("accuracy",), "grid": {"column": '
        '"accuracy", "corner": "loss", "across": ["a", "b"], "lines": {"line": ["R+C", "MSE"]}}'
    )
    assert run_sweep(write_sweep(tmp_path, PLAIN + more), tmp_path / "w", sweep__seeds="0") == 0
    page = (tmp_path / "w/report/table.md").read_text()
    assert "| loss | a | b |" in page
    assert "| line | 0.500 | 0.600 (0.590) |" in page
    assert (tmp_path / "w/report/curves.png").stat().st_size > 5000
    assert "![curves.png](curves.png)" in page


def test_what_was_not_asked_for_is_not_missing(fakes, tmp_path, capsys):
    path = write_sweep(tmp_path, PLAIN)
    assert run_sweep(path, tmp_path / "w", sweep__rows="MSE", sweep__seeds="0,1") == 0
    page = (tmp_path / "w/report/table.md").read_text()
    assert "not finished" not in page
    assert "| MSE | 2 |" in page
    assert "| R+C |" not in page


def test_finished_runs_are_skipped_and_more_seeds_are_added(fakes, tmp_path):
    path = write_sweep(tmp_path, PLAIN)
    run_sweep(path, tmp_path / "w", sweep__rows="M*", sweep__seeds="0")
    assert fakes == [("mse", 0)]
    run_sweep(path, tmp_path / "w", sweep__seeds="0,7")
    assert fakes[1:] == [("shake_shake", 0), ("shake_shake", 7), ("mse", 7)]
    run_sweep(path, tmp_path / "w", sweep__report_only=True)
    assert len(fakes) == 4
    assert "4 of 6 runs are not finished" in (tmp_path / "w/report/table.md").read_text()


def test_runs_of_another_config_are_refused_before_anything_is_written(fakes, tmp_path):
    path, workdir = write_sweep(tmp_path, PLAIN), tmp_path / "w"
    run_sweep(path, workdir, sweep__seeds="0")
    for one in workdir.glob("cells/*/seed0"):  # as a run leaves them
        (one / "checkpoints/8").mkdir(parents=True)
    table = (workdir / "report/table.md").read_bytes()
    for part in ({}, {"sweep__seeds": "1"}, {"sweep__rows": "MSE"}):
        message = r"(?s)R\+C/seed0 holds a run of another config:.*batch_size: there 16, now 8"
        with pytest.raises(ConfigError, match=message):
            run_sweep(path, workdir, batch_size=8, **part)
    assert (workdir / "report/table.md").read_bytes() == table
    assert len(fakes) == 2 and not (workdir / "cells/MSE/seed1").exists()
    run_sweep(path, workdir, sweep__seeds="0,1", log_every=3)
    assert len(fakes) == 6


def test_a_stage_of_another_config_is_refused(fakes, tmp_path):
    workdir = tmp_path / "w"
    run_sweep(write_sweep(tmp_path, STAGED.format(8)), workdir, sweep__rows="a")
    (workdir / "stages/trunk/checkpoints/8").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"(?s)stages/trunk holds a run.*seed: there 9, now 10"):
        run_sweep(write_sweep(tmp_path, STAGED.format(8).replace("9", "10")), workdir)
    assert len(fakes) == 2


def test_stages_come_first_and_rows_know_their_folders(fakes, tmp_path):
    described = (
        '"seeds": (3,), "stages": {"trunk": {"seed": 9}, "unused": {}}, '
        '"shared": {"init_from": "stage:trunk"}, "rows": {"a": {}, "b": {"init_from": ""}}'
    )
    path = write_sweep(tmp_path, described)
    assert run_sweep(path, tmp_path / "w", sweep__rows="b") == 0
    assert fakes == [("shake_shake", 3)]  # no row that was asked for needs a stage
    run_sweep(path, tmp_path / "w")
    assert fakes[1:] == [("shake_shake", 9), ("shake_shake", 3)]
    recorded = config_lib.read_workdir_config(tmp_path / "w/cells/a/seed3")
    assert recorded.init_from == str(tmp_path / "w/stages/trunk")


def test_a_figure_that_no_run_measures_ranks_nothing(fakes, tmp_path):
    described = '"seeds": (0,), "rank_by": "validation/nme", "rows": {"a": {}, "b": {}}'
    run_sweep(write_sweep(tmp_path, described), tmp_path / "w")
    page = (tmp_path / "w/report/table.md").read_text()
    assert "no finished run has measured 'validation/nme'" in page and "alone" not in page


def test_the_manual_names_rows_that_there_are(tmp_path):
    manual = (tiny.ROOT / "docs/sweeps.md").read_text()
    path = tiny.ROOT / "configs/sweeps/emofan_tables.py"
    rows = sweep_file.load(path, config_lib.load_file(path)).rows
    patterns = re.findall(r'--config\.sweep\.rows="([^"]+)"', manual)
    assert patterns and all(len(sweep.choose(rows, p)) > 1 for p in patterns)


def test_random_search_is_ranked_by_validation(fakes, tmp_path, monkeypatch):
    shown, made_up = [], train_run.train_run
    monkeypatch.setattr(
        train_run,
        "train_run",
        lambda config, workdir, show_test=True, cache=None: (
            shown.append(show_test) or made_up(config, workdir)
        ),
    )
    described = (
        '"seeds": (0,), "rank_by": "validation/loss", '
        '"columns": ("accuracy", "validation/loss", "test_flip/valence_ccc"), '
        '"random": {"draws": 4, "ranges": {"loss.regression": ("choice", "mse", "ccc")}}'
    )
    run_sweep(write_sweep(tmp_path, described), tmp_path / "w")
    page = (tmp_path / "w/report/table.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| draw")]
    assert len(lines) == 5  # four in order of the validation loss, and the first one's test
    losses = [float(line.split("|")[3]) for line in lines[:4]]
    assert losses == sorted(losses) and losses[0] < losses[-1]
    assert lines[4].split("|")[1] == lines[0].split("|")[1]
    assert "accuracy" not in page.split("Test split")[0]
    columns = read_csv(tmp_path / "w/report/cells.csv")[0].keys()
    assert "validation/loss" in columns
    assert not [c for c in columns if c == "accuracy" or c.startswith("test")]
    assert shown == [False] * 4


def test_runs_of_one_seed_see_the_same_images_in_the_same_order(tmp_path):
    path = write_sweep(tmp_path, PLAIN)
    config = config_lib.load_file(path)
    planned = sweep.plan(sweep_file.load(path, config), config, tmp_path).runs
    seen = {}
    for place, one in planned.items():
        made = data_lib.make_sources(one.config)
        with data_lib.train_batches(one.config, made["train"], 0) as batches:
            seen[place] = [next(batches) for _ in range(2)]
    for seed in (0, 1, 2):
        for a, b in zip(seen["R+C", seed], seen["MSE", seed], strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["index"], b["index"])
    assert (seen["R+C", 0][0]["index"] != seen["R+C", 1][0]["index"]).any()


_READY = sorted(p.stem for p in (tiny.ROOT / "configs" / "sweeps").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", _READY)
def test_the_ready_sweeps_can_be_planned(name, tmp_path):
    path = tiny.ROOT / "configs" / "sweeps" / f"{name}.py"
    config = config_lib.load_file(path)
    described = sweep_file.load(path, config)
    planned = sweep.plan(described, config, tmp_path)
    assert len(planned.runs) == len(described.rows) * len(described.seeds)
    for one in planned.runs.values():
        assert set(one.needs) <= {stage.workdir for stage in planned.stages}


def test_a_section_is_replaced_as_a_whole():
    config = config_lib.load_file(tiny.ROOT / "configs/arbex_synthetic.py")
    changed = sweep.apply_changes(config, {"model.backbone": {"embedding": 3}}, "rows: row")
    assert changed.model.backbone.to_dict() == {"embedding": 3}
    with pytest.raises(ConfigError, match="rows: row: data = 3"):
        sweep.apply_changes(config, {"data": 3}, "rows: row")


@pytest.mark.slow
def test_a_killed_sweep_resumes_the_run_it_was_in(tmp_path):
    """With real runs: the first is not touched, the second is resumed from its checkpoint."""
    path = write_sweep(
        tmp_path,
        '"seeds": (0,), "rows": {"a": {}, "b": {"loss.regression": "mse"}}, "shared": '
        '{"num_steps": 60, "eval_every": 60, "checkpoint.every": 5}',
    )
    workdir = tmp_path / "w"
    second = workdir / "cells/b/seed0"
    command = ["-m", "affect_jax.main", "--mode=sweep", "--config", str(path)]
    command += ["--workdir", str(workdir)]
    process = start(*command)
    # Names with more than digits are checkpoints that are still being written.
    kill_when(process, lambda: any(p.name.isdigit() for p in second.glob("checkpoints/*")))
    assert planned_runs.read_figures(second) is None
    first = (workdir / "cells/a/seed0/metrics.jsonl").read_bytes()
    again = start(*command)
    _, log = again.communicate()
    assert again.returncode == 0, log
    assert "1 of 2 are finished already" in log and "resumed from step" in log
    assert (workdir / "cells/a/seed0/metrics.jsonl").read_bytes() == first
    steps = [r["step"] for r in runtime.read_metrics(second) if r["split"] == "train"]
    assert steps == list(range(1, 61))
    assert len(read_csv(workdir / "report/cells.csv")) == 2
