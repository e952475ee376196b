"""A run knows its data: resumed, evaluated, swept and cross-validated on these or not at all."""

import csv
import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record
from affect_jax.config import ConfigError
from affect_jax.data_record import DataChanged
from affect_jax.errors import UserError
from affect_jax.experiments import crossval, evaluate_run, planned_runs, sweep, train_run
from affect_jax.training import best_metric, final_test, loop, setup
from affect_jax.weights import load_run
from data_pipelines.sources import fingerprint
from tests.affect_jax import fake_runs, tiny

CLASSES = ("happy", "sad", "anger")
SPLITS = ("train", "train", "validation", "test")


def write(folder: pathlib.Path, rows: list[dict] | None = None) -> str:
    """A manifest of 48 pictures of 24 persons, or the given rows."""
    if rows is None:
        rows = [
            {
                "path": f"{i}.png",
                "expression": CLASSES[i % 3],
                "person": f"p{i // 2}",
                "split": SPLITS[i // 2 % 4],
            }
            for i in range(48)
        ]
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if not (folder / row["path"]).exists():
            colour = tuple(int(row["path"].split(".")[0]) * 5 % 256 for _ in range(3))
            Image.new("RGB", (32, 32), colour).save(folder / row["path"])
    with open(folder / "faces.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / "faces.csv")


def rows_of(folder: pathlib.Path) -> list[dict]:
    with open(folder / "faces.csv", newline="") as file:
        return list(csv.DictReader(file))


def relabel(folder: pathlib.Path, i: int = 0, to: str = "sad") -> None:
    rows = rows_of(folder)
    rows[i]["expression"] = to
    write(folder, rows)


def config(manifest: str, **changes):
    base = tiny.one_block(
        data__source="manifest", data__manifest=manifest, loss__regression="none", **changes
    )
    base.system = "classifier"
    base.model.regression = False
    return base


@pytest.fixture
def runs(monkeypatch):
    """Runs that do nothing but leave a checkpoint, or all of a finished run; those started."""
    fake = types.SimpleNamespace(started=[], finishes=False)

    def put_together(config, workdir, *_):
        return types.SimpleNamespace(
            config=config, workdir=workdir, start=0, total=config.num_steps
        )

    def train(run, *_):
        fake.started.append(run.workdir.name)
        (run.workdir / "checkpoints/3").mkdir(parents=True, exist_ok=True)

    def test(run, *_):
        if fake.finishes:
            fake_runs.finish(run.config, run.workdir, 0.5, seed=run.config.seed)
        return final_test.Results(run.workdir, 3, {"test": {}}, 0, 0, {})

    checkpointer = types.SimpleNamespace(close=lambda: None, wait=lambda: None)
    monkeypatch.setattr(setup, "open_checkpointer", lambda *_: checkpointer)
    monkeypatch.setattr(setup, "put_together", put_together)
    monkeypatch.setattr(setup, "initial_state", lambda run: ({}, None))
    monkeypatch.setattr(loop, "_train", train)
    monkeypatch.setattr(best_metric, "restore", lambda *_: (3, {}))
    monkeypatch.setattr(final_test, "test", test)
    monkeypatch.setattr(train_run.report, "render", lambda workdir: None)
    return fake


def digest(workdir) -> str:
    return json.loads((workdir / "data.json").read_text())["digest"]


def test_a_run_goes_on_with_its_own_data_alone(runs, tmp_path, caplog):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    before = {p.name: p.read_bytes() for p in workdir.glob("data.*")}
    assert len(before) == 2
    recorded = json.loads(before["data.json"])
    assert recorded["class_names"] == list(CLASSES)
    assert recorded["splits"]["test"]["count"] == 12
    loop.train_and_evaluate(config(manifest, num_steps=20), workdir)
    relabel(tmp_path / "data", 5, "happy")
    with pytest.raises(DataChanged) as caught:
        loop.train_and_evaluate(config(manifest), workdir)
    text = str(caught.value)
    assert "validation split: '5.png': expression: there 'anger', now 'happy'" in text
    assert "accept_changed=True" in text and str(workdir) in text and "\n" not in text
    assert {p.name: p.read_bytes() for p in workdir.glob("data.*")} == before
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 20
    assert runs.started == ["run"] * 2

    # Accepted once, the new data are the run's own.
    loop.train_and_evaluate(config(manifest, data__accept_changed=True), workdir)
    assert "accept_changed: the data of" in caplog.text and "5.png" in caplog.text
    assert digest(workdir) != recorded["digest"] and len(list(workdir.glob("data.*"))) == 2
    loop.train_and_evaluate(config(manifest), workdir)
    relabel(tmp_path / "data", 5, "anger")
    with pytest.raises(DataChanged, match="there 'happy', now 'anger'"):
        loop.train_and_evaluate(config(manifest), workdir)


def test_a_run_goes_on_with_its_data_in_another_order(runs, tmp_path, caplog):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    before, rows = digest(workdir), rows_of(tmp_path / "data")
    write(tmp_path / "data", rows[::-1])
    loop.train_and_evaluate(config(manifest), workdir)
    assert runs.started == ["run"] * 2 and digest(workdir) != before
    assert "the same records in another order" in caplog.text
    caplog.clear()
    loop.train_and_evaluate(config(manifest), workdir)
    assert "another order" not in caplog.text
    relabel(tmp_path / "data", 5, "sad")
    write(tmp_path / "data", rows_of(tmp_path / "data")[::-1])
    with pytest.raises(DataChanged, match=r"there '(anger|happy)', now 'sad'"):
        loop.train_and_evaluate(config(manifest), workdir)


def test_persons_told_apart_by_their_spelling_are_not_changed_data(tmp_path):
    rows = [
        {"path": f"{i}.png", "expression": CLASSES[i % 3], "person": who, "split": split}
        for i, (who, split) in enumerate([("1", "train"), ("01", "train"), ("2", "validation")])
    ]
    rows.append({**rows[0], "path": "3.png", "person": "3", "split": "test"})
    sources = data_lib.make_sources(config(write(tmp_path / "data", rows)))
    now = fingerprint.of_sources(sources)
    train = now.splits["train"]
    columns = {**train.columns, "person": fingerprint.encode(["1", "01"])}
    train = dataclasses.replace(train, columns=columns, digest=fingerprint.digest(columns))
    then = dataclasses.replace(now, splits={**now.splits, "train": train})
    data_record.write(tmp_path, then)
    (tmp_path / "checkpoints/3").mkdir(parents=True)
    with pytest.raises(DataChanged) as caught:
        data_record.compare(tmp_path, sources)
    text = str(caught.value)
    assert "began under another rule for persons" in text and "there '1', now '01'" in text
    assert "changed since" not in text and "Restore" not in text
    assert "accept_changed=True" in text
    assert data_record.compare(tmp_path, sources, accept=True).is_accepted


def test_records_that_moved_are_known_by_their_positions(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    rows = rows_of(tmp_path / "data")

    def moved(split="train"):
        sources = data_lib.make_sources(config(manifest))
        return data_record.is_reordered(workdir, split, sources[split])

    assert not moved()
    relabel(tmp_path / "data", 1, "anger")
    assert not moved()  # a label has changed, but no position
    validation = [row for row in rows if row["split"] == "validation"]
    others = [row for row in rows if row["split"] != "validation"]
    write(tmp_path / "data", [*others[::-1], *validation])
    assert moved() and moved("test") and not moved("validation")
    # After it was resumed in that order, earlier checkpoints hold the positions of the first one.
    loop.train_and_evaluate(config(manifest), workdir)
    assert moved() and moved("test") and not moved("validation")
    write(tmp_path / "data", rows)
    assert moved()
    loop.train_and_evaluate(config(manifest), workdir)
    assert moved() and moved("test") and not moved("validation")


def test_faces_of_one_image_that_changed_places_have_moved(tmp_path):
    rows = [
        {"path": f"{i}.png", "expression": CLASSES[i % 3], "box": "[1, 1, 30, 30]", "split": split}
        for i, split in enumerate(["train", "train", "validation", "test"])
    ]
    rows.insert(1, {**rows[0], "box": "[1, 40, 30, 70]"})
    sources = data_lib.make_sources(config(write(tmp_path / "data", rows)))
    data_record.write(tmp_path, fingerprint.of_sources(sources))
    assert not data_record.is_reordered(tmp_path, "train", sources["train"])
    sources = data_lib.make_sources(config(write(tmp_path / "data", [rows[1], rows[0], *rows[2:]])))
    assert data_record.is_reordered(tmp_path, "train", sources["train"])
    # Without columns, an equal digest tells that nothing moved.
    for path in tmp_path.glob("data.*.npz"):
        path.unlink()
    assert data_record.is_reordered(tmp_path, "train", sources["train"])
    assert not data_record.is_reordered(tmp_path, "test", sources["test"])


def test_other_classes_are_accepted_only_where_the_head_fits_them(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    rows = rows_of(tmp_path / "data")

    def rename(old, new):
        write(
            tmp_path / "data",
            [r | {"expression": new} if r["expression"] == old else r for r in rows],
        )

    # The inferred order begins with neutral, so that the other classes would move.
    rename(CLASSES[-1], "neutral")
    for accept in (False, True):
        with pytest.raises(data_record.DataChanged, match=r"was class 0 and would be class 1"):
            loop.train_and_evaluate(config(manifest, data__accept_changed=accept), workdir)
    write(tmp_path / "data", rows)
    for i in range(4):
        relabel(tmp_path / "data", i, "fear")
    for accept in (False, True):
        with pytest.raises(
            data_record.DataChanged, match=r"the 3 classes of the run: its head"
        ) as e:
            loop.train_and_evaluate(config(manifest, data__accept_changed=accept), workdir)
        assert "accept_changed" not in str(e.value)


def test_a_run_that_left_nothing_takes_the_data_as_they_are(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    shutil.rmtree(workdir / "checkpoints")
    first = digest(workdir)
    relabel(tmp_path / "data")
    loop.train_and_evaluate(config(manifest), workdir)
    assert digest(workdir) != first


def test_a_run_of_an_earlier_version_takes_the_data_as_they_are(runs, tmp_path, caplog):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    for path in workdir.glob("data.*"):
        path.unlink()
    with caplog.at_level("INFO", "affect_jax"):
        loop.train_and_evaluate(config(manifest), workdir)
    assert "has no record of its data" in caplog.text
    relabel(tmp_path / "data")
    with pytest.raises(DataChanged):
        loop.train_and_evaluate(config(manifest), workdir)


def test_a_finished_run_keeps_the_record_of_what_it_was_trained_on(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    runs.finishes = True
    loop.train_and_evaluate(config(manifest), workdir)
    first = digest(workdir)
    relabel(tmp_path / "data")
    loop.train_and_evaluate(config(manifest, data__accept_changed=True), workdir)
    assert digest(workdir) == first
    with pytest.raises(DataChanged):
        loop.train_and_evaluate(config(manifest), workdir)


def test_moved_data_are_the_same_data(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = str(tmp_path / "elsewhere/faces.csv")
    loop.train_and_evaluate(config(moved), workdir)
    assert config_lib.read_workdir_config(workdir).data.manifest == moved
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "third")
    relabel(tmp_path / "third")
    with pytest.raises(DataChanged, match=r"'0.png': expression: there 'happy', now 'sad'"):
        loop.train_and_evaluate(config(str(tmp_path / "third/faces.csv")), workdir)
    (workdir / "data.json").unlink()  # nothing tells that they are the same
    with pytest.raises(ConfigError, match=r"data\.manifest: there"):
        loop.train_and_evaluate(config(str(tmp_path / "third/faces.csv")), workdir)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"format": 1}', '{"format": 1, "digest": "", "splits": {}}']
)
def test_a_damaged_record_says_what_to_do(damage, runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    (workdir / "data.json").write_text(damage)
    with pytest.raises(UserError, match=r"data\.json cannot be read.*remove it"):
        loop.train_and_evaluate(config(manifest), workdir)


def test_a_record_of_a_later_version_is_kept(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    text = '{"format": 2, "what": "another version wrote"}'
    (workdir / "data.json").write_text(text)
    with pytest.raises(UserError, match=r"data\.json has format 2, .* reads 1"):
        loop.train_and_evaluate(config(manifest), workdir)
    assert (workdir / "data.json").read_text() == text


def test_lost_columns_are_no_hindrance(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    (columns,) = workdir.glob("data.*.npz")
    columns.write_bytes(b"PK\x03\x04 cut")
    loop.train_and_evaluate(config(manifest), workdir)
    relabel(tmp_path / "data")
    with pytest.raises(DataChanged, match="train split: 24 records there, 24 now"):
        loop.train_and_evaluate(config(manifest), workdir)


def test_columns_are_read_whole_or_not_at_all(tmp_path):
    sources = data_lib.make_sources(config(write(tmp_path / "data")))
    now = fingerprint.of_sources(sources)
    data_record.write(tmp_path, now)
    (path,) = tmp_path.glob("data.*.npz")
    content = path.read_bytes()
    lost = 0
    for at in np.linspace(0, len(content) - 1, 150).astype(int):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        for split, records in data_record.read(tmp_path).splits.items():
            expected = now.splits[split]
            assert records.digest == expected.digest
            lost += not records.columns
            if records.columns:
                assert records.columns.keys() == expected.columns.keys()
                for name, column in expected.columns.items():
                    np.testing.assert_array_equal(records.columns[name], column)
    assert lost > 100
    path.write_bytes(content)
    assert all(records.columns for records in data_record.read(tmp_path).splits.values())


def test_changed_labels_are_told_before_what_follows_from_them(runs, tmp_path):
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    loop.train_and_evaluate(config(manifest), workdir)
    rows = rows_of(tmp_path / "data")
    write(tmp_path / "data", [{**r, "split": "train"} for r in rows if r["split"] != "test"])
    with pytest.raises(DataChanged, match="split: '"):
        loop.train_and_evaluate(config(manifest), workdir)


# Sweeps and folds.


def sweep_file(tmp_path, manifest, more="") -> pathlib.Path:
    path = tmp_path / "sweep.py"
    path.write_text(
        "from tests.affect_jax import test_data_record as t\n"
        f"def get_config(): return t.config({manifest!r})\n"
        f'def get_sweep(config): return {{"rows": {{"a": {{}}, "b": {{}}}}{more}}}\n'
    )
    return path


def run_sweep(path, workdir, **changes) -> int:
    loaded = config_lib.load_file(path)
    loaded.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return sweep.run(loaded, workdir, path)


def statuses(workdir) -> list[tuple[str, str, str]]:
    with open(workdir / "report/cells.csv", newline="") as file:
        return [(r["row"], r["seed"], r["status"]) for r in csv.DictReader(file)]


def test_seeds_of_other_data_are_not_averaged(runs, tmp_path):
    runs.finishes = True
    manifest, workdir = write(tmp_path / "data"), tmp_path / "w"
    path = sweep_file(tmp_path, manifest)
    assert run_sweep(path, workdir, sweep__seeds="0") == 0
    assert run_sweep(path, workdir, sweep__seeds="0") == 0
    assert len(runs.started) == 2
    relabel(tmp_path / "data")
    message = r"(?s)a/seed0 was trained on other data.*'0.png': expression.*accept_changed=True"
    with pytest.raises(UserError, match=message):
        run_sweep(path, workdir, sweep__seeds="0,1")
    assert len(runs.started) == 2
    # The user may go on with both; without that word they are not averaged.
    assert run_sweep(path, workdir, sweep__seeds="0,1", data__accept_changed=True) == 0
    assert len(runs.started) == 4
    assert {s[2] for s in statuses(workdir) if s[1] in "01"} == {"done"}
    run_sweep(path, workdir, sweep__report_only=True)
    assert {s for s in statuses(workdir) if s[1] in "01"} == {
        ("a", "0", "failed"),
        ("b", "0", "failed"),
        ("a", "1", "done"),
        ("b", "1", "done"),
    }
    table = (workdir / "report/table.md").read_text()
    assert "was trained on other data than there are now; first difference" in table
    with open(workdir / "report/table.csv", newline="") as file:
        assert {r["n"] for r in csv.DictReader(file)} == {"1"}
    relabel(tmp_path / "data", 0, "happy")
    run_sweep(path, workdir, sweep__report_only=True)
    assert {s[2] for s in statuses(workdir) if s[1] == "0"} == {"done"}
    assert {s[2] for s in statuses(workdir) if s[1] == "1"} == {"failed"}


def test_a_stage_on_other_data_is_another_stage(runs, tmp_path):
    runs.finishes = True
    manifest, workdir = write(tmp_path / "data"), tmp_path / "w"
    stages = ', "stages": {"s": {}}, "shared": {"init_from": "stage:s"}, "seeds": (0,)'
    path = sweep_file(tmp_path, manifest, stages)
    assert run_sweep(path, workdir) == 0 and len(runs.started) == 3
    relabel(tmp_path / "data")
    with pytest.raises(UserError, match=r"stages/s was trained on other data"):
        run_sweep(path, workdir)
    # The stage alone is trained anew, on the new data; then the data of the cells come back.
    stage = config_lib.read_workdir_config(workdir / "stages/s")
    shutil.rmtree(workdir / "stages")
    loop.train_and_evaluate(stage, workdir / "stages/s")
    relabel(tmp_path / "data", 0, "happy")
    stale = planned_runs.stale(
        planned_runs.PlannedRun(
            "a",
            config_lib.read_workdir_config(workdir / "cells/a/seed0"),
            workdir / "cells/a/seed0",
            (workdir / "stages/s",),
        )
    )
    assert "another stage s" in stale


def test_a_sweep_is_shown_where_its_data_are_not(runs, tmp_path):
    runs.finishes = True
    manifest, workdir = write(tmp_path / "data"), tmp_path / "w"
    path = sweep_file(tmp_path, manifest)
    run_sweep(path, workdir, sweep__seeds="0")
    shutil.rmtree(tmp_path / "data")
    run_sweep(path, workdir, sweep__report_only=True)
    assert {s[2] for s in statuses(workdir) if s[1] == "0"} == {"done"}


@pytest.mark.parametrize("as_cell", [False, True])
def test_folds_of_other_data_are_refused(as_cell, runs, tmp_path):
    runs.finishes = True
    manifest, workdir = write(tmp_path / "data"), tmp_path / "w"
    if as_cell:
        path = sweep_file(tmp_path, manifest, ', "cell": "crossval", "seeds": (0,)')

        def run(**changes):
            return run_sweep(path, workdir, crossval__folds=3, **changes)

        assert run() == 0 and len(runs.started) == 6
        relabel(tmp_path / "data")
        with pytest.raises(UserError, match=r"a/seed0 was trained on other data"):
            run()
        run(sweep__report_only=True)
        assert {s[2] for s in statuses(workdir)} == {"failed"}
        assert run(data__accept_changed=True) == 0 and len(runs.started) == 6
        return
    folds = config(manifest, crossval__folds=3, crossval__only="0,1")
    crossval.cross_validate(folds, workdir)
    assert len(runs.started) == 2
    relabel(tmp_path / "data")
    folds.crossval.only = ""
    with pytest.raises(DataChanged, match=r"'0.png': expression: there 'happy', now 'sad'"):
        crossval.cross_validate(folds, workdir)
    assert len(runs.started) == 2
    folds.data.accept_changed = True
    result = crossval.cross_validate(folds, workdir)
    assert len(runs.started) == 3 and sorted(result.figures) == [0, 1, 2]
    relabel(tmp_path / "data", 0, "happy")
    folds.data.accept_changed = False
    shutil.rmtree(workdir / "folds/2")
    (workdir / "data.json").unlink()  # each fold has its own
    for fold, cell in crossval.plan(folds, workdir).items():
        assert planned_runs.outcome(cell).status == ("open" if fold == 2 else "done")


# Evaluation.


@pytest.fixture
def evaluated(monkeypatch, tmp_path):
    """A run on a manifest whose model is not needed: (workdir, what evaluates a config)."""
    manifest, workdir = write(tmp_path / "data"), tmp_path / "run"
    own = config(manifest)
    workdir.mkdir()
    config_lib.claim_workdir(workdir, own)
    data_record.compare(workdir, data_lib.make_sources(own)).begin()
    (workdir / "checkpoints/3").mkdir(parents=True)

    class Reached(Exception):
        pass

    def create(*_, **__):
        raise Reached

    system = types.SimpleNamespace(
        known={"expression"},
        hierarchy=None,
        labels=types.SimpleNamespace(class_counts=(), n_features=0),
    )

    def load(*_, config):
        return types.SimpleNamespace(
            class_names=CLASSES, system=system, config=config, model=types.SimpleNamespace()
        )

    monkeypatch.setattr(load_run, "load_run", load)
    monkeypatch.setattr(evaluate_run.systems, "create", create)

    def run(**changes):
        with pytest.raises(Reached):
            evaluate_run.evaluate_workdir(config(**({"manifest": manifest} | changes)), workdir)

    return tmp_path / "data", run


def test_evaluation_tells_changed_data_from_other_data(evaluated, tmp_path, caplog):
    folder, run = evaluated
    run()
    run(data__clean_eval=True)  # another view of the same data
    run(data__classes="happiness,sad,Anger")
    rows = rows_of(folder)
    write(folder, [*rows[24:], *rows[:24]])
    run()  # in another order
    rows[6]["expression"] = "neutral"
    write(folder, rows)
    with pytest.raises(DataChanged, match=r"class.*'neutral'|'6.png'"):
        run()
    with pytest.raises(DataChanged, match=r"'6.png'|class"):
        run(data__validation_fraction=0.2)
    rows[6]["expression"] = rows[3]["expression"]
    write(folder, [*rows[:6], {**rows[6], "expression": "sad"}, *rows[7:]])
    with pytest.raises(DataChanged, match=r"'6.png': expression: there 'happy', now 'sad'"):
        run()
    run(data__accept_changed=True)
    assert "accept_changed" in caplog.text
    run(manifest=write(tmp_path / "others", rows_of(folder)[:40]))  # other data are others
    assert "do not show how it reads new ones" not in caplog.text


def test_evaluation_on_images_of_the_training_is_said(evaluated, tmp_path, caplog):
    folder, run = evaluated
    (tmp_path / "link").symlink_to(folder)
    rows = [{**row, "path": f"../link/{row['path']}"} for row in rows_of(folder)]
    for row in rows:
        row["split"] = "test"
    run(manifest=write(tmp_path / "again", rows[:10]))
    # Of five persons with two images each, three are in training and one in validation.
    assert "6 of these 10 images" in caplog.text and "train split of the run" in caplog.text
    assert "2 of these 10 images" in caplog.text and "validation split of the run" in caplog.text
    caplog.clear()
    both = f"{write(tmp_path / 'both', rows[:4])},{write(tmp_path / 'more', rows[4:10])}"
    run(manifest=both)
    assert "6 of these 10 images" in caplog.text
    caplog.clear()
    unseen = [
        row for row, then in zip(rows, rows_of(folder), strict=True) if then["split"] == "test"
    ]
    run(manifest=write(tmp_path / "new", unseen))
    assert "these" not in caplog.text


def test_processes_that_see_other_data_end_together(monkeypatch, tmp_path):
    sources = data_lib.make_sources(config(write(tmp_path / "data")))

    def gather(array):
        return np.stack([array, array + (len(array) > 3)])

    monkeypatch.setattr(data_record.parallel, "all_gather_hosts", gather)
    with pytest.raises(DataChanged, match="process 1 of the job sees other data than process 0"):
        data_record.compare(tmp_path / "run", sources)
