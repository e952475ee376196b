"""Many runs: what is run, skipped, recorded and compared; one sweep that is killed for real."""

import csv
import errno
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from scipy import stats

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.experiments import runs, sweep, train_run
from affect_jax.metrics import spread
from affect_jax.report import comparison
from affect_jax.training import loop
from tests.affect_jax import fake_runs, tiny


@pytest.fixture
def fakes(monkeypatch):
    """Runs are made up; (row's loss, seed) of each one started, in order."""
    started = []

    def run(config, workdir, show_test=True):
        started.append((config.loss.regression, config.seed))
        if config.loss.regression == "pcc":
            raise RuntimeError("made to fail")
        better = 0.1 if config.loss.regression == "mse" else 0.0
        fake_runs.finish(config, workdir, 0.5 + better + 0.01 * config.seed)

    monkeypatch.setattr(train_run, "train_run", run)
    return started


def file_of(tmp_path, described: str) -> pathlib.Path:
    """A sweep file with the tiny config and the given entries of `get_sweep`."""
    path = tmp_path / "sweep.py"
    path.write_text(
        textwrap.dedent(f"""
        from tests.affect_jax import tiny

        def get_config():
            return tiny.config(landmark_stage__steps=0)

        def get_sweep(config):
            return {{{described}}}
        """)
    )
    return path


def run(path, workdir, **changes) -> int:
    config = config_lib.load_file(path)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return sweep.run(config, workdir, path)


def read_csv(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


PLAIN = '"rows": {"R+C": {}, "MSE": {"loss.regression": "mse"}}, "reference": "R+C"'


def test_every_row_is_trained_with_every_seed_and_compared(fakes, tmp_path, capsys):
    more = ', "paper": {"MSE": {"accuracy": 0.59}}, "contrasts": (("R+C", "MSE"),)'
    path = file_of(tmp_path, PLAIN + more)
    assert run(path, tmp_path / "w") == 0
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
    assert run(file_of(tmp_path, PLAIN + more), tmp_path / "w", sweep__seeds="0") == 0
    page = (tmp_path / "w/report/table.md").read_text()
    assert "| loss | a | b |" in page
    assert "| line | 0.500 | 0.600 (0.590) |" in page
    assert (tmp_path / "w/report/curves.png").stat().st_size > 5000
    assert "![curves.png](curves.png)" in page


def test_a_curve_is_the_mean_of_the_runs_over_steps():
    curves = {"accuracy": {"row": {0: {4: 0.2, 8: 0.4}, 1: {4: 0.4, 8: 0.8, 12: 0.9}}}}
    compared = comparison.compare({"row": {}}, ("accuracy",), curves=curves)
    figure = comparison.curves_figure(compared)
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[4, 0.3], [8, 0.6]])


def test_nothing_is_drawn_of_figures_that_are_none():
    curves = {"accuracy": {"row": {0: {}}}, "loss": {"row": {0: {4: 1.0}}, "other": {}}}
    compared = comparison.compare({"row": {}}, ("accuracy",), curves=curves)
    assert compared.curves == {"loss": {"row": {0: {4: 1.0}}}}


def test_a_grid_shows_a_figure_that_is_no_column():
    grid = {"column": "nll", "corner": "", "across": ["a"], "lines": {"line": ["row"]}}
    compared = comparison.compare({"row": {0: {"nll": 1.5}}}, ("accuracy",), grid=grid)
    assert "1.500" in comparison.text(compared)


def test_what_was_not_asked_for_is_not_missing(fakes, tmp_path, capsys):
    path = file_of(tmp_path, PLAIN)
    assert run(path, tmp_path / "w", sweep__rows="MSE", sweep__seeds="0,1") == 0
    page = (tmp_path / "w/report/table.md").read_text()
    assert "not finished" not in page
    assert "| MSE | 2 |" in page
    assert "| R+C |" not in page


