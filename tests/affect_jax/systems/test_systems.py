"""What a system tells the loop: phases, what trains in them, what is worth measuring."""

import numpy as np
import pytest

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.evaluation import evaluator
from affect_jax.experiments import evaluate_run
from affect_jax.systems.arbex import ArbexSystem
from affect_jax.systems.classifier import ClassifierSystem
from affect_jax.systems.emofan import EmoFANSystem
from affect_jax.systems.vit_se import ViTSESystem
from tests.affect_jax import tiny

ALL = frozenset({"expression", "valence_arousal", "landmarks"})


def emofan(has=ALL, **changes):
    return systems.create(
        tiny.config(**changes), class_names=("a", "b"), has=frozenset(has), class_counts=(3, 1)
    )


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("quickstart", EmoFANSystem),
        ("arbex_synthetic", ArbexSystem),
        ("vit_se_synthetic", ViTSESystem),
        ("poster_v2_rafdb", ClassifierSystem),
    ],
)
def test_a_paper_has_its_own_system(file, kind):
    config = config_lib.load_file(tiny.ROOT / "configs" / f"{file}.py")
    labels = dict(class_names=("a", "b"), has=ALL, class_counts=(3, 1))
    assert type(systems.create(config, **labels)) is kind
    if file != "quickstart":
        config.system = "classifier"  # trains the same
        assert type(systems.create(config, **labels)) is ClassifierSystem


def test_landmarks_come_first_and_train_the_trunk_alone():
    system = emofan(model__train_trunk=False)
    landmarks, emotion = system.phases(8)
    assert (landmarks.start, landmarks.learning_rate, emotion.start) == (0, 3e-3, 3)
    assert system.trainable("fan/stem_conv/kernel", landmarks)
    assert not system.trainable("emotion/output/kernel", landmarks)
    assert not system.trainable("fan/stem_conv/kernel", emotion)
    assert system.trainable("emotion/output/kernel", emotion)


def test_a_trunk_that_trains_on_and_frozen_prefixes():
    system = emofan(model__train_trunk=True, optimizer__freeze=("emotion/output",))
    emotion = system.phases(8)[-1]
    assert system.trainable("fan/stem_conv/kernel", emotion)
    assert not system.trainable("emotion/output/kernel", emotion)


def test_the_landmark_stage_leaves_half_of_a_short_run(caplog):
    assert [p.start for p in emofan(landmark_stage__steps=300).phases(8)] == [0, 4]
    assert "reduced to 4" in caplog.text


def test_landmarks_need_data_to_learn_from():
    has = {"expression"}
    with pytest.raises(ConfigError, match=r"landmark_stage\.data"):
        emofan(has).phases(8)
    first, _ = emofan(has, landmark_stage__data="synthetic").phases(8)
    assert first.synthetic
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        emofan(landmark_stage__data="sinthetic").phases(8)


@pytest.mark.parametrize(
    ("has", "changes", "names"),
    [
        (ALL, {}, {"logits", "valence", "arousal", "landmarks"}),
        ({"expression"}, {"model__train_trunk": False}, {"logits", "landmarks"}),
        ({"expression"}, {"model__train_trunk": True}, {"logits"}),
        ({"valence_arousal"}, {"landmark_stage__steps": 0}, {"valence", "arousal"}),
    ],
)
def test_only_trained_outputs_are_predictions(has, changes, names):
    outputs = {
        "logits": np.zeros((2, 2)),
        "valence": np.zeros(2),
        "arousal": np.zeros(2),
        "heatmaps": np.zeros((2, 8, 8, 68), np.float32),
    }
    assert emofan(has, **changes).predictions(outputs, 32).keys() == names


def test_a_run_is_not_evaluated_on_another_cut_of_its_own_data():
    then = tiny.config(data__source="manifest", data__manifest="a.csv")
    with pytest.raises(ConfigError, match=r"data\.test_fold = 2"):
        evaluate_run._check_same_split(
            tiny.config(data__source="manifest", data__manifest="a.csv", data__test_fold=2), then
        )
    fold = tiny.config(data__protocol="folds", data__folds=4, data__test_fold=1)
    for protocol in ("split", "leave_one_out"):
        now = tiny.config(data__protocol=protocol, data__folds=4, data__test_fold=1)
        with pytest.raises(ConfigError, match=rf"data\.protocol = {protocol}, but.*with folds"):
            evaluate_run._check_same_split(now, fold)
    other = tiny.config(data__source="manifest", data__manifest="b.csv", data__test_fold=2)
    evaluate_run._check_same_split(other, then)


def test_flip_average_is_clipped():
    predictions = {
        "valence": np.array([1.4, 0.2]),
        "mirrored_valence": np.array([1.2, 0.0]),
        "arousal": np.array([-0.5, -3.0]),
        "mirrored_arousal": np.array([0.5, -1.0]),
    }
    averaged = evaluator.flip_averaged(predictions)
    np.testing.assert_allclose(averaged["valence"], [1.0, 0.1])
    np.testing.assert_allclose(averaged["arousal"], [0.0, -1.0])
