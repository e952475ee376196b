import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax.models import layers
from affect_jax.models.layers import BatchNorm, Layers
from affect_jax.runtime.parallel import AXIS, MAPPINGS, Mapper


def make(**kwargs):
    return Layers(nnx.Rngs(0), **kwargs)


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(np.float32)


def torch_batch_norm(features):
    torch = pytest.importorskip("torch")
    return torch, torch.nn.BatchNorm2d(features)


def test_batch_norm_follows_torch_over_several_steps():
    torch, theirs = torch_batch_norm(5)
    ours = BatchNorm(5)
    for step in range(3):
        x = random((2, 3, 4, 5), step)
        wanted = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
        np.testing.assert_allclose(ours(x), wanted.transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.running_var, rtol=1e-5)
    ours.eval(), theirs.eval()
    wanted = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(ours(x), wanted.transpose(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_replicas_see_the_moments_of_the_global_batch(replicas):
    x = random((8, 2, 2, 3))

    def step(norm, x):
        y = norm(x)
        return y, norm.mean[...], norm.var[...]

    whole, mean, var = step(BatchNorm(3), x)
    parts = x.reshape(replicas, -1, *x.shape[1:])
    y, means, variances = jax.vmap(
        lambda part: step(BatchNorm(3, axis_name="data"), part), axis_name="data"
    )(parts)
    np.testing.assert_allclose(y.reshape(x.shape), whole, atol=1e-5)
    for i in range(replicas):
        np.testing.assert_allclose(means[i], mean, rtol=1e-6)
        np.testing.assert_allclose(variances[i], var, rtol=1e-5)


def test_running_variance_is_unbiased_and_a_single_value_is_no_division_by_zero():
    norm = BatchNorm(1, momentum=0.0)
    norm(jnp.array([[1.0], [2.0], [4.0]]))
    np.testing.assert_allclose(norm.var[...], np.var([1, 2, 4], ddof=1), rtol=1e-6)
    norm(jnp.array([[7.0]]))
    np.testing.assert_array_equal(norm.var[...], 0)


def test_the_variance_survives_a_large_mean():
    x = random((64, 4)) + 1e4
    norm = BatchNorm(4, momentum=0.0)
    y = norm(x)
    np.testing.assert_allclose(norm.var[...], x.astype(np.float64).var(0, ddof=1), rtol=1e-3)
    np.testing.assert_allclose(np.std(y, 0), 1, rtol=1e-3)


def test_statistics_stay_in_float32_when_the_network_computes_in_bfloat16():
    norm = make(dtype="bfloat16").norm(3)
    x = random((4, 2, 2, 3))
    y = norm(jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.var[...].dtype == norm.scale[...].dtype == jnp.float32
    wanted = 0.1 * x.astype(jnp.bfloat16).astype(np.float32).mean((0, 1, 2))
    np.testing.assert_allclose(norm.mean[...], wanted, rtol=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2), (1, 2)])
@pytest.mark.parametrize("size", [9, 16])
def test_convolutions_pad_symmetrically(kernel, stride, size):
    torch = pytest.importorskip("torch")
    conv = make().conv(3, 4, kernel, stride, bias=True)
    x = random((2, size, size, 3))
    weight = torch.tensor(np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1))
    wanted = torch.nn.functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)), weight, stride=stride, padding=kernel // 2
    )
    np.testing.assert_allclose(conv(x), wanted.numpy().transpose(0, 2, 3, 1), atol=2e-4)


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pools_are_those_of_torch(size, window, stride):
    torch = pytest.importorskip("torch")
    x = random((2, size, size, 3))
    theirs = torch.tensor(x.transpose(0, 3, 1, 2))
    padding = window // 2
    pool = torch.nn.functional.max_pool2d(theirs, window, stride, padding)
    ours = layers.max_pool(x, window, stride, padding)
    np.testing.assert_array_equal(ours, pool.numpy().transpose(0, 2, 3, 1))
    pool = torch.nn.functional.avg_pool2d(theirs, window, stride)
    ours = layers.avg_pool(x, window, stride)
    np.testing.assert_allclose(ours, pool.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_max_pool_passes_the_gradient_to_the_maximum():
    x = jnp.array([[1.0, 5.0], [2.0, 3.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


def test_upsampling_repeats_every_pixel():
    x = random((1, 2, 3, 2))
    np.testing.assert_array_equal(layers.upsample_nearest(x), x.repeat(2, axis=1).repeat(2, axis=2))


def test_initial_values_are_the_same_inside_and_outside_of_jit():
    key, shape = jax.random.key(3), (3, 3, 8, 64)
    eager = layers.he_normal(key, shape, jnp.float32)
    traced = jax.jit(lambda k: layers.he_normal(k, shape, jnp.float32))(key)
    np.testing.assert_array_equal(eager, traced)
    np.testing.assert_allclose(np.std(eager), np.sqrt(2 / 72), rtol=0.05)
    other = layers.he_normal(jax.random.key(4), shape, jnp.float32)
    assert abs(np.corrcoef(np.ravel(eager), np.ravel(other))[0, 1]) < 0.1


@pytest.mark.parametrize("replicas", [1, 8])
def test_the_moments_of_replicas_survive_a_mean_far_from_the_running_one(replicas):
    x = random((64, 4)) + 1e6
    parts = jnp.asarray(x.reshape(replicas, -1, 4))

    def step(norm, part):
        return norm(part), norm.var[...]

    _, variances = jax.vmap(
        lambda part: step(BatchNorm(4, axis_name="data", momentum=0.0), part), axis_name="data"
    )(parts)
    # Without the replicas' different means where float32 cannot tell them: 1 / 8 of n at most.
    wanted = x.astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(variances[0], wanted, rtol=0.3 if replicas > 1 else 0.05)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("devices", [1, 2])
def test_the_gradient_of_batch_norm_is_that_of_the_formula(mapping, devices):
    """By autodiff of the plain formula over the global batch, in float64."""
    rng = np.random.default_rng(0)
    batch = {k: rng.normal(3, 2, (6, 4, 4, 5)) for k in ("x", "weight")}
    params = {"scale": rng.normal(1, 0.3, 5), "bias": rng.normal(0, 1, 5)}

    def plain(x, params):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]
        return (y**2 * batch["weight"]).sum()

    def of_replica(params, batch):
        def loss(x, params):
            norm = BatchNorm(5, dtype=jnp.float64, param_dtype=jnp.float64, axis_name=AXIS)
            norm.scale.set_value(params["scale"])
            norm.bias.set_value(params["bias"])
            return (norm(x) ** 2 * batch["weight"]).sum()

        by_x, by_params = jax.grad(loss, (0, 1))(batch["x"], params)
        sums = jax.lax.psum(by_params, AXIS)
        return {"x": by_x, **{k: v[None] for k, v in sums.items()}}

    with jax.enable_x64(True):
        expected, of_params = jax.grad(plain, (0, 1))(batch["x"], params)
        mapper = Mapper(mapping, jax.devices()[:devices])
        step = mapper.map(of_replica, sharded_output=True)
        found = mapper.local_rows(step(mapper.replicate(params), mapper.place(batch)))
    assert found["x"].dtype == np.float64
    np.testing.assert_allclose(found["x"], expected, atol=1e-12 * np.abs(expected).max())
    for name, value in of_params.items():
        for row in found[name]:
            np.testing.assert_allclose(row, value, rtol=1e-12, err_msg=name)


def test_layers_of_one_shape_are_traced_once():
    norms = nnx.List([make().norm(3) for _ in range(4)] + [make().norm(5)])
    graphdef, state = nnx.split(norms)

    def apply(state, x, y):
        *same, other = nnx.merge(graphdef, state)
        for norm in same:
            x = norm(x)
        return x, other(y)

    text = jax.jit(apply).lower(state, jnp.ones((2, 3)), jnp.ones((2, 5))).as_text()
    assert text.count("func.func private @_normalise_batch") == 2
    assert text.count("call @_normalise_batch") == 5