def test_finished_cells_are_skipped_and_more_seeds_are_added(fakes, tmp_path):
    path = file_of(tmp_path, PLAIN)
    run(path, tmp_path / "w", sweep__rows="M*", sweep__seeds="0")
    assert fakes == [("mse", 0)]
    run(path, tmp_path / "w", sweep__seeds="0,7")
    assert fakes[1:] == [("shake_shake", 0), ("shake_shake", 7), ("mse", 7)]
    run(path, tmp_path / "w", sweep__report_only=True)
    assert len(fakes) == 4
    assert "4 of 6 cells are not finished" in (tmp_path / "w/report/table.md").read_text()


def test_a_longer_run_is_gone_on_with(fakes, tmp_path):
    path = file_of(tmp_path, PLAIN)
    run(path, tmp_path / "w", sweep__seeds="0")
    run(path, tmp_path / "w", sweep__seeds="0", num_steps=20)
    assert len(fakes) == 4


def test_a_failing_cell_is_recorded_and_does_not_end_the_others(fakes, tmp_path):
    path = file_of(tmp_path, '"rows": {"bad": {"loss.regression": "pcc"}, "good": {}}')
    assert run(path, tmp_path / "w") == 3
    assert len(fakes) == 6
    error = (tmp_path / "w/cells/bad/seed1/error.txt").read_text()
    assert error.startswith("RuntimeError: made to fail") and "Traceback" in error
    assert "bad, seed 1: failed: RuntimeError" in (tmp_path / "w/report/table.md").read_text()
    status = [r["status"] for r in read_csv(tmp_path / "w/report/cells.csv")]
    assert sorted(status) == ["done"] * 3 + ["failed"] * 3
    assert run(path, tmp_path / "w") == 3  # failed ones alone are tried again
    assert len(fakes) == 9


def test_cells_of_another_config_are_refused_before_anything_is_written(fakes, tmp_path):
    path, workdir = file_of(tmp_path, PLAIN), tmp_path / "w"
    run(path, workdir, sweep__seeds="0")
    for cell in workdir.glob("cells/*/seed0"):  # as a run leaves them
        (cell / "checkpoints/8").mkdir(parents=True)
    table = (workdir / "report/table.md").read_bytes()
    for part in ({}, {"sweep__seeds": "1"}, {"sweep__rows": "MSE"}):
        message = r"(?s)R\+C/seed0 holds a run of another config:.*batch_size: there 16, now 8"
        with pytest.raises(ConfigError, match=message):
            run(path, workdir, batch_size=8, **part)
    assert (workdir / "report/table.md").read_bytes() == table
    assert len(fakes) == 2 and not (workdir / "cells/MSE/seed1").exists()
    run(path, workdir, sweep__seeds="0,1", log_every=3)
    assert len(fakes) == 6


def test_a_stage_of_another_config_is_refused(fakes, tmp_path):
    workdir = tmp_path / "w"
    run(file_of(tmp_path, STAGED.format(8)), workdir, sweep__rows="a")
    (workdir / "stages/trunk/checkpoints/8").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"(?s)stages/trunk holds a run.*seed: there 9, now 10"):
        run(file_of(tmp_path, STAGED.format(8).replace("9", "10")), workdir)
    assert len(fakes) == 2


def test_a_mistake_of_the_first_cell_ends_the_sweep(tmp_path, monkeypatch):
    started = []

    def mistaken(config, workdir, show_test=True):
        started.append(workdir)
        raise UserError("no weights there")

    monkeypatch.setattr(train_run, "train_run", mistaken)
    with pytest.raises(UserError, match=r"R\+C, seed 0 failed before.*no weights there"):
        run(file_of(tmp_path, PLAIN), tmp_path / "w")
    assert len(started) == 1


def test_stages_come_first_and_rows_know_their_folders(fakes, tmp_path):
    described = (
        '"seeds": (3,), "stages": {"trunk": {"seed": 9}, "unused": {}}, '
        '"shared": {"init_from": "stage:trunk"}, "rows": {"a": {}, "b": {"init_from": ""}}'
    )
    path = file_of(tmp_path, described)
    assert run(path, tmp_path / "w", sweep__rows="b") == 0
    assert fakes == [("shake_shake", 3)]  # no row that was asked for needs a stage
    run(path, tmp_path / "w")
    assert fakes[1:] == [("shake_shake", 9), ("shake_shake", 3)]
    recorded = config_lib.read_workdir_config(tmp_path / "w/cells/a/seed3")
    assert recorded.init_from == str(tmp_path / "w/stages/trunk")


