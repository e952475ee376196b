"""Reliability balancing in training: on every kind of backbone, on eight devices as on one."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from affect_jax import model_io, models, systems
from affect_jax.models.layers import Layers
from affect_jax.models.reliability import Reliability
from affect_jax.parallel import AXIS, MAPPINGS, Mapper
from affect_jax.step import make_train_step
from affect_jax.train_state import take_apart
from configs import base

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
    config.model = ConfigDict({**PLAIN, **model, "reliability": reliability})
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


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_with_one_line_of_config(backbone):
    system = make_system(backbone, True)
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


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(
    ("reliability", "variant"),
    [
        ({"anchors": 2}, "bounded"),
        ({"anchors": 2, "scope": "batch", "correction": "trust", "ramp_steps": 2}, "official"),
    ],
)
def test_eight_devices_equal_one(reliability, variant, mapping, monkeypatch):
    """Two steps in float64, so that the ramp of "trust" is above 0 in the second."""
    with jax.enable_x64(True):
        system = make_system("resnet18", reliability, variant=variant)
        monkeypatch.setattr(
            system, "create_model", lambda rngs, axis_name: Pixels(reliability, axis_name, rngs)
        )
        batch = make_batch(4, 16)
        one, eight = (
            train(system, Mapper(mapping, jax.devices()[:n]), batch, 2, optax.sgd(1e-2))
            for n in (1, 8)
        )
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


def test_metrics_are_known_before_training():
    names = [part.compute() for part in make_system("resnet18", True).extra_metrics(1)]
    assert names == [{}]
    assert make_system("resnet18", None).extra_metrics(1) == []


def test_without_balancing_there_is_none():
    """Though the model by itself would have it."""
    config = base.get_config()
    config.system = "arbex"
    config.model = ConfigDict({**PLAIN, "name": "arbex_tiny", "reliability": None})
    labels = dict(class_names=tuple("abcd"), has=frozenset({"expression"}), class_counts=(1,) * 4)
    arguments = systems.create(config, **labels).model_arguments()
    assert arguments["reliability"] is None


def test_a_model_directory_keeps_the_settings(tmp_path):
    arguments = {"n_expression": 4, "width": 4, "reliability": {"anchors": 2, "scope": "batch"}}
    model = models.create("resnet18", **arguments)
    model_io.save_model(
        tmp_path / "model",
        "resnet18",
        arguments,
        model,
        preprocessing=model_io.Preprocessing(image_size=32),
    )
    loaded = model_io.load_model(tmp_path / "model")
    assert loaded.arguments == arguments
    anchors = loaded.model.reliability.anchors[...]
    np.testing.assert_array_equal(anchors, model.reliability.anchors[...])
