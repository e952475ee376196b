"""The losses of reliability balancing: definitions, bounds, soft labels, the global batch."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from affect_jax.config import ConfigError
from affect_jax.losses import reliability as losses
from affect_jax.models.reliability import anchor_distances, geometric_correction

N, K, D, B = 3, 2, 5, 8


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    anchors = jnp.asarray(rng.normal(size=(N, K, D)), jnp.float32)
    return anchors, jnp.asarray(rng.normal(size=(B, D)), jnp.float32), rng.integers(0, N, B)


def test_anchor_loss_of_the_paper_is_minus_the_mean_squared_distance():
    anchors = arrays()[0]
    flat = np.asarray(anchors).reshape(-1, D)
    squares = [
        np.sum((a - b) ** 2) for i, a in enumerate(flat) for j, b in enumerate(flat) if i - j
    ]
    np.testing.assert_allclose(
        losses.anchor_loss(anchors, variant="paper"), -np.mean(squares), rtol=1e-5
    )


def test_bounded_anchor_loss_is_a_hinge_between_classes():
    anchors = arrays()[0]
    distances = [
        np.sqrt(np.mean((a - b) ** 2))
        for i, class_a in enumerate(np.asarray(anchors))
        for j, class_b in enumerate(np.asarray(anchors))
        if i != j
        for a in class_a
        for b in class_b
    ]
    expected = np.mean(np.maximum(1.5 - np.array(distances), 0) ** 2)
    hinge = functools.partial(losses.anchor_loss, variant="bounded", margin=1.5)
    np.testing.assert_allclose(hinge(anchors, radius=9.0), expected, rtol=1e-5)
    assert hinge(10 * anchors, radius=90.0) == 0
    norms = np.sqrt(np.mean(np.square(10 * anchors), axis=-1))
    too_far = np.mean(np.maximum(norms - 4, 0) ** 2)
    np.testing.assert_allclose(hinge(10 * anchors, radius=4.0), too_far, rtol=1e-5)
    gradient = jax.grad(losses.anchor_loss)(jnp.zeros((N, K, D)))
    assert np.isfinite(gradient).all()


def test_the_hinge_is_exact_far_from_the_origin_too():
    """Against differences in float64; |a|^2 + |b|^2 - 2ab alone would lose all its digits."""
    rng = np.random.default_rng(0)
    anchors = (100 + rng.normal(0, 0.3, (8, 10, 128))).astype(np.float32)

    def loss(anchors):
        return losses.anchor_loss(anchors, margin=1.0, radius=1e3)

    def by_differences(anchors):
        flat = anchors.reshape(-1, 128)
        squares = jnp.mean(jnp.square(flat[:, None] - flat), axis=-1)
        different = np.repeat(np.arange(8), 10)[:, None] != np.repeat(np.arange(8), 10)
        short = jnp.maximum(1 - jnp.sqrt(jnp.where(different, squares, 1)), 0)
        return jnp.sum(jnp.where(different, short**2, 0)) / different.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(anchors))
    with jax.enable_x64(True):
        wanted, direction = jax.value_and_grad(by_differences)(jnp.asarray(anchors, jnp.float64))
    wanted, gradient, direction = (np.asarray(x) for x in (wanted, gradient, direction))
    assert wanted > 0.2
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    scale = np.abs(direction).max()
    np.testing.assert_allclose(gradient / scale, direction / scale, atol=1e-4)


@pytest.mark.parametrize("variant", losses.VARIANTS)
def test_center_loss_takes_the_nearest_anchor_of_the_true_class(variant):
    anchors, embedding, labels = arrays()
    distances = anchor_distances(embedding, anchors)
    certainty = jnp.linspace(0.1, 0.9, B)
    near = np.asarray(distances).min(2)[np.arange(B), labels]
    expected = {
        "paper": near**2,
        "bounded": near**2 / D,
        "official": near * np.asarray(certainty) / np.sqrt(D),
    }[variant]
    loss = functools.partial(
        losses.center_loss, distances, features=D, confidence=certainty, variant=variant
    )
    np.testing.assert_allclose(loss(jnp.asarray(labels)), expected.mean(), rtol=1e-5)
    # Soft labels: the expectation; a missing label and padding count nowhere.
    soft = np.eye(N, dtype=np.float32)[labels]
    np.testing.assert_allclose(loss(jnp.asarray(soft)), expected.mean(), rtol=1e-5)
    missing = jnp.asarray(np.where(np.arange(B) < 3, -1, labels))
    mask = jnp.arange(B) < 6
    np.testing.assert_allclose(loss(missing, mask=mask), expected[3:6].mean(), rtol=1e-5)


def test_an_embedding_on_its_anchor_has_a_gradient():
    anchors, embedding, _ = arrays()
    embedding = embedding.at[0].set(anchors[1, 0])

    def loss(anchors, embedding):
        distances = anchor_distances(embedding, anchors)
        return losses.center_loss(
            distances, jnp.ones(B, int), D, confidence=jnp.ones(B), variant="official"
        )

    for gradient in jax.grad(loss, (0, 1))(anchors, embedding):
        assert np.isfinite(gradient).all()


def test_the_first_of_equal_anchors_gets_the_gradient():
    gradient = jax.grad(
        lambda anchors: losses.center_loss(
            anchor_distances(jnp.ones((1, D)), anchors), jnp.zeros(1, int), D, variant="paper"
        )
    )(jnp.zeros((N, K, D)))
    np.testing.assert_allclose(gradient[0, 0], -2, rtol=1e-5)
    assert not gradient[0, 1].any() and not gradient[1:].any()


def test_the_official_center_loss_needs_confidences():
    anchors, embedding, labels = arrays()
    distances = anchor_distances(embedding, anchors)
    with pytest.raises(ValueError, match="needs the argument `confidence`"):
        losses.center_loss(distances, labels, D, variant="official")


def test_an_unknown_variant_is_named():
    with pytest.raises(ConfigError, match="variant = 'papers'; did you mean 'paper'"):
        losses.anchor_loss(jnp.zeros((N, K, D)), variant="papers")


@pytest.mark.parametrize(
    ("variant", "mapping"), [("paper", "pmap"), ("bounded", "shard_map"), ("official", "shard_map")]
)
def test_eight_devices_give_the_loss_and_the_gradient_of_one(variant, mapping):
    with jax.enable_x64(True):
        anchors, embedding, labels = arrays()
        anchors, embedding = anchors.astype(jnp.float64), embedding.astype(jnp.float64)
        labels = jnp.asarray(labels).at[1].set(-1)

        def loss(anchors, embedding, labels, axis_name):
            distances = anchor_distances(embedding, anchors)
            certainty = jnp.tanh(jnp.sum(distances, axis=(1, 2)) / 50)
            total = losses.anchor_loss(anchors, variant=variant)
            return total + losses.center_loss(
                distances, labels, D, confidence=certainty, variant=variant, axis_name=axis_name
            )

        one = jax.value_and_grad(loss)(anchors, embedding, labels, None)

        def replica(anchors, embedding, labels):
            value, gradient = jax.value_and_grad(loss)(anchors, embedding, labels, "data")
            return value, jax.lax.pmean(gradient, "data")

        if mapping == "pmap":
            split = [x.reshape(8, 1, *x.shape[1:]) for x in (embedding, labels)]
            mapped = jax.pmap(replica, "data", in_axes=(None, 0, 0), out_axes=None)
            eight = mapped(anchors, *split)
        else:
            mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
            data, whole = PartitionSpec("data"), PartitionSpec()
            eight = jax.jit(
                jax.shard_map(
                    replica, mesh=mesh, in_specs=(whole, data, data), out_specs=(whole, whole)
                )
            )(anchors, embedding, labels)
    for mine, theirs in zip(eight, one, strict=True):
        # Where terms cancel, what is left of gradients around 1e-2 is rounding.
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-16)


def anchor_norms(variant: str, steps: int = 20_000, every: int = 200) -> np.ndarray:
    """Mean anchor norm [steps / every] of a small problem: fixed inputs, a linear embedding and
    anchors, trained by all three losses with Adam."""
    rng = np.random.default_rng(0)
    labels = jnp.asarray(np.repeat(np.arange(4), 8))
    x = jnp.asarray(2 * np.eye(4)[labels] @ rng.normal(size=(4, 6)) + rng.normal(size=(32, 6)))
    x = x.astype(jnp.float32)
    params = {
        "anchors": jnp.asarray(rng.normal(size=(4, 3, 8)), jnp.float32),
        "kernel": jnp.asarray(rng.normal(size=(6, 8)) / 6**0.5, jnp.float32),
    }
    optimizer = optax.adam(3e-3)

    def loss(params):
        distances = anchor_distances(x @ params["kernel"], params["anchors"])
        log_probs = geometric_correction(distances, 1.0)
        targets = 0.89 * jax.nn.one_hot(labels, 4) + 0.11 / 4
        total = -jnp.mean(jnp.sum(targets * log_probs, axis=1))
        total += losses.anchor_loss(params["anchors"], variant=variant)
        return total + losses.center_loss(
            distances, labels, 8, confidence=jnp.ones(len(x)), variant=variant
        )

    def step(state, _):
        params, opt = state
        updates, opt = optimizer.update(jax.grad(loss)(params), opt)
        params = optax.apply_updates(params, updates)
        return (params, opt), None

    def stretch(state, _):
        state, _ = jax.lax.scan(step, state, length=every)
        return state, jnp.linalg.norm(state[0]["anchors"], axis=-1).mean()

    run = jax.jit(lambda state: jax.lax.scan(stretch, state, length=steps // every)[1])
    return np.asarray(run((params, optimizer.init(params))))


def test_bounded_keeps_the_anchors_where_paper_and_code_do_not():
    bounded = anchor_norms("bounded")
    assert np.isfinite(bounded).all()
    assert bounded.max() < 3 * bounded[0]
    assert abs(bounded[-1] / bounded[len(bounded) // 2] - 1) < 0.1
    # The others grow without an end.
    for variant in ("paper", "official"):
        norms = anchor_norms(variant)
        assert norms[-1] > 10 * bounded.max(), variant
        assert norms[-1] > 1.5 * norms[len(norms) // 2], variant


def draw(path: str) -> None:
    """The picture of docs/arbex.md: `python -m tests.affect_jax.losses.test_reliability FILE`."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for variant in ("paper", "official", "bounded"):
        norms = anchor_norms(variant)
        axes.plot(200 * np.arange(1, len(norms) + 1), norms, label=variant)
    axes.set(xlabel="step", ylabel="mean norm of the anchors", yscale="log")
    axes.legend(title="config.loss.reliability.variant")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    draw(sys.argv[1])
