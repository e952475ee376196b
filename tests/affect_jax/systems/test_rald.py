"""RALD in training: on every kind of backbone, on eight devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import overrides, systems
from affect_jax.config import ConfigError
from affect_jax.models.layers import Layers
from affect_jax.models.relations import BY_SETTINGS, Relations
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import AXIS, MAPPINGS, Mapper
from affect_jax.training.step import make_train_step
from configs import base, rald_fg_emotions, rald_l_rafdb

CLASSES = ("anger", "happy", "sad", "fear")
TREE = '[coarse]\nbad = ["anger", "sad", "fear"]\ngood = ["happiness"]\n'
FEATURES, IMAGES = 8, 16
SMALL = {"heads": 2, "head_features": 4, "label_features": 6, "bank_size": 4, "dropout": 0.0}
BACKBONES = {
    "arbex_tiny": ("arbex", dict(backbone={"vit_depth": 1})),
    "emofan": ("emofan", dict(width=16, depth=1, stacks=1, emotion_blocks=1)),
    "resnet18": ("rald", dict(width=4)),
    "vit_ti16": ("vit_se", dict(depth=1)),
}


def make_system(tmp_path, name="resnet18", system=None, **relations):
    config = base.get_config()
    known, changes = BACKBONES[name]
    config.system = system or known
    config.model = base.model(name, **changes)
    config.data.image_size = 32
    config.loss.relations.reduction = "batchmean"
    if relations:
        (tmp_path / "tree.toml").write_text(TREE)
        config.model.hierarchy = str(tmp_path / "tree.toml")
        settings = {"enabled": True, "hierarchy_bias": True, **SMALL, **relations}
        config.model.relations.update(settings)
    return systems.create(
        config, class_names=CLASSES, has=frozenset({"expression"}), class_counts=(1,) * 4
    )


class Pixels(nnx.Module):
    """A backbone that compiles at once: a linear layer on pixels."""

    def __init__(self, relations, dtype, axis_name, rngs):
        make = Layers(rngs, dtype, dtype, axis_name)
        self.embed, self.head = make.linear(48, FEATURES), make.linear(FEATURES, 4)
        self.relations = Relations.of(relations, FEATURES, 4, make)

    def __call__(self, images, *, rngs=None, comparison=BY_SETTINGS):
        features = self.embed(images.reshape(len(images), -1))
        refined, outputs = self.relations(features, rngs=rngs, comparison=comparison)
        return outputs | {"embedding": refined, "logits": self.head(refined)}


def make_batch(size, rows=IMAGES):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, rows).astype(np.int32)
    image = rng.integers(0, 128, (rows, size, size, 3))
    # The class is the colour, so that there is something to learn.
    image[..., 0] += 40 * labels[:, None, None]
    labels[1] = -1
    mask = np.ones(rows, bool)
    mask[-3:] = False
    return {"image": image.astype(np.uint8), "expression": labels, "mask": mask}


def train(system, mapper, batch, steps, optimizer):
    """(parameters before, state after, terms of all steps)."""
    model = system.create_model(nnx.Rngs(3), AXIS)
    phase = system.phases(steps)[0]
    system.set_train_mode(model, phase)
    blueprint, params, stats = take_apart(model)
    step = mapper.map(make_train_step(system, blueprint, optimizer, phase), donate_state=True)
    before = jax.device_get(params)
    state = {"step": np.int32(0), "params": params, "stats": stats, "opt": optimizer.init(params)}
    state, placed = mapper.replicate(state), mapper.place(batch)
    seen = []
    for _ in range(steps):
        state, terms = step(state, placed, {})
        seen.append(jax.device_get(terms))
    return before, jax.device_get(state), seen


# Relations stand between any backbone and its last layer: the two smallest stand for all.
@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("arbex_tiny", "emofan") else [])
        for name in BACKBONES
    ],
)
def test_every_backbone_trains_with_one_line_of_config(backbone, tmp_path):
    system = make_system(tmp_path, backbone, residual=True)
    mapper = Mapper("pmap", jax.devices()[:1])
    before, state, seen = train(system, mapper, make_batch(32), 6, optax.adam(1e-3))
    assert seen[-1].keys() >= {"cross_entropy", "neighbour_loss", "neighbour_accuracy"}
    losses = [float(terms["loss"]) for terms in seen]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    for name in ("images/attention/query/kernel", "guidance/attention/key/kernel", "labels/bias"):
        after = state["params"][f"relations/{name}"]
        assert not np.array_equal(after, before[f"relations/{name}"])
    for name, array in state["stats"].items():
        if name.startswith("relations/bank"):
            assert (array == (0 if name.endswith("features") else -1)).all()


def on_pixels(system, dtype):
    """The system, with the backbone that compiles at once."""
    system.create_model = lambda rngs, axis_name: Pixels(system.relations, dtype, axis_name, rngs)
    return system


@pytest.fixture(scope="module", params=[2, 5])
def by_one(request, tmp_path_factory):
    """Two steps in float64 on one device: (system, whether its settings are our own, result)."""
    with jax.enable_x64(True):
        # With 5 neighbours as in the project's own recipes, with 2 as printed.
        own = request.param == 5
        system = make_system(tmp_path_factory.mktemp("tree"), residual=own, normalise=own)
        system.config.loss.relations.neighbours = request.param
        on_pixels(system, "float64")
        one = train(system, Mapper("pmap", jax.devices()[:1]), make_batch(4), 2, optax.sgd(0.5))
        return system, own, one


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_eight_devices_equal_one(mapping, by_one):
    """Loss and gradient in float64, with padding on the last device alone."""
    system, own, one = by_one
    with jax.enable_x64(True):
        eight = train(system, Mapper(mapping), make_batch(4), 2, optax.sgd(0.5))
    for here, there in zip(one[2], eight[2], strict=True):
        for name, value in here.items():
            np.testing.assert_allclose(there[name], value, rtol=1e-9, err_msg=name)
    assert one[2][0]["neighbour_loss"] > 0
    for name, value in one[1]["params"].items():
        np.testing.assert_allclose(eight[1]["params"][name], value, atol=1e-11, err_msg=name)
        # A bias before a BatchNorm has no gradient.
        trains = not (own and name == "embed/bias")
        assert (np.abs(value - one[0][name]).max() > 1e-9) == trains, name


def gathered_bytes(jaxpr):
    """Return the bytes that all-gathers of a program deliver to each replica."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "all_gather":
            total += sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            total += gathered_bytes(inner) if hasattr(inner, "eqns") else 0
    return total


