"""Reliability balancing in training: on every kind of backbone, on eight devices as on one."""

import ast
import pathlib

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from affect_jax import config as config_lib
from affect_jax import models, systems
from affect_jax.config import ConfigError
from affect_jax.experiments import evaluate_model, sweep, sweep_file
from affect_jax.models import state as state_lib
from affect_jax.models.arbex import OFFICIAL_RELIABILITY
from affect_jax.models.layers import Layers
from affect_jax.models.reliability import Reliability
from affect_jax.models.reliability_settings import to_section
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import AXIS, MAPPINGS, Mapper
from affect_jax.training.step import make_train_step
from affect_jax.weights import model_dir
from configs import arbex_official_rafdb, arbex_rafdb, base

ROOT = pathlib.Path(__file__).parents[3]
SMALL = {"input_size": 16, "image_width": 4, "image_stages": (1, 1, 1), "landmark_width": 4,
         "landmark_stages": (1, 1, 1), "dims": (4, 8, 8), "windows": (4, 2, 1),
         "heads": (1, 2, 2), "embedding": 16, "vit_depth": 1}  # fmt: skip
PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "dtype": "float32"}
EMOFAN = dict(name="emofan", width=16, depth=1, stacks=1, emotion_blocks=1, train_trunk=True)
BACKBONES = {
    "emofan": ("emofan", EMOFAN, 32),
    "resnet18": ("classifier", dict(name="resnet18", width=4), 32),
    "vit_se": ("classifier", dict(name="vit_ti16", se=True, depth=1, image_size=32), 32),
}
TERMS = {
    "anchor_loss",
    "center_loss",
    "anchor_norm",
    "anchor_norm_max",
    "anchors_never_win",
    "embedding_norm",
    "confidence_primary",
    "confidence_corrected",
    "correction_changed",
    "correction_better",
    "correction_worse",
}


def make_system(backbone, reliability, **loss):
    name, model, size = BACKBONES[backbone]
    config = base.get_config()
    config.system = name
    config.model = ConfigDict({**PLAIN, **model, "reliability": to_section(reliability)})
    config.data.image_size = size
    config.loss.label_smoothing = 0.11
    config.loss.reliability.update(loss)
    return systems.create(
        config, class_names=tuple("abcd"), has=frozenset({"expression"}), class_counts=(1,) * 4
    )


class Pixels(nnx.Module):
    """A backbone that compiles at once: a linear layer on pixels, in float64."""

    def __init__(self, reliability, axis_name, rngs):
        make = Layers(rngs, "float64", "float64", axis_name)
        self.embed, self.head = make.linear(48, 8), make.linear(8, 4)
        self.reliability = Reliability.of(reliability, 8, 4, make)

    def __call__(self, images, *, rngs=None):
        embedding = self.embed(images.reshape(len(images), -1))
        return self.reliability({"embedding": embedding, "logits": self.head(embedding)})


def make_batch(size, rows):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, rows).astype(np.int32)
    labels[1] = -1
    image = rng.integers(0, 128, (rows, size, size, 3))
    # The class is the colour, so that there is something to learn.
    image[..., 0] += 40 * labels[:, None, None].clip(0)
    mask = np.ones(rows, bool)
    mask[-1] = False
    return {"image": image.astype(np.uint8), "expression": labels, "mask": mask}


def train(system, mapper, batch, steps, optimizer):
    """(parameters before, after, terms of all steps)."""
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


# Balancing follows the last layer of any backbone: the two smallest stand for all.
@pytest.mark.parametrize(
    "backbone", [pytest.param("emofan", marks=pytest.mark.slow), "resnet18", "vit_se"]
)
def test_every_backbone_trains_with_one_line_of_config(backbone):
    system = make_system(backbone, {})
    mapper = Mapper("pmap", jax.devices()[:1])
    batch = make_batch(BACKBONES[backbone][2], 16)
    before, state, seen = train(system, mapper, batch, 6, optax.adam(3e-3))
    assert seen[-1].keys() >= TERMS
    losses = [float(terms["loss"]) for terms in seen]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    for name in ("anchors", "attention/query/kernel", "attention/key/kernel"):
        assert not np.array_equal(
            state["params"][f"reliability/{name}"], before[f"reliability/{name}"]
        )


