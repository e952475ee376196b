"""Damaged checkpoints: any damage is noticed, they are set aside, the newest whole one is used."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from affect_jax import export, runtime
from affect_jax.errors import UserError
from affect_jax.experiments import evaluate_run
from affect_jax.training import loop
from affect_jax.weights import checksums
from affect_jax.weights.checkpoints import Checkpointer
from tests.affect_jax import tiny
from tests.affect_jax.training.test_resume import losses
from tests.affect_jax.weights.test_checkpoints import make_state, save_all


def largest(folder: pathlib.Path) -> pathlib.Path:
    """The largest file of arrays; the others are descriptions of them."""
    return max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path: pathlib.Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "empty_metadata": lambda d: (d / "_CHECKPOINT_METADATA").write_bytes(b""),
    "no_metadata": lambda d: (d / "_CHECKPOINT_METADATA").unlink(),
    "empty_array_metadata": lambda d: (d / "model/_METADATA").write_bytes(b""),
    "no_model": lambda d: shutil.rmtree(d / "model"),
    "no_training": lambda d: shutil.rmtree(d / "training"),
    "no_record": lambda d: shutil.rmtree(d / "record"),
    "no_metrics": lambda d: shutil.rmtree(d / "metrics"),
    "empty_metrics": lambda d: (d / "metrics/metrics").write_bytes(b""),
    "other_metrics": lambda d: (d / "metrics/metrics").write_text('{"score": 0.1}'),
    "empty_record": lambda d: (d / "record/metadata").write_bytes(b""),
    "nothing": lambda d: (shutil.rmtree(d), d.mkdir()),
    "no_arrays": lambda d: shutil.rmtree(d / "model/ocdbt.process_0"),
    "cut_model": lambda d: cut(largest(d / "model")),
    "cut_training": lambda d: cut(largest(d / "training")),
    "flipped_first": lambda d: flip(largest(d / "model"), 0),
    "flipped_middle": lambda d: flip(largest(d / "model"), 0.5),
    "flipped_last": lambda d: flip(largest(d / "model"), 1),
    "flipped_training": lambda d: flip(largest(d / "training"), 0.4),
    "flipped_record": lambda d: flip(d / "record/metadata", 0.5),
    "cut_checksums": lambda d: cut(d / checksums.CHECKSUMS_FILE),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    save_all(workdir, {1: 0.2, 2: 0.3, 3: 0.9}, keep=3).close()
    return workdir


def opened(workdir, **more):
    return Checkpointer(workdir, best_metric="score", best_mode="max", keep=3, **more)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_resumes_from_the_newest_whole_checkpoint(damage, saved, tmp_path, caplog):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    DAMAGE[damage](tmp_path / "checkpoints/3")
    checkpointer = opened(tmp_path)
    assert checkpointer.latest_step() == 2 == checkpointer.resolve("best")
    jax.tree.map(
        np.testing.assert_array_equal, checkpointer.restore(2, make_state(0)), make_state(2)
    )
    (line,) = caplog.messages
    place = tmp_path / "damaged_checkpoints/3"
    assert line.startswith("checkpoint 3 is damaged: ") and str(place) in line and place.is_dir()
    checkpointer.close()


def test_a_damaged_step_can_be_written_and_damaged_again(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    flip(largest(tmp_path / "checkpoints/3"), 0.2)
    checkpointer = opened(tmp_path)
    checkpointer.save(3, make_state(3), record={"class_names": []}, metrics={"score": 1.0})
    checkpointer.wait()
    checkpointer.close()
    flip(largest(tmp_path / "checkpoints/3"), 0.5)
    opened(tmp_path).close()
    assert (tmp_path / "damaged_checkpoints/3.1").is_dir()


@pytest.mark.parametrize("damage", DAMAGE)
def test_readers_skip_it_and_move_nothing(damage, saved, tmp_path, caplog):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    DAMAGE[damage](tmp_path / "checkpoints/3")
    reader = opened(tmp_path, read_only=True)
    expected = 3 if "training" in damage else 2  # which a model does without
    assert reader.resolve("best") == reader.resolve("latest") == expected
    assert (tmp_path / "checkpoints/3").is_dir()
    assert not (tmp_path / "damaged_checkpoints").exists()
    if expected == 2:
        assert all("checkpoint 3 is damaged" in m and "using step 2" in m for m in caplog.messages)
        with pytest.raises(UserError, match=r"checkpoint 3 .*is damaged.*choose another"):
            reader.resolve("3")


def test_the_best_one_damaged_gives_the_next_best(saved, tmp_path, caplog):
    save_all(tmp_path, {1: 0.7, 2: 0.9, 3: 0.3, 4: None}, keep=4).close()
    flip(largest(tmp_path / "checkpoints/2/model"), 0.3)
    checkpointer = opened(tmp_path)
    assert checkpointer.resolve("best") == 1
    assert "checkpoint 2 is damaged" in caplog.text and "using step 1, the next best" in caplog.text
    checkpointer.close()


def test_an_older_one_that_orbax_cannot_read_is_set_aside_too(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    DAMAGE["empty_metrics"](tmp_path / "checkpoints/1")
    checkpointer = opened(tmp_path)
    assert checkpointer.latest_step() == 3
    assert (tmp_path / "damaged_checkpoints/1").is_dir()
    checkpointer.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_where_none_is_whole_nothing_is_moved_and_the_message_says_so(read_only, saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for step in (1, 2, 3):
        cut(largest(tmp_path / f"checkpoints/{step}/model"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint in .* is intact.*new --workdir") as e:
            opened(tmp_path, read_only=read_only).resolve("best")
        assert "\n" not in str(e.value)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


CHANGES = {
    "num_steps": 8,
    "checkpoint__every": 2,
    "checkpoint__keep": 4,
    "eval_every": 4,
    "eval__flip": False,
    "report__pictures": False,
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    loop.train_and_evaluate(tiny.one_block(**CHANGES), workdir)
    return workdir


def test_a_run_resumed_from_the_one_before_repeats_the_same_numbers(
    uninterrupted, tmp_path, caplog
):
    """Killed after step 6, whose checkpoint is damaged: it resumes from step 4."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/8")
    shutil.rmtree(tmp_path / "report")
    rows = [r for r in runtime.read_metrics(tmp_path) if r["step"] <= 6 and not r.get("final")]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    flip(largest(tmp_path / "checkpoints/6"), 0.5)
    with caplog.at_level("INFO", "affect_jax"):
        loop.train_and_evaluate(tiny.one_block(**CHANGES), tmp_path)
    assert "checkpoint 6 is damaged" in caplog.text and "resumed from step 4" in caplog.text
    assert losses(tmp_path) == losses(uninterrupted)
    final = [
        {k: v for k, v in runtime.read_metrics(w)[-1].items() if k != "time"}
        for w in (tmp_path, uninterrupted)
    ]
    assert final[0] == final[1] and final[0]["final"]
    arrays = [
        np.load(w / "report/predictions.npz")["probabilities"] for w in (tmp_path, uninterrupted)
    ]
    np.testing.assert_array_equal(*arrays)
    assert (tmp_path / "damaged_checkpoints/6").is_dir()