STAGED = (
    '"seeds": (0,), "stages": {{"trunk": {{"seed": 9, "num_steps": {}}}}}, '
    '"shared": {{"init_from": "stage:trunk"}}, "rows": {{"a": {{}}, "b": {{}}}}'
)


def test_cells_of_a_stage_that_is_another_one_now_are_refused(fakes, tmp_path):
    workdir = tmp_path / "w"
    assert run(file_of(tmp_path, STAGED.format(8)), workdir, sweep__rows="a") == 0
    assert len(fakes) == 2
    state = json.loads((workdir / "cells/a/seed0/cell.json").read_text())["stages"]["trunk"]
    assert state["step"] == 8 and state["config"]
    with pytest.raises(UserError, match=r"cells/a/seed0 was trained from another stage trunk"):
        run(file_of(tmp_path, STAGED.format(16)), workdir)
    assert len(fakes) == 2  # the old stage is still there
    assert run(file_of(tmp_path, STAGED.format(8)), workdir) == 0
    assert len(fakes) == 3

    # The stage is trained on by other means: the cells from the old one are in no table.
    config = config_lib.read_workdir_config(workdir / "stages/trunk")
    config.num_steps = 16
    fake_runs.finish(config, workdir / "stages/trunk", 0.5)
    longer = file_of(tmp_path, STAGED.format(16))
    run(longer, workdir, sweep__report_only=True)
    status = [r["status"] for r in read_csv(workdir / "report/cells.csv")]
    assert status == ["failed", "failed"]
    assert "another stage trunk" in (workdir / "report/table.md").read_text()
    (workdir / "cells/a").rename(workdir / "set_aside")
    (workdir / "cells/b").rename(workdir / "set_aside_too")
    assert run(longer, workdir) == 0
    assert len(fakes) == 5


def test_cells_without_a_record_of_their_stages_stay_finished(fakes, tmp_path):
    path = file_of(tmp_path, STAGED.format(8))
    run(path, tmp_path / "w")
    for cell in (tmp_path / "w/cells").glob("*/seed0/cell.json"):
        cell.write_text('{"name": "a, seed 0", "seconds": 2.5}\n')
    assert run(path, tmp_path / "w", log_every=3) == 0
    assert len(fakes) == 3 + 3  # a field that is idle: every run looks for itself what is left
    run(path, tmp_path / "w", log_every=3)
    assert len(fakes) == 6


def test_a_run_made_longer_by_epochs_is_not_finished(tmp_path):
    config = tiny.config(num_steps=None, num_epochs=2.0)
    config_lib.claim_workdir(tmp_path, config)
    with runtime.MetricWriter(tmp_path) as writer:
        writer.write(8, "train", {"loss": 1.0, "epoch": 2.0})
        writer.write(8, "test", {"checkpoint": 8, "accuracy": 0.5}, final=True)
    assert runs.outcome(runs.Cell("a", config, tmp_path)).status == runs.DONE
    longer = tiny.config(num_steps=None, num_epochs=3.0)
    config_lib.claim_workdir(tmp_path, longer)  # and killed before anything else
    assert runs.outcome(runs.Cell("a", longer, tmp_path)).status == runs.OPEN


