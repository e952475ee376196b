"""Distillation: a teacher teaches what it was trained for, in the classes of the data."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models, systems
from affect_jax.errors import UserError
from affect_jax.losses import supervised
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems import Phase
from affect_jax.systems.objective import LossInputs, supervised_objective
from affect_jax.weights import load_run, model_dir
from affect_jax.weights import teacher as teacher_lib
from tests.affect_jax import tiny

BOTH = frozenset({"expression", "valence_arousal"})
CLASSES = ("anger", "happy", "sad")


def outputs(seed=0, n=6):
    rng = np.random.default_rng(seed)
    made = {"logits": rng.standard_normal((n, 3))}
    made |= {name: rng.standard_normal(n) for name in ("valence", "arousal")}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made)


def batch():
    return {
        "image": jnp.zeros((6, 8, 8, 3), jnp.uint8),
        "expression": jnp.asarray([0, 1, 2, -1, 2, 0]),
        "valence_arousal": jnp.full((6, 2), jnp.nan),
        "mask": jnp.ones(6, bool),
    }


def distilling(has, system="emofan", **changes):
    config = tiny.one_block(loss__distillation_weight=0.5, loss__teacher="somewhere", **changes)
    config.system = system
    return systems.create(config, class_names=CLASSES, has=frozenset(has), class_counts=(2, 1, 2))


@pytest.mark.parametrize("system", ["emofan", "classifier"])
def test_data_without_valence_and_arousal_have_none_taught(system):
    """The loss is that of the categories: half cross-entropy, half divergence."""
    made = distilling({"expression"}, system)
    inputs = LossInputs(outputs(), batch(), jax.random.key(0), teacher=outputs(1))
    loss, terms = made.loss(inputs, Phase("emotion", 0))
    assert terms.keys() == {"cross_entropy", "distillation"}
    expected = supervised.softmax_cross_entropy(outputs()["logits"], batch()["expression"])
    expected += supervised.distillation_divergence(outputs()["logits"], outputs(1)["logits"])
    np.testing.assert_allclose(loss, expected / 2, rtol=1e-6)


def test_what_a_teacher_does_not_give_is_learnt_from_labels_alone():
    config, labels = distilling(BOTH).config, batch()
    labels["valence_arousal"] = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (6, 2)))
    config.loss.regression = "mse"

    def loss(*names):
        teacher = {name: outputs(1)[name] for name in names}
        inputs = LossInputs(outputs(), labels, jax.random.key(0), teacher=teacher)
        return supervised_objective(inputs, config.loss)

    total, terms = loss("valence", "arousal")
    assert "distillation" not in terms
    np.testing.assert_allclose(total, terms["cross_entropy"] + terms["mse"], rtol=1e-6)
    by_labels = loss("logits")[1]["mse"]
    squares = [
        (outputs()[n] - labels["valence_arousal"][:, i]) ** 2
        for i, n in enumerate(("valence", "arousal"))
    ]
    np.testing.assert_allclose(by_labels, jnp.sum(jnp.mean(jnp.stack(squares), 1)), rtol=1e-5)


def test_lessons_are_the_trained_outputs_alone():
    for teaches, names in (
        ({"expression"}, {"logits"}),
        ({"valence_arousal"}, {"valence", "arousal"}),
        (BOTH, {"logits", "valence", "arousal"}),
    ):
        teacher = teacher_lib.Teacher(None, {}, (), (), frozenset(teaches))
        assert teacher.lessons({**outputs(), "heatmaps": 0, "embedding": 0}).keys() == names


# ------------------------------------------------------------------ model directories


@pytest.fixture(scope="module")
def small():
    return models.create("resnet18", width=8, n_expression=3, regression=True)


def saved(tmp_path, model, class_names=CLASSES, provenance=None):
    model_dir.save_model(
        tmp_path / "teacher",
        "resnet18",
        {"width": 8, "n_expression": 3, "regression": True},
        model,
        preprocessing=model_dir.Preprocessing(image_size=32),
        class_names=class_names,
        provenance=provenance,
    )
    return tmp_path / "teacher"


def load(path, learns=BOTH, class_names=CLASSES):
    return teacher_lib.load_teacher(path, Mapper(), class_names, frozenset(learns))


@pytest.mark.parametrize(
    ("provenance", "teaches"),
    [
        ({"trained_for": ["expression"]}, {"expression"}),
        ({"trained_for": ["attributes", "expression", "valence_arousal"]}, BOTH),
        ({"source_sha256": "0"}, BOTH),  # released: every head was trained
        (None, {"expression"}),  # nobody says that valence and arousal were
    ],
)
def test_a_model_directory_teaches_what_it_was_trained_for(
    provenance, teaches, small, tmp_path, caplog
):
    teacher = load(saved(tmp_path, small, provenance=provenance))
    assert teacher.teaches == teaches
    assert ("does not teach valence_arousal" in caplog.text) == (teaches != BOTH)


def test_a_teacher_with_nothing_to_teach_is_refused(small, tmp_path):
    path = saved(tmp_path, small, provenance={"trained_for": ["landmarks"]})
    with pytest.raises(UserError, match="was trained for landmarks, and this run learns expr"):
        load(path)
    path = saved(tmp_path, small, provenance={"trained_for": ["valence_arousal"]})
    with pytest.raises(UserError, match="use another teacher"):
        load(path, {"expression"})
    assert load(path).teaches == {"valence_arousal"}
    path = saved(tmp_path, small, provenance={"trained_for": ["valence"]})
    with pytest.raises(UserError, match=r"trained_for in model.json is \['valence'\]"):
        load(path)


def test_classes_must_be_those_of_the_data_in_their_order(small, tmp_path):
    path = saved(tmp_path, small, ("sad", "Happiness", "angry"))
    with pytest.raises(UserError, match=r"add --config\.data\.classes=sad,Happiness,angry"):
        load(path)
    assert load(path, {"valence_arousal", "expression"}, ("sadness", "happy", "anger"))
    with pytest.raises(UserError, match="knows the classes sad, Happiness, angry; the data"):
        load(path, BOTH, ("anger", "happy", "fear"))
    path = saved(tmp_path, small, ())
    with pytest.raises(UserError, match="nothing that is known"):
        load(path)
    path = saved(tmp_path, small, (), {"trained_for": ["expression"]})
    with pytest.raises(UserError, match=r"\(not named\).*class_names"):
        load(path)
    # Classes that are not taught may be any.
    path = saved(tmp_path, small, ("a", "b", "c"), {"trained_for": ["valence_arousal"]})
    assert load(path).teaches == {"valence_arousal"}


def test_what_released_weights_and_unknown_ones_were_trained_for():
    fan = models.create("fan", width=16, depth=1, stacks=1)
    fan.eval()
    loaded = model_dir.LoadedModel(
        fan, "fan", {}, model_dir.Preprocessing(32), (), {"source_sha256": "0"}
    )
    assert loaded.trained_for() == {"landmarks"}
    alone = models.create("resnet18", width=8, n_expression=0, regression=True)
    alone.eval()
    loaded = model_dir.LoadedModel(alone, "resnet18", {}, model_dir.Preprocessing(32), (), {})
    assert loaded.trained_for() == {"valence_arousal"}


# ------------------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("has", "changes", "teaches"),
    [
        (BOTH, {}, BOTH),
        ({"expression"}, {}, {"expression"}),
        (BOTH, {"loss__categories": False}, {"valence_arousal"}),
        (BOTH, {"loss__regression": "none"}, {"expression"}),
    ],
)
def test_a_run_teaches_what_its_loss_trained(has, changes, teaches, small, tmp_path, monkeypatch):
    config = tiny.one_block(**changes)
    config.model.mean = config.model.std = (0.5, 0.5, 0.5)
    system = systems.create(config, class_names=CLASSES, has=frozenset(has), class_counts=(1, 1, 1))
    run = types.SimpleNamespace(model=small, class_names=CLASSES, config=config, system=system)
    monkeypatch.setattr(load_run, "is_workdir", lambda _: True)
    monkeypatch.setattr(load_run, "load_run", lambda *_: run)
    assert load(tmp_path).teaches == teaches


def test_a_frozen_head_of_the_teacher_moves_nothing(small):
    """In the step: of a teacher that teaches classes alone, valence and arousal are not read."""
    blueprint, params, stats = take_apart(small)
    teacher = teacher_lib.Teacher(blueprint, {}, (0,) * 3, (1,) * 3, frozenset({"expression"}))
    images = jnp.zeros((2, 32, 32, 3))
    given = nnx.eval_shape(lambda x: teacher.lessons(blueprint.build(params, stats)(x)), images)
    assert given.keys() == {"logits"}


def test_a_teacher_does_not_compare_the_images_of_one_device(tmp_path):
    arguments = {"width": 4, "n_expression": 3, "relations": {"context": "batch", "bank_size": 2}}
    model_dir.save_model(
        tmp_path / "teacher",
        "resnet18",
        arguments,
        models.create("resnet18", **arguments),
        preprocessing=model_dir.Preprocessing(image_size=32),
        class_names=CLASSES,
    )
    teacher = load(tmp_path / "teacher", {"expression"})
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), jnp.float32)
    arrays = jax.device_get(teacher.arrays)
    run = jax.jit(lambda arrays, x: teacher.blueprint.build(**arrays)(x)["logits"][:2])
    whole, part = (run(arrays, x) for x in (images, images[:2]))
    np.testing.assert_allclose(part, whole, atol=1e-5)
