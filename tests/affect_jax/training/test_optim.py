"""Optimizers, averages and sharpness-aware steps against the published rules in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.config import ConfigError
from affect_jax.models import state as state_lib
from affect_jax.training import optim
from configs import base


def settings(**values):
    config = base.get_config().optimizer
    config.schedule = "constant"
    with config.unlocked():
        config.update(values)
    return config


def create(params, total_steps=100, steps_per_epoch=10, **values):
    return optim.create_optimizer(settings(**values), total_steps, steps_per_epoch, params)


def run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def toy():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.standard_normal((3, 2)), "bias": rng.standard_normal(2)}
    gradients = [{k: rng.standard_normal(v.shape) for k, v in params.items()} for _ in range(5)]
    return params, gradients


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_follow_their_papers(name):
    params, gradients = toy()
    with jax.enable_x64(True):
        optimizer, _ = create(
            params, name=name, learning_rate=0.1, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3
        )
        got = run(optimizer, jax.tree.map(jnp.asarray, params), gradients)
    for key, x in params.items():
        decay = 0.3 if key == "kernel" else 0.0
        m = v = 0.0
        for t, gradient in enumerate(gradients, 1):
            g = gradient[key] + (decay * x if name == "adam" else 0)
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
            update = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
            x = x - 0.1 * (update + (decay * x if name == "adamw" else 0))
        np.testing.assert_allclose(got[key], x, rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    params, gradients = toy()
    with jax.enable_x64(True):
        optimizer, _ = create(
            params, name="sgd", learning_rate=0.1, momentum=0.7, nesterov=nesterov, weight_decay=0.2
        )
        got = run(optimizer, jax.tree.map(jnp.asarray, params), gradients)
    for key, x in params.items():
        velocity = 0.0
        for gradient in gradients:
            g = gradient[key] + (0.2 * x if key == "kernel" else 0)
            velocity = 0.7 * velocity + g
            x = x - 0.1 * (g + 0.7 * velocity if nesterov else velocity)
        np.testing.assert_allclose(got[key], x, rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
    optimizer, _ = create(params, name="sgd", momentum=0.0, learning_rate=1.0, clip_norm=0.5)
    for scale, expected in [(100.0, 0.5), (0.01, 0.01)]:
        gradients = {"a": jnp.full((2, 2), scale / 2), "b": jnp.zeros(3)}
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        assert float(optax.tree.norm(updates)) == pytest.approx(expected)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)
        self.position_bias = nnx.Param(jnp.ones((4, 2)))


def test_decay_leaves_out_biases_and_norms_of_a_module():
    params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    named = {
        state_lib.path_name(path): value
        for path, value in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    decaying = {k for k, v in named.items() if optim.has_weight_decay(k, v)}
    assert decaying == {"conv/kernel", "head/kernel"}
    assert set(named) >= {"conv/bias", "norm/scale", "norm/bias", "head/bias", "position_bias"}
    optimizer, _ = create(params, name="sgd", momentum=0.0, learning_rate=1.0, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    changed = {
        state_lib.path_name(path)
        for path, value in jax.tree_util.tree_flatten_with_path(updates)[0]
        if np.any(value)
    }
    assert changed == {"conv/kernel", "head/kernel"}


@pytest.mark.parametrize("name", models.names())
def test_of_every_model_kernels_alone_decay(name):
    """Anchors, positions, class tokens and factors of layer scale have no reason to go to 0."""
    settings = {"n_expression": 3} if models.takes(name, "n_expression") else {}
    if models.takes(name, "reliability"):
        settings["reliability"] = {"anchors": 2}
    if models.takes(name, "se"):
        settings["se"] = True
    model = nnx.eval_shape(lambda: models.create(name, **settings))
    params = {
        state_lib.path_name(path): value
        for path, value in jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))[0]
    }
    last = {path: path.rsplit("/", 1)[-1] for path in params}
    decaying = {path for path, value in params.items() if optim.has_weight_decay(path, value)}
    assert decaying == {path for path in params if last[path] == "kernel"}
    assert {last[path] for path in params.keys() - decaying} <= {
        *("bias", "scale", "slope", "cls_token", "pos_embed", "position_bias", "positions"),
        *("anchors", "attention_scale", "mlp_scale"),
    }
    if "reliability" in settings:
        assert {"reliability/anchors", "reliability/attention/positions"} <= params.keys()


def test_an_idle_anchor_stays_where_it_is():
    params = {"reliability/anchors": jnp.ones((2, 3, 4)), "head/kernel": jnp.ones((2, 2))}
    for name in ("adam", "adamw", "sgd"):
        optimizer, _ = create(params, name=name, learning_rate=0.1, weight_decay=0.5)
        got = run(optimizer, params, [jax.tree.map(jnp.zeros_like, params)] * 3)
        np.testing.assert_array_equal(got["reliability/anchors"], 1)
        assert np.all(got["head/kernel"] < 0.9)


@pytest.mark.parametrize("form", ["flat", "state"])
def test_frozen_parameters_do_not_move_have_no_state_and_do_not_count_in_clipping(form):
    params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    if form == "flat":
        params = {
            state_lib.path_name(path): value
            for path, value in jax.tree_util.tree_flatten_with_path(params)[0]
        }
    optimizer, _ = create(
        params,
        freeze=("conv", ".*norm/.*"),
        name="sgd",
        learning_rate=1.0,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    state = optimizer.init(params)
    gradients = jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.full_like(p, 1e9 if "conv" in state_lib.path_name(path) else 1e-3),
        params,
    )
    updates, state = optimizer.update(gradients, state, params)
    for path, update in jax.tree_util.tree_flatten_with_path(updates)[0]:
        frozen = state_lib.path_name(path).startswith(("conv", "norm"))
        np.testing.assert_allclose(update, 0 if frozen else -1e-3, rtol=1e-6)
    # The momentum of the three others and the step count.
    assert len(jax.tree.leaves(state)) == 4


def test_the_state_survives_a_checkpoint(tmp_path):
    params, gradients = toy()
    params = jax.tree.map(jnp.asarray, params)
    optimizer, _ = create(params, freeze=("bias",), clip_norm=1.0, weight_decay=0.1)
    gradient = jax.tree.map(jnp.asarray, gradients[0])
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", optimizer.init(params))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "adm"}, r"config\.optimizer\.name = 'adm'; did you mean 'adam'"),
        ({"schedule": "cosin"}, r"config\.optimizer\.schedule = 'cosin'; did you mean 'cosine'"),
        ({"b1": 1.0}, r"config\.optimizer\.b1 = 1\.0"),
        ({"learning_rate": -1.0}, r"config\.optimizer\.learning_rate"),
        ({"learning_rate": float("nan")}, r"config\.optimizer\.learning_rate"),
        ({"weight_decay": -1.0}, r"config\.optimizer\.weight_decay"),
        ({"sam_rho": -0.1}, r"config\.optimizer\.sam_rho"),
        ({"schedule": "step", "step_epochs": 0.0}, r"config\.optimizer\.step_epochs"),
        ({"schedule": "plateau", "decay_factor": 1.0}, r"config\.optimizer\.plateau_patience"),
        ({"schedule": "plateau", "plateau_patience": -1}, r"config\.optimizer\.plateau_patience"),
    ],
)
def test_values_that_cannot_be_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        create({}, **values)


def test_ema_warms_up_then_forgets_at_its_decay():
    average, expected = {"w": jnp.zeros(2)}, np.zeros(2)
    for step in range(1, 40):
        params = np.array([1.0, step])
        average = optim.ema_update(average, {"w": jnp.asarray(params)}, 0.5, step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * params
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)
    assert average["w"][0] == pytest.approx(1, rel=1e-5)


def test_integers_are_not_averaged():
    average = {"w": jnp.zeros(2), "steps": jnp.zeros((), jnp.int32)}
    for step in range(1, 30):
        current = {"w": jnp.ones(2), "steps": jnp.asarray(step, jnp.int32)}
        average = jax.jit(optim.ema_update)(average, current, 0.99, step)
    assert int(average["steps"]) == 29 and average["steps"].dtype == jnp.int32
    assert 0.9 < float(average["w"][0]) < 1


def test_ema_of_equal_weights_is_exact():
    params = {"w": jnp.asarray([0.1, 1e-30, 3e7])}
    average = optim.ema_update(params, params, 0.999, 7)
    np.testing.assert_array_equal(average["w"], params["w"])


def test_sam_descends_along_the_gradient_at_the_edge_of_its_ball():
    """On a quadratic with gradient A x, the point and its gradient are known."""
    a = np.array([[3.0, 1.0], [1.0, 0.5]])
    x = np.array([0.3, -2.0])
    with jax.enable_x64(True):
        params = {"u": jnp.asarray(x[:1]), "v": jnp.asarray(x[1:])}

        def loss(p):
            z = jnp.concatenate([p["u"], p["v"]])
            return z @ a @ z / 2

        point = optim.sharpest(params, jax.grad(loss)(params), 0.1)
        gradient = jax.grad(loss)(point)
    expected = x + 0.1 * a @ x / np.linalg.norm(a @ x)
    np.testing.assert_allclose(np.concatenate([point["u"], point["v"]]), expected, rtol=1e-12)
    np.testing.assert_allclose(
        np.concatenate([gradient["u"], gradient["v"]]), a @ expected, rtol=1e-12
    )


def test_sam_stays_where_the_gradient_is_zero():
    params = {"w": jnp.asarray([1.0, -2.0])}
    point = optim.sharpest(params, {"w": jnp.zeros(2)}, 0.05)
    np.testing.assert_array_equal(point["w"], params["w"])