def test_file_systems_without_locks_are_told(fakes, tmp_path, monkeypatch, caplog):
    def none(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert run(file_of(tmp_path, PLAIN), tmp_path / "w", sweep__seeds="0") == 0
    assert len(fakes) == 2 and "keeps no locks" in caplog.text


def test_a_report_that_fails_hides_no_other_error(fakes, tmp_path, monkeypatch, caplog):
    def stop(*_, **__):
        raise loop.Stopped(3, signal.SIGTERM)

    monkeypatch.setattr(train_run, "train_run", stop)
    monkeypatch.setattr(comparison, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(loop.Stopped):
        run(file_of(tmp_path, PLAIN), tmp_path / "w")
    assert "nor could the report be written" in caplog.text


def test_a_figure_that_no_cell_measures_ranks_nothing(fakes, tmp_path):
    described = '"seeds": (0,), "rank_by": "validation/nme", "rows": {"a": {}, "b": {}}'
    run(file_of(tmp_path, described), tmp_path / "w")
    page = (tmp_path / "w/report/table.md").read_text()
    assert "no finished cell has measured 'validation/nme'" in page and "alone" not in page


def test_the_manual_names_rows_that_there_are(tmp_path):
    manual = (tiny.ROOT / "docs/sweeps.md").read_text()
    path = tiny.ROOT / "configs/sweeps/emofan_tables.py"
    rows = sweep.load(path, config_lib.load_file(path)).rows
    patterns = re.findall(r'--config\.sweep\.rows="([^"]+)"', manual)
    assert patterns and all(len(sweep.choose(rows, p)) > 1 for p in patterns)


def test_a_failing_stage_ends_the_sweep(fakes, tmp_path):
    described = (
        '"stages": {"trunk": {"loss.regression": "pcc"}}, "rows": {"a": {"init_from": '
        '"stage:trunk"}}'
    )
    with pytest.raises(UserError, match=r"stage trunk failed.*made to fail"):
        run(file_of(tmp_path, described), tmp_path / "w")
    assert len(fakes) == 1


def test_a_cell_of_another_process_is_left_to_it(fakes, tmp_path):
    path = file_of(tmp_path, PLAIN)
    folder = tmp_path / "w/cells/MSE/seed0"
    folder.mkdir(parents=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(path, tmp_path / "w", sweep__seeds="0") == 0
    assert fakes == [("shake_shake", 0)]
    status = {r["row"]: r["status"] for r in read_csv(tmp_path / "w/report/cells.csv")[:2]}
    assert status == {"R+C": "done", "MSE": "elsewhere"}
    assert "MSE, seed 0: elsewhere" in (tmp_path / "w/report/table.md").read_text()
    run(path, tmp_path / "w", sweep__report_only=True)
    assert "elsewhere" not in (tmp_path / "w/report/table.md").read_text()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ('"rows": {}', "no rows"),
        ('"rwos": {"a": {}}', "did you mean 'rows'"),
        ('"rows": {"a": {"loss.regresion": "ccc"}}', "did you mean 'loss.regression'"),
        ('"rows": {"a": {"batch_size": "many"}}', "batch_size"),
        ('"rows": {"a": {"seed": 3}}', "seed is set by"),
        ('"rows": {"a/b": {}}', "names a folder"),
        ('"rows": {"a": {}}, "reference": "b"', "no row 'b'"),
        ('"rows": {"a": {}}, "rank_by": "accuracy"', "unseen data"),
        ('"rows": {"a": {}}, "rank_by": "validation/los"', "did you mean 'validation/loss'"),
        ('"rows": {"a": {}}, "columns": ("acuracy",)', "did you mean 'accuracy'"),
        ('"rows": {"a": {}}, "rank_by": "validation/loss", "cell": "crossval"', "no validation"),
        ('"rows": {"a": {"init_from": "stage:trunk"}}', "no such stage"),
        ('"rows": {"a": {}}, "seeds": (0, 0)', "distinct"),
        ('"random": {"draws": 2, "ranges": {"seed": ("log", 0, 1)}}', "low above 0"),
        (PLAIN + ', "grid": {"column": "accuracy"}', "it needs column, corner, across, lines"),
        (
            PLAIN
            + ', "grid": {"column": "accuracy", "corner": "", "across": ["a"], "lines": {"x": []}}',
            "line 'x' has 0 rows for 1 columns",
        ),
    ],
)
def test_mistakes_end_before_anything_is_trained(described, message, fakes, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(file_of(tmp_path, described), tmp_path / "w")
    assert not fakes


@pytest.mark.parametrize(
    "column",
    ["test_flip/accuracy", "test_flip/nme", "test_flip/loss", "test_flip/recall_sad",
     "test_video/nme", "test_mirror/valence_ccc", "test_mirror/temperature"],
)  # fmt: skip
def test_columns_of_what_is_not_averaged_are_refused(column):
    with pytest.raises(ConfigError, match=f"nothing is called '{column}'"):
        sweep.Sweep(rows={"a": {}}, columns=(column,))


def test_columns_of_what_is_averaged():
    columns = ("test_flip/valence_ccc", "test_mirror/accuracy", "test_video/accuracy")
    columns += ("test_video/recall_sad", "test_temperature/temperature")
    assert sweep.Sweep(rows={"a": {}}, columns=columns).columns == columns


def test_random_search_is_ranked_by_validation(fakes, tmp_path, monkeypatch):
    shown, made_up = [], train_run.train_run
    monkeypatch.setattr(
        train_run,
        "train_run",
        lambda config, workdir, show_test=True: shown.append(show_test) or made_up(config, workdir),
    )
    described = (
        '"seeds": (0,), "rank_by": "validation/loss", '
        '"columns": ("accuracy", "validation/loss", "test_flip/valence_ccc"), '
        '"random": {"draws": 4, "ranges": {"loss.regression": ("choice", "mse", "ccc")}}'
    )
    run(file_of(tmp_path, described), tmp_path / "w")
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


def test_draws_are_functions_of_seed_and_number():
    ranges = {"a": ("log", 1e-4, 1e-2), "b": ("uniform", 0.0, 0.999)}
    few, many = (sweep.draw_rows(n, ranges) for n in (3, 400))
    assert all(many[name] == changes for name, changes in few.items())
    assert sweep.draw_rows(3, ranges, seed=1) != few
    only = sweep.draw_rows(400, {"b": ranges["b"]})
    assert [r["b"] for r in only.values()] == [r["b"] for r in many.values()]
    logs = np.log10([r["a"] for r in many.values()])
    assert -4 <= logs.min() < -3.9 and -2.1 < logs.max() <= -2
    assert abs(logs.mean() + 3) < 0.1


def test_cells_of_one_seed_see_the_same_pictures_in_the_same_order(tmp_path):
    path = file_of(tmp_path, PLAIN)
    config = config_lib.load_file(path)
    planned = sweep.plan(sweep.load(path, config), config, tmp_path).cells
    seen = {}
    for place, cell in planned.items():
        made = data_lib.make_sources(cell.config)
        with data_lib.train_batches(cell.config, made["train"], 0) as batches:
            seen[place] = [next(batches) for _ in range(2)]
    for seed in (0, 1, 2):
        for a, b in zip(seen["R+C", seed], seen["MSE", seed], strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["index"], b["index"])
    assert (seen["R+C", 0][0]["index"] != seen["R+C", 1][0]["index"]).any()


def test_statistics_of_known_numbers():
    assert spread.Spread.of([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert np.isnan(spread.Spread.of([1.0]).sd)
    a, b = {0: 0.62, 1: 0.60, 2: 0.64, 9: 0.1}, {0: 0.60, 1: 0.59, 2: 0.61}
    found = spread.paired_difference(a, b)
    expected = stats.ttest_rel([0.62, 0.60, 0.64], [0.60, 0.59, 0.61]).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == 3 and not found.is_clear
    assert spread.paired_difference(a, b, confidence=0.5).is_clear


_READY = sorted(p.stem for p in (tiny.ROOT / "configs" / "sweeps").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", _READY)
def test_the_ready_sweeps_can_be_planned(name, tmp_path):
    path = tiny.ROOT / "configs" / "sweeps" / f"{name}.py"
    config = config_lib.load_file(path)
    described = sweep.load(path, config)
    planned = sweep.plan(described, config, tmp_path)
    assert len(planned.cells) == len(described.rows) * len(described.seeds)
    for cell in planned.cells.values():
        assert set(cell.needs) <= {stage.workdir for stage in planned.stages}


KILLED = """
import sys, time
from affect_jax import config
from affect_jax.experiments import sweep, train_run
from tests.affect_jax import fake_runs

def run(cell, workdir, show_test=True):
    if cell.loss.regression == "mse":
        time.sleep(300)
    fake_runs.finish(cell, workdir, 0.5)

train_run.train_run = run
sweep.run(config.load_file(sys.argv[1]), sys.argv[2], sys.argv[1])
"""


def kill_when(process, ready) -> None:
    """kill -9 as soon as `ready()`."""
    try:
        deadline = time.monotonic() + 900
        while not ready():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_killed_sweep_leaves_nothing_locked_and_skips_what_was_finished(fakes, tmp_path):
    path = file_of(tmp_path, PLAIN + ', "seeds": (0,)')
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(tmp_path / "w")],
        cwd=tiny.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    second = tmp_path / "w/cells/MSE/seed0"
    kill_when(process, lambda: (second / ".lock").exists())
    assert runs.read_figures(second) is None
    assert run(path, tmp_path / "w") == 0
    assert fakes == [("mse", 0)]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_in_the_cell_it_was_in(tmp_path):
    """With real runs: the first is not touched, the second goes on from its checkpoint."""
    path = file_of(
        tmp_path,
        '"seeds": (0,), "rows": {"a": {}, "b": {"loss.regression": "mse"}}, "shared": '
        '{"num_steps": 60, "eval_every": 60, "checkpoint.every": 5}',
    )
    workdir = tmp_path / "w"
    second = workdir / "cells/b/seed0"
    command = [sys.executable, "-m", "affect_jax.main", "--mode=sweep", "--config", str(path)]
    command += ["--workdir", str(workdir)]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    process = subprocess.Popen(command, cwd=tiny.ROOT, env=environment, stderr=subprocess.PIPE)
    # Names with more than digits are checkpoints that are still being written.
    kill_when(process, lambda: any(p.name.isdigit() for p in second.glob("checkpoints/*")))
    assert runs.read_figures(second) is None
    first = (workdir / "cells/a/seed0/metrics.jsonl").read_bytes()
    done = subprocess.run(command, cwd=tiny.ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"1 of 2 are finished already" in done.stderr and b"resumed from step" in done.stderr
    assert (workdir / "cells/a/seed0/metrics.jsonl").read_bytes() == first
    steps = [r["step"] for r in runtime.read_metrics(second) if r["split"] == "train"]
    assert steps == list(range(1, 61))
    assert len(read_csv(workdir / "report/cells.csv")) == 2


def test_a_part_of_a_model_is_replaced_as_a_whole():
    config = config_lib.load_file(tiny.ROOT / "configs/arbex_synthetic.py")
    for value in (True, None, {"anchors": 3}):
        changed = sweep.apply_changes(config, {"model.reliability": value}, "rows: row")
        got = changed.model.reliability
        assert (got.to_dict() if isinstance(value, dict) else got) == value
    with pytest.raises(ConfigError, match="rows: row: data = 3"):
        sweep.apply_changes(config, {"data": 3}, "rows: row")


@pytest.mark.parametrize(("main_says", "ends"), [(0.0, False), (1.0, True)])
def test_processes_agree_on_whether_a_failure_ends_all(main_says, ends, tmp_path, monkeypatch):
    """A process knows of the main one's error only that there was one: the main one decides."""
    cell = runs.Cell("a", tiny.one_block(), tmp_path / "a")
    monkeypatch.setattr(runs.parallel, "is_main_process", lambda: False)
    monkeypatch.setattr(
        runs.parallel, "all_gather_hosts", lambda mine: np.array([[0.0, 0.0, main_says], mine])
    )
    assert runs._ends_all(UserError("the main process has stopped"), [cell]) is ends
    assert runs._ends_all(RuntimeError("of this process alone"), [cell]) is ends


def test_the_sweep_over_faces_takes_what_is_given_for_both_rows():
    from configs.sweeps import faces

    config = faces.get_config()
    config.data.folder, config.data.source = "photos", "folder"
    rows = faces.get_sweep(config)["rows"]
    given = {"data.folder", "data.source", "data.manifest", "data.classes", "seed"}
    assert not given & rows["ResNet-18"].keys() and "data" not in rows["ResNet-18"]
    assert rows["ResNet-18"]["model"]["name"] == "resnet18" and rows["EmoFAN"] == {}