@pytest.fixture(
    scope="module",
    params=[
        ({"anchors": 2}, "bounded"),
        ({"anchors": 2, "scope": "batch", "correction": "trust", "ramp_steps": 2}, "official"),
    ],
    ids=["bounded", "official"],
)
def by_one(request):
    """Two steps in float64 on one device: (system, result)."""
    reliability, variant = request.param
    with jax.enable_x64(True):
        system = make_system("resnet18", reliability, variant=variant)
        system.create_model = lambda rngs, axis_name: Pixels(reliability, axis_name, rngs)
        mapper = Mapper("pmap", jax.devices()[:1])
        return system, train(system, mapper, make_batch(4, 16), 2, optax.sgd(1e-2))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_eight_devices_equal_one(mapping, by_one):
    """Two steps in float64, so that the ramp of "trust" is above 0 in the second."""
    system, one = by_one
    with jax.enable_x64(True):
        eight = train(system, Mapper(mapping), make_batch(4, 16), 2, optax.sgd(1e-2))
    for name, value in one[2][-1].items():
        np.testing.assert_allclose(eight[2][-1][name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    for part in ("params", "stats"):
        for name, value in one[1][part].items():
            scale = max(np.abs(value).max(), 1e-3)
            np.testing.assert_allclose(
                eight[1][part][name] / scale, value / scale, atol=1e-9, err_msg=name
            )


def test_losses_follow_their_weights(monkeypatch):
    system = make_system("resnet18", {}, lambda_anchor=2.0, lambda_center=0.5, variant="paper")
    with jax.enable_x64(True):
        monkeypatch.setattr(
            system, "create_model", lambda rngs, axis_name: Pixels({"anchors": 2}, axis_name, rngs)
        )
        mapper = Mapper("pmap", jax.devices()[:1])
        terms = train(system, mapper, make_batch(4, 8), 1, optax.sgd(0.0))[2][0]
    expected = terms["cross_entropy"] + 2 * terms["anchor_loss"] + 0.5 * terms["center_loss"]
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-5)


def make_arbex(name="arbex_tiny", **changes):
    """A system with `model.reliability` only if it is among the changes."""
    config = base.get_config()
    config.system = "arbex"
    config.model = ConfigDict({**PLAIN, "name": name})
    config.data.image_size = 32
    for key, value in changes.items():
        *sections, field = key.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[field] = value
    labels = dict(class_names=tuple("abcd"), has=frozenset({"expression"}), class_counts=(1,) * 4)
    return systems.create(config, **labels)


@pytest.mark.parametrize("reliability", [{}, {"anchors": 2}])
def test_metrics_are_known_before_training(reliability):
    system = make_system("resnet18", reliability)
    assert [part.compute() for part in system.extra_metrics(1)] == [{}]
    assert system.create_model(nnx.Rngs(0), None).reliability is not None


def test_without_balancing_there_is_none():
    """Though the model by itself would have it."""
    assert make_system("resnet18", None).extra_metrics(1) == []
    system = make_arbex(model__reliability=to_section(None))
    assert system.balancing is None and system.extra_metrics(1) == []
    assert system.create_model(nnx.Rngs(0), None).reliability is None


def test_a_model_that_is_balanced_by_itself_is_measured_so():
    system = make_arbex()
    assert system.create_model(nnx.Rngs(0), None).reliability.settings.anchors == 10
    assert len(system.extra_metrics(1)) == 1
    official = make_arbex("arbex_official", num_steps=9)
    assert official.balancing == {**OFFICIAL_RELIABILITY, "ramp_steps": 9}
    (statistics,) = official.extra_metrics(1)
    assert statistics.state().size == make_arbex().extra_metrics(1)[0].state().size - 4 * 9


def test_a_model_that_cannot_be_balanced_says_so():
    system = make_arbex("ir50", model__reliability=to_section({"anchors": 4}))
    with pytest.raises(ConfigError, match="model 'ir50' has no keyword 'reliability'"):
        system.create_model(nnx.Rngs(0), None)


def test_trust_is_ramped_in_over_the_run():
    trust = to_section({"correction": "trust"})
    assert make_arbex(model__reliability=trust, num_steps=7).balancing["ramp_steps"] == 7
    own = to_section({"correction": "trust", "ramp_steps": 3})
    assert make_arbex(model__reliability=own, num_steps=7).balancing["ramp_steps"] == 3
    with pytest.raises(ConfigError, match=r"set config\.num_steps, or ramp"):
        make_arbex(model__reliability=trust)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__reliability": True}, "config.model.reliability = True; it must be a section"),
        ({"model__reliability": {"anchors": 4}}, "must be a section with enabled = True or False"),
        (
            {"model__reliability": {"enabled": True, "anchor": 4}},
            "config.model.reliability has no setting 'anchor'; did you mean 'anchors'",
        ),
        ({"model__reliability": to_section({"anchors": -1})}, "anchors = -1; it must be a whole"),
        ({"loss__regression": "mean"}, r"config\.loss\.regression = 'mean'; did you mean"),
        ({"loss__distillation_weight": 0.5}, r"there is no config\.loss\.teacher"),
        ({"model__regression": True}, 'use config.system = "classifier"'),
        ({"loss__reliability__variant": "papers"}, "variant = 'papers'; did you mean 'paper'"),
        ({"loss__reliability__margin": float("nan")}, "reliability.margin = nan; it must be 0 or"),
        ({"loss__reliability__radius": -1.0}, "reliability.radius = -1.0; it must be 0 or"),
        ({"loss__reliability__lambda_anchor": -0.1}, "reliability.lambda_anchor = -0.1; it must"),
        ({"loss__reliability__lambda_center": float("inf")}, "lambda_center = inf; it must be 0"),
    ],
)
def test_settings_are_checked_when_the_system_is_made(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_arbex(**changes)


def test_a_name_whose_preset_the_config_replaces_is_told(caplog):
    config = arbex_official_rafdb.get_config()
    config.data.image_size = 32
    config.model.backbone.update(SMALL)
    labels = dict(class_names=tuple("abcd"), has=frozenset({"expression"}), class_counts=(1,) * 4)
    with caplog.at_level("INFO"):
        systems.create(config, **labels).create_model(nnx.Rngs(0), None)
        assert "differs from the preset" not in caplog.text
        config.model.hidden = (4, 4)
        config.model.reliability.anchors = 3
        systems.create(config, **labels).create_model(nnx.Rngs(0), None)
    told = "the preset arbex_official: hidden = (4, 4), not (384, 192, 96); reliability.anchors = 3"
    assert told in caplog.text


def test_the_official_configuration_is_ramped_in_over_its_run():
    config = arbex_official_rafdb.get_config()
    assert config.loss.reliability.variant == "official"
    system = systems.create(
        config, class_names=tuple("abcd"), has=frozenset({"expression"}), class_counts=(1,) * 4
    )
    assert system.balancing["correction"] == "trust"
    assert system.balancing["ramp_steps"] == config.num_steps == 100_000


def test_what_arbex_rafdb_says_to_freeze_are_the_two_networks():
    command = arbex_rafdb.__doc__.split("optimizer.freeze=")[1].splitlines()[0]
    prefixes = ast.literal_eval(command.strip('"'))
    model = models.create("arbex", backbone=SMALL)
    params = take_apart(model)[1]
    frozen = {path for path in params if state_lib.matches(prefixes, path)}
    assert frozen == {
        path
        for path in params
        if path.startswith(("backbone/image_net/", "backbone/landmark_net/"))
    }
    for net in ("image_net", "landmark_net"):
        assert any(net in path for path in frozen)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/sweeps").glob("arbex_*.py")))
def test_every_cell_of_the_sweeps_can_be_made(path):
    config = config_lib.load_file(path)
    labels = dict(class_names=tuple("abcd"), has=frozenset({"expression"}), class_counts=(1,) * 4)
    described = sweep_file.load(path, config)
    for name, changes in {**described.stages, **described.rows}.items():
        cell = sweep.apply_changes(config, changes, name)
        system = systems.create(cell, **labels)
        bare = changes.get("model.reliability.enabled") is False or name == "none"
        assert (system.balancing is None) == bare, name
        if "model.reliability.anchors" in changes:
            assert system.balancing["anchors"] == changes["model.reliability.anchors"]


def test_a_model_directory_keeps_the_settings(tmp_path):
    arguments = {"n_expression": 4, "width": 4, "reliability": {"anchors": 2, "scope": "batch"}}
    model = models.create("resnet18", **arguments)
    model_dir.save_model(
        tmp_path / "model",
        "resnet18",
        arguments,
        model,
        preprocessing=model_dir.Preprocessing(image_size=32),
    )
    loaded = model_dir.load_model(tmp_path / "model")
    assert loaded.arguments == arguments
    config = evaluate_model._with_model(base.get_config(), loaded)
    assert config.model.reliability.to_dict() == to_section(arguments["reliability"])
    anchors = loaded.model.reliability.anchors[...]
    np.testing.assert_array_equal(anchors, model.reliability.anchors[...])