def test_evaluation_and_export_use_a_whole_one(uninterrupted, tmp_path, caplog):
    shutil.copytree(uninterrupted, tmp_path / "run")
    flip(largest(tmp_path / "run/checkpoints/8/model"), 0.7)
    config = tiny.one_block(**CHANGES, eval__checkpoint="latest")
    evaluate_run.evaluate_workdir(config, tmp_path / "run")
    rows = runtime.read_metrics(tmp_path / "run" / runtime.EVALUATIONS_FILE)
    assert rows[-1]["checkpoint"] == 6
    assert export.export(tmp_path / "run", tmp_path / "model", "latest") == 6
    options = {"workdir": tmp_path / "run", "output": tmp_path / "m", "checkpoint": 8}
    assert export.main([f"--{key}={value}" for key, value in options.items()]) == 2
    assert len([m for m in caplog.messages if "checkpoint 8 is damaged" in m]) == 2


def test_a_finished_run_with_a_damaged_checkpoint_is_not_trained_again(
    uninterrupted, tmp_path, monkeypatch
):
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    cut(largest(tmp_path / "checkpoints/8/model"))
    monkeypatch.setattr(loop, "_train", None)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    result = loop.train_and_evaluate(tiny.one_block(**CHANGES), tmp_path)
    assert result.metrics["accuracy"] >= 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
