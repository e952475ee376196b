"""Losses against plain float64 numpy, finite differences, and themselves on eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from affect_jax.config import ConfigError
from affect_jax.losses import supervised

NAN = np.nan

# Compiled as a whole, which is faster here than operation by operation.
regression_losses = jax.jit(supervised.regression_losses)
softmax_cross_entropy = jax.jit(
    supervised.softmax_cross_entropy, static_argnames=("label_smoothing", "class_weights")
)
distillation_divergence = jax.jit(supervised.distillation_divergence)
heatmap_loss = jax.jit(supervised.heatmap_loss)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def numpy_regression(predictions, targets, mask):
    """MSE, PCC and CCC losses from the textbook formulas, dimension by dimension."""
    mse, pcc, ccc = 0.0, [], []
    for p, t in zip(predictions.T, targets.T, strict=True):
        keep = mask & np.isfinite(t)
        p, t = p[keep], t[keep]
        if len(t) < 2:
            pcc.append(0.0)
            ccc.append(0.0)
            continue
        cov = np.mean((p - p.mean()) * (t - t.mean()))
        mse += np.mean((p - t) ** 2)
        pcc.append(1 - cov / np.sqrt(p.var() * t.var() + supervised.PCC_EPSILON))
        bias = (p.mean() - t.mean()) ** 2
        ccc.append(1 - 2 * cov / (p.var() + t.var() + bias + supervised.CCC_EPSILON))
    return np.array([mse, np.mean(pcc), np.mean(ccc)])


def numpy_cross_entropy(logits, labels, mask, smoothing=0.0, weights=None):
    n = logits.shape[1]
    weights = np.ones(n) if weights is None else np.asarray(weights)
    total = normaliser = 0.0
    for row, label, keep in zip(logits, labels, mask, strict=True):
        if not keep or label < 0:
            continue
        log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
        target = (1 - smoothing) * np.eye(n)[label] + smoothing / n
        total -= (weights * target * log_p).sum()
        normaliser += weights[label]
    return total / normaliser


def regression_batch(seed=0, n=24):
    rng = np.random.default_rng(seed)
    targets = rng.uniform(-1, 1, (n, 2))
    predictions = 0.6 * targets + 0.3 * rng.standard_normal((n, 2)) + 0.1
    targets[rng.random((n, 2)) < 0.25] = NAN
    return predictions, targets, rng.random(n) < 0.8


def check_gradient(f, x, atol=1e-7):
    """The gradient of f at x (float64) against central differences, along every coordinate."""
    gradient = np.asarray(jax.jit(jax.grad(f))(jnp.asarray(x)))
    assert np.isfinite(gradient).all()
    numeric = np.zeros_like(x)
    f = jax.jit(f)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-5
        numeric[i] = (f(x + step) - f(x - step)) / 2e-5
    np.testing.assert_allclose(gradient, numeric, atol=atol)
    return gradient


# ------------------------------------------------------------------ categories


def test_cross_entropy_of_ints_matches_numpy_with_weights_and_smoothing(x64):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((20, 5)), rng.integers(-1, 5, 20)
    mask, weights = rng.random(20) < 0.7, tuple(rng.uniform(0.2, 3, 5))
    for smoothing, w in [(0.0, None), (0.11, None), (0.0, weights), (0.2, weights)]:
        got = softmax_cross_entropy(
            logits, labels, mask=jnp.asarray(mask), label_smoothing=smoothing, class_weights=w
        )
        np.testing.assert_allclose(
            got, numpy_cross_entropy(logits, labels, mask, smoothing, w), rtol=1e-13
        )


def test_one_hot_distributions_give_what_ints_give_and_votes_are_normalised(x64):
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((12, 4)), rng.integers(-1, 4, 12)
    soft = np.where(labels[:, None] >= 0, np.eye(4)[labels], NAN)
    kwargs = {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5, 3.0)}
    expected = softmax_cross_entropy(logits, labels, **kwargs)
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, 10 * soft, **kwargs), expected, rtol=1e-13
    )
    # A row without votes is missing, like one with a NaN.
    no_votes = np.nan_to_num(soft)
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, no_votes, **kwargs), expected, rtol=1e-13
    )


def test_votes_stand_before_labels_and_labels_before_nothing():
    votes = jnp.asarray([[3.0, 1.0], [NAN, NAN], [0.0, 0.0]])
    got = supervised.votes_or_labels(votes, jnp.asarray([1, 1, -1]))
    np.testing.assert_array_equal(got, [[0.75, 0.25], [0, 1], [NAN, NAN]])


def test_class_weights_from_the_config():
    counts = (10, 40, 0, 20)
    assert supervised.parse_class_weights("none", counts) is None
    balanced = supervised.parse_class_weights("balanced", counts)
    np.testing.assert_allclose(balanced, np.array([4, 1, 0, 2]) * 3 / 7)
    assert supervised.parse_class_weights("balanced", (0, 0)) == (0, 0)
    assert supervised.parse_class_weights("1, 2.5,1,0", counts) == (1, 2.5, 1, 0)
    for wrong in ("1,2", "1,2,3,-4", "1,2,3,nan", "even"):
        with pytest.raises(ConfigError, match=r"config\.loss\.class_weights"):
            supervised.parse_class_weights(wrong, counts)


def test_cross_entropy_of_votes_matches_numpy(x64):
    rng = np.random.default_rng(2)
    logits, q = rng.standard_normal((6, 3)), rng.dirichlet(np.ones(3), 6)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(
        softmax_cross_entropy(logits, q), -(q * log_p).sum(1).mean(), rtol=1e-13
    )


def test_cross_entropy_gradient_and_no_leak_from_missing_examples(x64):
    rng = np.random.default_rng(3)
    logits, labels = rng.standard_normal((6, 4)), np.array([0, -1, 3, 2, 9, 1])
    mask = np.array([True, True, True, False, True, True])
    f = functools.partial(
        softmax_cross_entropy, labels=labels, mask=jnp.asarray(mask), label_smoothing=0.1
    )
    gradient = check_gradient(f, logits)
    assert (gradient[[1, 3, 4]] == 0).all()
    poisoned = logits.copy()
    poisoned[[1, 3, 4]] = NAN
    np.testing.assert_array_equal(f(poisoned), f(logits))
    np.testing.assert_array_equal(jax.jit(jax.grad(f))(jnp.asarray(poisoned)), gradient)


def test_no_labelled_example_gives_zero_with_zero_gradient():
    f = functools.partial(softmax_cross_entropy, labels=jnp.full(3, -1))
    value, gradient = jax.value_and_grad(f)(jnp.full((3, 4), NAN))
    assert value == 0
    assert (gradient == 0).all()


def test_labels_and_weights_of_a_wrong_shape_are_refused():
    logits = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match=r"float \[B, 4\]"):
        softmax_cross_entropy(logits, jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="int"):
        softmax_cross_entropy(logits, jnp.zeros(3))
    with pytest.raises(ValueError, match="class_weights must be 4"):
        softmax_cross_entropy(logits, jnp.zeros(3, int), class_weights=(1.0, 2.0))


def test_distillation_matches_numpy_and_stops_the_teachers_gradient(x64):
    rng = np.random.default_rng(4)
    student, teacher = rng.standard_normal((2, 7, 5))
    mask = jnp.arange(7) < 5
    p_t, p_s = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (teacher, student))
    expected = (p_t * np.log(p_t / p_s)).sum(1)[:5].mean()
    f = functools.partial(distillation_divergence, mask=mask)
    np.testing.assert_allclose(f(student, teacher), expected, rtol=1e-12)
    check_gradient(lambda s: f(s, teacher), student)
    assert (jax.grad(f, argnums=1)(student, teacher) == 0).all()
    np.testing.assert_allclose(f(student, student), 0, atol=1e-15)


# ------------------------------------------------------- valence and arousal


@pytest.mark.parametrize("seed", range(2))
def test_regression_losses_match_numpy(x64, seed):
    predictions, targets, mask = regression_batch(seed)
    got = regression_losses(predictions, targets, mask=jnp.asarray(mask))
    np.testing.assert_allclose(got, numpy_regression(predictions, targets, mask), rtol=1e-12)


def test_regression_in_bfloat16_is_computed_in_float32():
    predictions, targets, mask = regression_batch()
    half = jnp.asarray(predictions, jnp.bfloat16)
    got = regression_losses(half, jnp.asarray(targets), mask=jnp.asarray(mask))
    expected = numpy_regression(np.asarray(half, np.float64), targets, mask)
    assert all(x.dtype == jnp.float32 for x in got)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mse", "pcc", "ccc"])
def test_regression_gradients_and_no_leak_from_missing_labels(x64, name):
    predictions, targets, mask = regression_batch(7, 10)
    mask[0] = False

    def f(p):
        return getattr(regression_losses(p, targets, mask=jnp.asarray(mask)), name)

    gradient = check_gradient(f, predictions)
    missing = np.isnan(targets) | ~mask[:, None]
    assert missing[1:].any()
    assert (gradient[missing] == 0).all()
    poisoned = np.where(missing, NAN, predictions)
    np.testing.assert_array_equal(f(poisoned), f(predictions))
    np.testing.assert_array_equal(jax.jit(jax.grad(f))(jnp.asarray(poisoned)), gradient)


@pytest.mark.parametrize("labels", [[], [0.3]])
def test_fewer_than_two_labels_are_worth_nothing(labels):
    targets = np.full((5, 2), NAN, np.float32)
    targets[: len(labels), 0] = labels
    predictions = jnp.linspace(-1, 1, 10).reshape(5, 2)
    value, pull = jax.vjp(lambda p: regression_losses(p, targets), predictions)
    assert value == (0, 0, 0)
    for one in np.eye(3, dtype=np.float32):
        (gradient,) = pull(supervised.RegressionLosses(*jnp.asarray(one)))
        assert (gradient == 0).all()


def test_one_unlabelled_dimension_leaves_the_other_its_share(x64):
    predictions, targets, mask = regression_batch(2)
    targets[:, 1] = NAN
    got = regression_losses(predictions, targets, mask=jnp.asarray(mask))
    np.testing.assert_allclose(got, numpy_regression(predictions, targets, mask), rtol=1e-12)
    alone = regression_losses(predictions[:, :1], targets[:, :1], mask=jnp.asarray(mask))
    np.testing.assert_allclose(got, [alone.mse, alone.pcc / 2, alone.ccc / 2], rtol=1e-12)


@pytest.mark.parametrize("constant", ["predictions", "labels", "both"])
def test_constant_predictions_or_labels_have_bounded_gradients(constant):
    rng = np.random.default_rng(0)
    n = 32
    targets = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    predictions = targets[::-1].copy()
    if constant != "labels":
        predictions[:] = 0.1
    if constant != "predictions":
        targets[:] = 0.1
    value, pull = jax.vjp(lambda p: regression_losses(p, targets), predictions)
    assert np.isfinite(value).all()
    for one in np.eye(3, dtype=np.float32):
        (gradient,) = pull(supervised.RegressionLosses(*jnp.asarray(one)))
        assert np.abs(gradient).max() < 10


def test_the_pcc_gradient_stays_bounded_as_predictions_collapse():
    rng = np.random.default_rng(0)
    noise, targets = rng.standard_normal((2, 32, 1)).astype(np.float32)
    for sd in [1e-2, 1e-4, 1e-6, 0.0]:
        gradient = jax.grad(lambda p: regression_losses(p, targets).pcc)(0.3 + sd * noise)
        assert np.linalg.norm(gradient) < 20


def test_shake_shake_is_the_weighted_sum_of_equation_8(x64):
    key = jax.random.key(3)
    weights = np.asarray(supervised.shake_shake_weights(key))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    values = supervised.RegressionLosses(*jnp.asarray([2.0, 3.0, 5.0]))
    np.testing.assert_allclose(
        supervised.shake_shake(key, values), weights @ np.array([2, 3, 5]), rtol=1e-6
    )
    with jax.enable_x64(False):
        np.testing.assert_array_equal(supervised.shake_shake_weights(key), weights)


def test_shake_shake_weights_are_uniform_draws_over_their_sum():
    weights = jax.vmap(supervised.shake_shake_weights)(jax.random.split(jax.random.key(0), 4000))
    assert ((weights > 0) & (weights < 1)).all()
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.02)
    draws = np.random.default_rng(0).random((40000, 3))
    expected = (draws / draws.sum(1, keepdims=True)).std(0)
    np.testing.assert_allclose(weights.std(0), expected, rtol=0.05)


# ------------------------------------------------------------------- landmarks


def test_heatmap_loss_matches_numpy_and_ignores_what_is_not_visible(x64):
    rng = np.random.default_rng(5)
    stacks, targets = rng.standard_normal((2, 3, 2, 3, 6)), rng.random((3, 2, 3, 6))
    visible, mask = rng.random((3, 6)) < 0.6, np.array([True, False, True])
    keep = visible & mask[:, None]
    expected = sum(((s - targets) ** 2).mean((1, 2))[keep].mean() for s in stacks)
    targets = np.where(keep[:, None, None], targets, NAN)
    kwargs = {"visible": jnp.asarray(visible), "mask": jnp.asarray(mask)}

    def f(s):
        return heatmap_loss(tuple(s), targets, **kwargs)

    np.testing.assert_allclose(f(stacks), expected, rtol=1e-12)
    gradient = check_gradient(f, stacks)
    assert (gradient[:, ~keep.any(1)] == 0).all()
    nothing = heatmap_loss(tuple(stacks), targets, jnp.zeros((3, 6), bool))
    assert nothing == 0


def test_masked_mean():
    values = jnp.asarray([[1.0, 2.0], [NAN, 4.0], [5.0, NAN]])
    mask = jnp.asarray([[True, True], [False, True], [True, False]])
    assert supervised.masked_mean(values, mask) == 3
    assert supervised.masked_mean(values, jnp.zeros(3, bool)) == 0
    assert (
        supervised.masked_mean(jnp.arange(6).reshape(3, 2), jnp.asarray([True, False, True])) == 2.5
    )


# ------------------------------------------------------------ factor of devices

DEVICES, PER_DEVICE, FEATURES, CLASSES = 8, 4, 3, 5


def sharded_case():
    """Batch of 32 with masks that differ from replica to replica, one replica without a label."""
    rng = np.random.default_rng(11)
    n = DEVICES * PER_DEVICE
    batch = {
        "x": rng.standard_normal((n, FEATURES)),
        "labels": rng.integers(-1, CLASSES, n),
        "targets": rng.uniform(-1, 1, (n, 2)),
        "heat": rng.standard_normal((n, 3, 3, 6)),
        "teacher": rng.standard_normal((n, CLASSES)),
        "visible": rng.random((n, 6)) < 0.7,
        "mask": np.arange(n) % 7 > 1,
    }
    batch["targets"][rng.random((n, 2)) < 0.3] = NAN
    batch["mask"][PER_DEVICE : 2 * PER_DEVICE] = False
    batch["labels"][2 * PER_DEVICE : 3 * PER_DEVICE] = -1
    batch["targets"][2 * PER_DEVICE : 3 * PER_DEVICE] = NAN
    params = {
        "logits": rng.standard_normal((FEATURES, CLASSES)),
        "va": 0.3 * rng.standard_normal((FEATURES, 2)),
        "heat": rng.standard_normal((FEATURES, 6)),
    }
    return params, batch


def objective(params, batch, key, axis_name):
    """A sum of every loss of the module, of a linear model."""
    mask = batch["mask"]
    logits = batch["x"] @ params["logits"]
    regression = supervised.regression_losses(
        jnp.tanh(batch["x"] @ params["va"]), batch["targets"], mask=mask, axis_name=axis_name
    )
    heat = (batch["x"] @ params["heat"])[:, None, None, :]
    heat = (jnp.broadcast_to(heat, batch["heat"].shape), 2 * heat + batch["heat"])
    return (
        supervised.softmax_cross_entropy(
            logits,
            batch["labels"],
            mask=mask,
            label_smoothing=0.1,
            class_weights=(1.0, 2.0, 0.5, 1.0, 3.0),
            axis_name=axis_name,
        )
        + supervised.shake_shake(key, regression)
        + supervised.distillation_divergence(
            logits, batch["teacher"], mask=mask, axis_name=axis_name
        )
        + supervised.heatmap_loss(
            heat, batch["heat"], batch["visible"], mask=mask, axis_name=axis_name
        )
    )


def replica_step(params, batch, key):
    value, gradient = jax.value_and_grad(objective)(params, batch, key, "data")
    return value, jax.lax.pmean(gradient, "data")


def mapped(mapping):
    if mapping == "pmap":

        def run(params, batch, key):
            shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)
            step = jax.pmap(replica_step, axis_name="data", in_axes=(None, 0, None))
            return step(params, shards, key)

        return run
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    step = jax.shard_map(
        replica_step,
        mesh=mesh,
        in_specs=(P(), P("data"), P()),
        out_specs=P(),
        check_vma=mapping == "shard_map",
    )
    # One row per replica, so that the comparison is the same for all mappings.
    return lambda *args: jax.tree.map(lambda x: x[None], jax.jit(step)(*args))


@pytest.mark.parametrize("mapping", ["pmap", "shard_map", "shard_map without check_vma"])
def test_eight_devices_give_the_loss_and_the_gradient_of_one(x64, mapping):
    assert jax.device_count() >= DEVICES, "needs --xla_force_host_platform_device_count=8"
    params, batch = sharded_case()
    key = jax.random.key(5)
    value, gradient = jax.jit(jax.value_and_grad(objective), static_argnums=3)(
        params, batch, key, None
    )
    got_value, got_gradient = mapped(mapping)(params, batch, key)
    assert got_value.dtype == jnp.float64
    for row in got_value:
        np.testing.assert_allclose(row, value, rtol=0, atol=1e-10)
    for name in params:
        assert np.abs(gradient[name]).max() > 1e-2
        for row in got_gradient[name]:
            np.testing.assert_allclose(row, gradient[name], rtol=0, atol=1e-10)