def test_features_and_predictions_are_gathered_once(monkeypatch, tmp_path):
    """D + N numbers of every image, and twice its mask: neither keys nor values."""
    system = make_system(tmp_path, residual=False)
    model = Pixels(system.relations, "float32", AXIS, nnx.Rngs(0))
    phase = system.phases(1)[0]
    system.set_train_mode(model, phase)
    blueprint, params, stats = take_apart(model)
    optimizer = optax.sgd(0.1)
    state = {"step": jnp.int32(0), "params": params, "stats": stats, "opt": optimizer.init(params)}
    step = make_train_step(system, blueprint, optimizer, phase)
    batch = {k: v[:2] for k, v in make_batch(4).items()}
    program = jax.make_jaxpr(step, axis_env=[(AXIS, 8)])(state, batch, {})
    assert gathered_bytes(program.jaxpr) == IMAGES * (4 * FEATURES + 4 * len(CLASSES) + 2)


def test_without_nnldl_there_is_no_term_of_it(tmp_path):
    system = on_pixels(make_system(tmp_path, nnldl=False), "float32")
    mapper = Mapper("pmap", jax.devices()[:1])
    _, _, seen = train(system, mapper, make_batch(4), 1, optax.sgd(0.1))
    assert "neighbour_loss" not in seen[0]
    assert seen[0]["loss"] == seen[0]["cross_entropy"]


def test_a_plain_model_is_the_classifier_that_is_compared_with(tmp_path):
    plain, other = make_system(tmp_path), make_system(tmp_path, system="classifier")
    mapper = Mapper("pmap", jax.devices()[:1])
    runs = [train(s, mapper, make_batch(32), 1, optax.sgd(0.1)) for s in (plain, other)]
    assert runs[0][2][0]["loss"] == runs[1][2][0]["loss"]


def test_the_tree_is_in_the_order_of_the_classes(tmp_path):
    system = make_system(tmp_path, residual=False)
    assert system.relations["hierarchy"]["fine"] == list(CLASSES)
    assert system.relations["hierarchy"]["coarse_of"] == [0, 1, 0, 0]


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.model\.hierarchy"):
        system = make_system(tmp_path)
        system.config.model.hierarchy = "fg_emotion"
        system.config.model.relations.enabled = True
        systems.create(
            system.config, class_names=CLASSES, has=frozenset({"expression"}), class_counts=()
        )
    with pytest.raises(ConfigError, match=r"relations\.nnldl = True needs"):
        make_system(tmp_path, itrr=False)
    for name, value in (("lambda_kl", -1.0), ("neighbours", 0), ("reduction", "sum")):
        config = rald_l_rafdb.get_config()
        config.loss.relations[name] = value
        with pytest.raises(ConfigError, match=f"config.loss.relations.{name}"):
            systems.create(
                config, class_names=CLASSES, has=frozenset({"expression"}), class_counts=()
            )


def test_configs_of_the_paper_follow_it():
    config = rald_fg_emotions.get_config()
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("sgd", 0.01)
    assert (config.batch_size, config.num_epochs) == (128, 300)
    assert (config.optimizer.step_epochs, config.optimizer.decay_factor) == (100, 0.005)
    relations = config.model.relations
    assert all(relations[name] for name in ("itrr", "hlrr", "lgifo", "nnldl", "hierarchy_bias"))
    assert (relations.heads, relations.head_features, relations.scale) == (8, 64, 0.125)
    assert not relations.residual and config.loss.relations.reduction == "mean"
    assert (config.loss.relations.lambda_kl, config.loss.relations.neighbours) == (1.0, 5)
    small = rald_l_rafdb.get_config()
    assert not small.model.hierarchy and not small.model.relations.hierarchy_bias
    assert small.model.relations.hlrr


def test_another_backbone_keeps_relations_and_system():
    root = config_lib.__file__.rsplit("/", 2)[0]
    argument = "--config.model.name=vit_ti16"
    config = overrides.load(f"{root}/configs/rald_fg_emotions.py", [argument])
    assert config.system == "rald" and config.model.hierarchy == "fg_emotions"
    assert config.model.relations.enabled and config.model.relations.hierarchy_bias
