"""Checkpoints: whole or not at all, the best one kept, other architectures refused by name."""

import shutil

import jax
import numpy as np
import optax
import pytest

from affect_jax.errors import UserError
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights.checkpoints import Checkpointer, CheckpointMismatch


def make_state(value: float, *, width: int = 4, prefix: str = "") -> dict:
    params = {f"{prefix}a/kernel": np.full((3, width), value, np.float32)}
    return Mapper().replicate(
        {
            "step": np.int32(value),
            "params": params,
            "stats": {"norm/mean": np.full(width, value, np.float32)},
            "opt": optax.adam(1e-3).init(params),
        }
    )


def record() -> dict:
    return {"class_names": ["a", "b"]}


def save_all(workdir, scores, **kwargs):
    checkpointer = Checkpointer(workdir, best_metric="score", best_mode="max", **kwargs)
    for step, score in scores.items():
        metrics = None if score is None else {"score": score, "loss": 1.0}
        checkpointer.save(step, make_state(step), record=record(), metrics=metrics)
    checkpointer.wait()
    return checkpointer


def test_latest_and_best_are_kept(tmp_path):
    checkpointer = save_all(tmp_path, {1: 0.2, 2: 0.9, 3: 0.3, 4: None, 5: 0.4, 6: None}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "5", "6"]
    assert (checkpointer.latest_step(), checkpointer.resolve("best")) == (6, 2)
    checkpointer.close()


def test_nan_never_counts_as_best(tmp_path):
    checkpointer = save_all(tmp_path, {1: 0.2, 2: float("nan"), 3: 0.1}, keep=1)
    assert checkpointer.resolve("best") == 1
    checkpointer.close()


def test_without_a_finite_validation_none_is_the_best(tmp_path):
    checkpointer = save_all(tmp_path, {1: float("nan"), 2: float("inf"), 3: None}, keep=3)
    with pytest.raises(UserError, match=r"no finite 'score' for any.*\[1, 2, 3\].*learning_rate"):
        checkpointer.resolve("best")
    assert checkpointer.resolve("latest") == 3
    checkpointer.close()


def test_one_that_diverged_does_not_stand_in_for_a_damaged_best(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: float("nan")}, keep=3).close()
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "model")
    reader = Checkpointer(tmp_path, best_metric="score", best_mode="max", read_only=True)
    with pytest.raises(UserError, match=r"checkpoint best in .* is damaged"):
        reader.resolve("best")
    assert reader.resolve("latest") == 2
    reader.close()


def test_the_mode_follows_the_metric(tmp_path):
    checkpointer = Checkpointer(tmp_path, best_metric="accuracy", keep=1)
    for step, accuracy in {1: 0.3, 2: 0.9, 3: 0.9, 4: 0.2}.items():
        metrics = {"accuracy": accuracy, "loss": accuracy}
        checkpointer.save(step, make_state(step), record=record(), metrics=metrics)
    checkpointer.wait()
    assert checkpointer.resolve("best") == 3
    checkpointer.close()


def test_state_comes_back_bit_for_bit(tmp_path):
    checkpointer = save_all(tmp_path, {7: 0.5})
    restored = checkpointer.restore(7, make_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(7))
    assert checkpointer.record(7)["class_names"] == ["a", "b"]
    checkpointer.close()


def test_model_alone_can_be_restored_read_only(tmp_path):
    save_all(tmp_path, {7: 0.5}).close()
    reader = Checkpointer(tmp_path, best_metric="score", best_mode="max", read_only=True)
    like = {k: make_state(0)[k] for k in ("params", "stats")}
    assert float(reader.restore(7, like)["params"]["a/kernel"][0, 0]) == 7
    reader.close()


def test_other_architecture_is_refused_by_name_and_shape(tmp_path):
    checkpointer = save_all(tmp_path, {3: 0.5})
    with pytest.raises(CheckpointMismatch, match=r"a/kernel: \(3, 4\), the model has \(3, 5\)"):
        checkpointer.restore(3, make_state(0, width=5))
    with pytest.raises(
        CheckpointMismatch, match=r"1 missing:\n  params/b/a/kernel \(3, 4\)\n1 unexpected:\n"
    ):
        checkpointer.restore(3, make_state(0, prefix="b/"))
    checkpointer.close()


def test_half_written_checkpoint_is_ignored(tmp_path):
    save_all(tmp_path, {3: 0.5}).close()
    torn = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-123"
    torn.mkdir()
    (torn / "junk").write_bytes(b"x")
    checkpointer = Checkpointer(tmp_path, best_metric="score", best_mode="max")
    assert checkpointer.latest_step() == 3
    checkpointer.close()


def test_missing_checkpoint_names_those_there_are(tmp_path):
    checkpointer = save_all(tmp_path, {3: 0.5})
    with pytest.raises(UserError, match=r"no checkpoint '9'.*\[3\]"):
        checkpointer.resolve("9")
    checkpointer.close()
    with pytest.raises(UserError, match="train first"):
        Checkpointer(tmp_path / "empty").resolve("best")


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match="best_mode"):
        Checkpointer(tmp_path, best_mode="highest")
    with pytest.raises(UserError, match="worst checkpoint"):
        Checkpointer(tmp_path, best_metric="accuracy", best_mode="min")
    with pytest.raises(UserError, match="keep"):
        Checkpointer(tmp_path, keep=0)
