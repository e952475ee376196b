"""The plain classifier: which labels it learns, and that its loss is that of the categories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.losses import supervised
from affect_jax.systems import Phase
from affect_jax.systems.objective import LossInputs
from affect_jax.training import mixing
from configs import base

KEY = jax.random.key(0)
ALL = frozenset({"expression", "valence_arousal", "landmarks"})


def create(has=ALL, **changes):
    config = base.get_config()
    config.system = "classifier"
    config.model = dict(name="resnet18", width=8, dtype="float32", regression=False)
    config.loss.class_weights = "balanced"
    config.loss.label_smoothing = 0.1
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return systems.create(
        config, class_names=("a", "b", "c"), has=frozenset(has), class_counts=(4, 2, 1)
    )


def batch(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.zeros((n, 8, 8, 3), jnp.uint8),
        "expression": jnp.asarray([0, 1, 2, -1, 2, 0]),
        "valence_arousal": jnp.asarray(rng.uniform(-1, 1, (n, 2)), jnp.float32),
        "landmarks": jnp.full((n, 68, 2), jnp.nan),
        "mask": jnp.arange(n) < n - 1,
    }


def outputs(n=6, *names):
    rng = np.random.default_rng(1)
    made = {"logits": jnp.asarray(rng.standard_normal((n, 3)), jnp.float32)}
    return made | {k: jnp.asarray(rng.standard_normal(n), jnp.float32) for k in names}


def loss(system, made, labels, teacher=None):
    return system.loss(LossInputs(made, labels, KEY, teacher=teacher), Phase("train", 0))


def test_the_loss_is_the_weighted_smoothed_cross_entropy():
    system, labels = create(), batch()
    total, terms = loss(system, outputs(), labels)
    expected = supervised.softmax_cross_entropy(
        outputs()["logits"],
        labels["expression"],
        mask=labels["mask"],
        label_smoothing=0.1,
        class_weights=system.class_weights,
    )
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert terms.keys() == {"cross_entropy"}
    assert system.has == {"expression"}


def test_votes_and_mixed_labels_are_targets():
    system, labels = create(mixing__mixup_alpha=1.0), batch()
    mixed = mixing.mix(labels, KEY, system.config.mixing, 3)
    total, _ = loss(system, outputs(), mixed)
    expected = supervised.softmax_cross_entropy(
        outputs()["logits"],
        mixed["expression_probs"],
        mask=labels["mask"],
        label_smoothing=0.1,
        class_weights=system.class_weights,
    )
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert not np.allclose(total, loss(system, outputs(), labels)[0])


def test_valence_and_arousal_are_learnt_where_the_model_gives_them():
    system = create(model__regression=True, loss__regression="ccc")
    total, terms = loss(system, outputs(6, "valence", "arousal"), batch())
    np.testing.assert_allclose(total, terms["cross_entropy"] + terms["ccc"], rtol=1e-6)
    assert system.has == {"expression", "valence_arousal"}


def test_a_teacher_with_valence_teaches_a_student_without():
    system = create(loss__distillation_weight=0.5, loss__teacher="somewhere")
    teacher = outputs(6, "valence", "arousal")
    _, terms = loss(system, outputs(), batch(), teacher)
    np.testing.assert_allclose(terms["distillation"], 0, atol=1e-6)


def test_the_head_has_the_classes_of_the_data():
    assert create().model_arguments()["n_expression"] == 3
    regression_only = create({"valence_arousal"}, model__regression=True)
    assert regression_only.model_arguments()["n_expression"] == 0


def test_data_without_a_label_to_learn():
    with pytest.raises(ConfigError, match=r"model\.regression"):
        create({"valence_arousal", "landmarks"})
