"""The train step: eight devices do what one does, for either mapping; compiled once."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.models.layer_depth import layer_numbers
from affect_jax.models.layers import Layers, global_average
from affect_jax.models.reliability import Reliability
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import AXIS, MAPPINGS, Mapper
from affect_jax.systems.classifier import ClassifierSystem
from affect_jax.systems.emofan import EmoFANSystem
from affect_jax.training import optim
from affect_jax.training.step import Phases, make_train_step
from tests.affect_jax import tiny

EXAMPLES = 128


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """128 examples with missing labels spread unevenly, and padding on the last device only."""
    rng = np.random.default_rng(0)
    expression = rng.integers(0, 8, EXAMPLES).astype(np.int32)
    expression[:20] = -1
    valence_arousal = rng.uniform(-1, 1, (EXAMPLES, 2)).astype(np.float32)
    valence_arousal[16:40, 0] = np.nan
    landmarks = rng.uniform(2, 30, (EXAMPLES, 68, 2)).astype(np.float32)
    landmarks[40:60] = np.nan
    mask = np.ones(EXAMPLES, bool)
    mask[-10:] = False
    return {
        "image": rng.integers(0, 256, (EXAMPLES, 32, 32, 3), dtype=np.uint8),
        "expression": expression,
        "valence_arousal": valence_arousal,
        "landmarks": landmarks,
        "mask": mask,
        "index": np.arange(EXAMPLES, dtype=np.int64),
    }


def make_system(**changes):
    config = tiny.config(landmark_stage__steps=0, **changes)
    config.model.dtype = "float64"
    config.model.param_dtype = "float64"
    return systems.create(
        config,
        class_names=tuple("abcdefgh"),
        has=frozenset({"expression", "valence_arousal", "landmarks"}),
        class_counts=(1,) * 8,
    )


def one_step(mapper: Mapper, batch: dict, system, start: dict | None = None) -> tuple[dict, dict]:
    """One step of plain gradient descent, from the model's parameters or from `start`: (new state,
    terms); its update is the gradient."""
    model = system.create_model(nnx.Rngs(3), AXIS)
    phase = system.phases(10)[0]
    system.set_train_mode(model, phase)
    blueprint, params, stats = take_apart(model)
    params = start or params
    optimizer = optax.sgd(1.0)
    step = mapper.map(make_train_step(system, blueprint, optimizer, phase), donate_state=True)
    state = {"step": np.int32(5), "params": params, "stats": stats, "opt": optimizer.init(params)}
    new, terms = step(mapper.replicate(state), mapper.place(batch), {})
    return jax.device_get(new), jax.device_get(terms)


@pytest.fixture(scope="module")
def by_one(batch):
    """One step of the small EmoFAN on one device, in float64."""
    with jax.enable_x64(True):
        return one_step(Mapper("pmap", jax.devices()[:1]), batch, make_system())


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_eight_devices_equal_one(mapping, batch, by_one):
    """Loss, gradient and BatchNorm statistics, in float64: BatchNorm, CCC, PCC, shake-shake,
    masks and heatmaps all see the global batch."""
    one, one_terms = by_one
    with jax.enable_x64(True):
        eight, eight_terms = one_step(Mapper(mapping), batch, make_system())
    assert one["params"]["fan/stem_conv/kernel"].dtype == np.float64
    assert one_terms.keys() == eight_terms.keys()
    for name, value in one_terms.items():
        np.testing.assert_allclose(eight_terms[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    for part in ("params", "stats"):
        for name, value in one[part].items():
            # A bias before BatchNorm has gradient 0 but for rounding: there 1e-12 is the measure.
            scale = max(np.abs(value).max(), 1e-3)
            np.testing.assert_allclose(
                eight[part][name] / scale, value / scale, atol=1e-9, err_msg=name
            )


class Pooled(nnx.Module):
    """Convolution, BatchNorm, average, classes and circumplex: compiled in a moment."""

    def __init__(self, make: Layers):
        self.conv, self.norm, self.head = make.conv(3, 6, 3, 4), make.norm(6), make.linear(6, 10)

    def __call__(self, images, *, rngs=None):
        out = self.head(global_average(nnx.relu(self.norm(self.conv(images)))))
        return {"logits": out[:, :8], "valence": out[:, 8], "arousal": out[:, 9]}


class PooledSystem(ClassifierSystem):
    def create_model(self, rngs, axis_name):
        return Pooled(Layers(nnx.Rngs(0), "float64", "float64", axis_name))


class PooledEmoFAN(EmoFANSystem):
    create_model = PooledSystem.create_model


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_the_gradient_is_not_multiplied_by_the_device_count(mapping, batch):
    """Guards the comparison above: a factor of 8 in either count would be seen against a finite
    difference of the loss."""
    base = make_system(loss__regression="ccc", loss__heatmap_weight=0.0)
    system = PooledEmoFAN(base.config, base.labels)
    mapper, name = Mapper(mapping), "head/kernel"
    with jax.enable_x64(True):
        start = jax.device_get(take_apart(system.create_model(None, None))[1])
        new, terms = one_step(mapper, batch, system, start)
        gradient = start[name] - new["params"][name]
        direction = gradient / np.linalg.norm(gradient)
        shifted = {**start, name: start[name] + 1e-6 * direction}
        _, moved = one_step(mapper, batch, system, shifted)
    slope = (moved["loss"] - terms["loss"]) / 1e-6
    np.testing.assert_allclose(slope, np.linalg.norm(gradient), rtol=1e-3)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_sam_steps_along_the_gradient_of_the_moved_parameters(mapping, batch):
    """Eight devices against the same done by hand with two plain steps on one; statistics and loss
    are those of the first."""

    def system(rho):
        base = make_system(loss__regression="none", optimizer__sam_rho=rho)
        return PooledSystem(base.config, base.labels)

    one = Mapper(mapping, jax.devices()[:1])
    with jax.enable_x64(True):
        start = jax.device_get(take_apart(system(0.0).create_model(None, None))[1])
        first, terms = one_step(one, batch, system(0.0))
        gradient = {k: start[k] - first["params"][k] for k in start}
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        moved = {k: start[k] + 0.3 * gradient[k] / norm for k in start}
        second, _ = one_step(one, batch, system(0.0), moved)
        got, got_terms = one_step(Mapper(mapping), batch, system(0.3))
    assert not np.allclose(second["stats"]["norm/mean"], first["stats"]["norm/mean"], rtol=1e-6)
    for name, value in start.items():
        expected = value - (moved[name] - second["params"][name])
        np.testing.assert_allclose(got["params"][name], expected, atol=1e-12, err_msg=name)
    for name, value in first["stats"].items():
        np.testing.assert_allclose(got["stats"][name], value, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(got_terms["loss"], terms["loss"], rtol=1e-12)


class Balanced(Pooled):
    """The same, its classes balanced by a correction that is ramped in over three steps."""

    def __init__(self, make: Layers):
        super().__init__(make)
        settings = {"anchors": 1, "tokens": 2, "heads": 1, "correction": "trust", "ramp_steps": 3}
        self.reliability = Reliability(6, 8, **settings, make=make)

    def __call__(self, images, *, rngs=None):
        pooled = global_average(nnx.relu(self.norm(self.conv(images))))
        outputs = {"embedding": pooled, "logits": self.head(pooled)[:, :8]}
        return self.reliability(outputs)


def test_counters_are_not_averaged_with_the_weights(batch):
    """The ramp of the averaged model ends at 1; its BatchNorm statistics lag as its weights do."""

    class BalancedSystem(ClassifierSystem):
        def create_model(self, rngs, axis_name):
            return Balanced(Layers(nnx.Rngs(0), "float32", "float32", axis_name))

    base = make_system(loss__regression="none", ema_decay=0.99)
    system = BalancedSystem(base.config, base.labels)
    mapper, phase = Mapper("pmap", jax.devices()[:1]), system.phases(10)[0]
    model = system.create_model(None, AXIS)
    system.set_train_mode(model, phase)
    blueprint, params, stats = take_apart(model)
    assert blueprint.counters == {"reliability/steps"}
    optimizer = optax.sgd(0.1)
    step = mapper.map(make_train_step(system, blueprint, optimizer, phase), donate_state=True)
    state = {"step": np.int32(0), "params": params, "stats": stats, "opt": optimizer.init(params)}
    state["ema"] = {"params": params, "stats": stats}
    state = mapper.replicate(state)
    for _ in range(3):
        state, _ = step(state, mapper.place({k: v[:16] for k, v in batch.items()}), {})
    new = jax.device_get(state)
    assert new["ema"]["stats"]["reliability/steps"] == new["stats"]["reliability/steps"] == 3
    averaged = blueprint.build(**new["ema"])
    averaged.eval()
    assert float(averaged.reliability._ramp()) == 1.0
    means = (s["reliability/norm/mean"] for s in (new["ema"]["stats"], new["stats"]))
    assert not np.allclose(*means, rtol=1e-3)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_steps_of_a_phase_compile_once(mapping, batch, caplog):
    base = make_system(loss__regression="none")
    system = PooledSystem(base.config, base.labels)
    with jax.enable_x64(True), jax.log_compiles():
        mapper, model = Mapper(mapping, jax.devices()[:2]), system.create_model(None, AXIS)
        phases = Phases(system, model, mapper, 10, 10)
        begun = phases.begin(phases.all[0])
        state = mapper.replicate(phases.fresh_state(begun))
        counts = []
        for i in range(3):
            placed = mapper.place({k: v[i : i + 16] for k, v in batch.items()})
            caplog.clear()
            state, _ = begun.run(state, placed)
            counts.append(caplog.text.count("Finished XLA compilation of"))
    assert counts == [1, 0, 0]
    assert int(jax.device_get(state["step"])) == 3


def test_frozen_paths_are_not_compared_with_names_of_packed_groups(batch):
    base = make_system(loss__regression="none", optimizer__freeze=("(?!head/)",))
    system = PooledSystem(base.config, base.labels)
    with jax.enable_x64(True):
        mapper, model = Mapper("pmap", jax.devices()[:2]), system.create_model(None, AXIS)
        before = jax.device_get(take_apart(model)[1])
        phases = Phases(system, model, mapper, 10, 10)
        begun = phases.begin(phases.all[0])
        state = mapper.replicate(phases.fresh_state(begun))
        for _ in range(2):  # the first is warm-up, with a learning rate of 0
            state, _ = begun.run(state, mapper.place({k: v[:64] for k, v in batch.items()}))
        after = jax.device_get(state["params"])
    changed = {path for path, value in after.items() if not np.array_equal(value, before[path])}
    assert changed == {"head/kernel", "head/bias"}


def test_frozen_parts_of_a_trunk_stay_frozen_while_landmarks_are_learned(monkeypatch):
    """Learning rates of the layers still count from the top of the whole model."""
    create, tops = optim.create_optimizer, []

    def spy(*args, layers, **kwargs):
        tops.append(max(layers.values()))
        return create(*args, layers=layers, **kwargs)

    monkeypatch.setattr(optim, "create_optimizer", spy)

    def begin(freeze):
        config = tiny.config(optimizer__freeze=freeze)
        system = systems.create(
            config,
            class_names=("a", "b"),
            has=frozenset({"expression", "landmarks"}),
            class_counts=(3, 1),
        )
        model = system.create_model(nnx.Rngs(0), AXIS)
        phases = Phases(system, model, Mapper("pmap", jax.devices()[:1]), 8, 8)
        begun, params = phases.begin(phases.all[0]), take_apart(model)[1]
        assert tops[-1] == max(layer_numbers(model).values())
        return begun, params

    begun, params = begin(("fan/stem",))
    assert begun.phase.name == "landmarks"
    moments = jax.tree.leaves(jax.eval_shape(begun.init, params))
    trained = [p for p in params if p.startswith("fan/") and not p.startswith("fan/stem")]
    held = sum(x.size for x in moments if x.ndim)
    assert held == 2 * sum(params[p].size for p in trained)
    with pytest.raises(ConfigError, match=r"optimizer.freeze = \('fan',\) .* phase 'landmarks'"):
        begin(("fan",))
