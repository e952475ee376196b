"""The shared objective: its sum of terms, missing labels, distillation, and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.losses import supervised
from affect_jax.models.landmarks import render_heatmaps
from affect_jax.systems.objective import LossInputs
from configs import base

KEY = jax.random.key(0)
CLASSES, SIZE, GRID = 4, 32, 8


def settings(**loss):
    config = base.get_config()
    config.loss.teacher = "somewhere" if loss.get("distillation_weight") else ""
    config.loss.update(loss)
    return config


def case(seed=0, n=16):
    rng = np.random.default_rng(seed)
    outputs = {
        "logits": rng.standard_normal((n, CLASSES)),
        "valence": rng.standard_normal(n),
        "arousal": rng.standard_normal(n),
        "stack_heatmaps": tuple(rng.standard_normal((2, n, GRID, GRID, 68))),
    }
    batch = {
        "image": np.zeros((n, SIZE, SIZE, 3), np.uint8),
        "expression": rng.integers(-1, CLASSES, n),
        "valence_arousal": rng.uniform(-1, 1, (n, 2)),
        "landmarks": rng.uniform(0, SIZE, (n, 68, 2)),
        "mask": rng.random(n) < 0.8,
    }
    batch["valence_arousal"][rng.random((n, 2)) < 0.2] = np.nan
    batch["landmarks"][rng.random((n, 68)) < 0.1] = np.nan
    return jax.tree.map(jnp.asarray, outputs), jax.tree.map(jnp.asarray, batch)


def loss_of(config):
    """The loss of an EmoFAN for all labels."""
    system = systems.create(
        config,
        class_names=tuple("abcd"),
        has=frozenset({"expression", "valence_arousal", "landmarks"}),
        class_counts=(1,) * CLASSES,
    )

    def loss(*inputs):
        return system.loss(LossInputs(*inputs), systems.Phase("emotion", 0))

    return loss


def evaluate(outputs, batch, config, teacher=None):
    """The loss on one device, compiled as a whole, which is faster here."""

    @jax.jit
    def run(outputs, batch, teacher):
        return loss_of(config)(outputs, batch, KEY, None, teacher)

    return run(outputs, batch, teacher)


@jax.jit
def regression_losses(outputs, targets, mask):
    return supervised.regression_losses(stacked(outputs), targets, mask=mask)


def stacked(outputs):
    return jnp.stack([outputs["valence"], outputs["arousal"]], axis=1)


@pytest.mark.parametrize(
    ("regression", "categories"),
    [("shake_shake", True), ("ccc", False), ("mse", True), ("pcc", False), ("none", True)],
)
def test_the_loss_is_the_sum_of_the_terms_it_names(regression, categories):
    outputs, batch = case()
    config = settings(regression=regression, categories=categories, label_smoothing=0.1)
    loss, terms = evaluate(outputs, batch, config)
    parts = regression_losses(outputs, batch["valence_arousal"], batch["mask"])
    if regression == "shake_shake":
        expected = supervised.shake_shake(KEY, parts)
    else:
        expected = 0.0 if regression == "none" else getattr(parts, regression)
    assert ("ccc" in terms) == (regression != "none")
    assert ("cross_entropy" in terms) == categories
    if categories:
        entropy = supervised.softmax_cross_entropy(
            outputs["logits"], batch["expression"], mask=batch["mask"], label_smoothing=0.1
        )
        np.testing.assert_allclose(terms["cross_entropy"], entropy, rtol=1e-6)
        expected = expected + entropy
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_heatmaps_are_compared_with_rendered_landmarks_in_grid_coordinates():
    outputs, batch = case()
    targets, visible = render_heatmaps(batch["landmarks"], GRID, 1.5, image_size=SIZE)
    config = settings(regression="none", categories=False, heatmap_weight=3.0, heatmap_sigma=1.5)
    loss, terms = evaluate(outputs, batch, config)
    expected = supervised.heatmap_loss(
        outputs["stack_heatmaps"], targets, visible, mask=batch["mask"]
    )
    np.testing.assert_allclose(terms["heatmap"], expected, rtol=1e-6)
    np.testing.assert_allclose(loss, 3 * expected, rtol=1e-6)
    perfect = {**outputs, "stack_heatmaps": (targets, targets)}
    np.testing.assert_allclose(evaluate(perfect, batch, config)[0], 0, atol=1e-12)


def test_distillation_mixes_categories_and_replaces_valence_and_arousal():
    outputs, batch = case(1)
    teacher, _ = case(2)
    config = settings(regression="ccc", distillation_weight=0.3)
    loss, terms = evaluate(outputs, batch, config, teacher)
    parts = regression_losses(outputs, stacked(teacher), batch["mask"])
    np.testing.assert_allclose(terms["ccc"], parts.ccc, rtol=1e-6)
    np.testing.assert_allclose(
        loss, 0.7 * terms["cross_entropy"] + 0.3 * terms["distillation"] + parts.ccc, rtol=1e-6
    )
    gradient = jax.grad(lambda t: evaluate(outputs, batch, config, t)[0])(teacher)
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))


def test_votes_and_class_weights_reach_the_cross_entropy():
    outputs, batch = case(3)
    votes = np.random.default_rng(0).integers(0, 5, (16, CLASSES)).astype(float)
    votes[:5] = np.nan
    batch["expression_probs"] = jnp.asarray(votes)
    weights = (1.0, 2.0, 0.0, 0.5)
    _, terms = evaluate(outputs, batch, settings(class_weights="1,2,0,0.5"))
    labels = supervised.votes_or_labels(batch["expression_probs"], batch["expression"])
    expected = supervised.softmax_cross_entropy(
        outputs["logits"], labels, mask=batch["mask"], class_weights=weights
    )
    np.testing.assert_allclose(terms["cross_entropy"], expected, rtol=1e-6)


@pytest.mark.parametrize("missing", ["expression", "valence_arousal", "landmarks", "everything"])
def test_labels_that_a_batch_lacks_add_nothing_and_leave_gradients_finite(missing):
    outputs, batch = case(4)
    gone = [missing] if missing != "everything" else ["expression", "valence_arousal", "landmarks"]
    for name in gone:
        batch[name] = jnp.full_like(batch[name], -1 if name == "expression" else jnp.nan)
    config = settings(heatmap_weight=1.0)
    (_, terms), gradient = jax.value_and_grad(lambda o: evaluate(o, batch, config), has_aux=True)(
        outputs
    )
    names = {
        "expression": (["cross_entropy"], ["logits"]),
        "valence_arousal": (["mse", "pcc", "ccc"], ["valence", "arousal"]),
        "landmarks": (["heatmap"], ["stack_heatmaps"]),
    }
    for field, (of_terms, of_outputs) in names.items():
        assert all((terms[t] == 0) == (field in gone) for t in of_terms)
        for leaf in jax.tree.leaves([gradient[o] for o in of_outputs]):
            assert np.isfinite(leaf).all()
            assert (leaf == 0).all() == (field in gone)


def test_fields_that_a_batch_does_not_have_are_no_terms():
    outputs, batch = case()
    del batch["valence_arousal"], batch["landmarks"]
    _, terms = evaluate(outputs, batch, settings(heatmap_weight=1.0))
    assert set(terms) == {"cross_entropy"}


def test_configurations_that_cannot_be_are_refused():
    outputs, batch = case()
    with pytest.raises(ConfigError, match="did you mean 'shake_shake'"):
        evaluate(outputs, batch, settings(regression="shakeshake"))
    with pytest.raises(ConfigError, match=r"config\.loss\.teacher"):
        evaluate(outputs, batch, settings(distillation_weight=0.5))
    for missing, key in [
        ("logits", "categories"),
        ("arousal", "regression"),
        ("stack_heatmaps", "heatmap_weight"),
    ]:
        fewer = {k: v for k, v in outputs.items() if k != missing}
        with pytest.raises(ConfigError, match=rf"config\.loss\.{key} needs .*{missing}"):
            evaluate(fewer, batch, settings(heatmap_weight=1.0))


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_eight_devices_give_the_loss_and_gradient_of_one(mapping):
    with jax.enable_x64(True):
        outputs, batch = case(5)
        teacher, _ = case(6)
        batch["mask"] = batch["mask"].at[2:4].set(False)  # all of the second replica
        config = settings(heatmap_weight=0.5, distillation_weight=0.25)
        params = jnp.asarray([1.2, 0.7, 0.9])

        def objective(params, batch, axis_name):
            outputs = {
                **batch["outputs"],
                "logits": params[0] * batch["outputs"]["logits"],
                "valence": params[1] * batch["outputs"]["valence"],
                "stack_heatmaps": tuple(params[2] * h for h in batch["outputs"]["stack_heatmaps"]),
            }
            return loss_of(config)(outputs, batch, KEY, axis_name, batch["teacher"])[0]

        def step(params, batch):
            loss, gradient = jax.value_and_grad(objective)(params, batch, "data")
            return loss, jax.lax.pmean(gradient, "data")

        batch = {**batch, "outputs": outputs, "teacher": teacher}
        loss, gradient = jax.jit(jax.value_and_grad(objective), static_argnums=2)(
            params, batch, None
        )
        if mapping == "pmap":
            shards = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
            got = jax.pmap(step, axis_name="data", in_axes=(None, 0), out_axes=None)(params, shards)
        else:
            mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
            sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
            got = jax.jit(sharded)(params, batch)
        assert jnp.abs(gradient).min() > 1e-3
        np.testing.assert_allclose(got[0], loss, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got[1], gradient, rtol=0, atol=1e-10)
