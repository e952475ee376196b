"""Relations against the NumPy transcription, and what holds for any input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax import models
from affect_jax.losses.relations import neighbour_distribution, neighbour_loss
from affect_jax.models.layers import Layers
from affect_jax.models.relations import Comparison, Relations
from affect_jax.models.relations_blocks import Bank, label_distances
from affect_jax.models.relations_settings import RelationsSettings, from_section, to_section
from affect_jax.models.state import take_apart
from data_pipelines.hierarchies.tree import Hierarchy, load
from tests.affect_jax.models import rald_reference as reference

BATCH, FEATURES, CLASSES, LENGTH = 6, 10, 5, 7
TREE = Hierarchy("test", ("a", "b", "c", "d", "e"), ("x", "y"), (0, 0, 1, 1, 1))
SIZES = {"heads": 2, "head_features": 3, "label_features": LENGTH, "scale": 0.6, "bank_size": 4}
SWITCHES = ("itrr", "hlrr", "lgifo", "nnldl")
OF_BATCH = Comparison(context="batch")


def switches(row):
    parts = reference.ROWS[row]
    return {
        **{name: name in parts for name in SWITCHES},
        "hierarchy_bias": "hlrr" in parts,
        "dropout": 0.0,
    }


def made(dtype=jnp.float32, tree=TREE, *, train=False, **settings):
    make = Layers(nnx.Rngs(0), dtype, jnp.promote_types(jnp.float32, dtype))
    plain = None if tree is None else tree.to_plain()
    part = Relations(FEATURES, CLASSES, make=make, **{**SIZES, "hierarchy": plain, **settings})
    part.train() if train else part.eval()
    return part


def features(batch=BATCH, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(batch, FEATURES)).astype(dtype)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def module(attention, block, **more):
    """Return the transcription's parameters of one module."""
    arrays = {
        "query": attention.query.kernel,
        "key": attention.key.kernel,
        "out": attention.out.kernel,
        "fc1": block.ffn.fc1.kernel,
        "fc1_bias": block.ffn.fc1.bias,
        "fc2": block.ffn.fc2.kernel,
        "fc2_bias": block.ffn.fc2.bias,
        "norm_scale": block.norm.scale,
        "norm_bias": block.norm.bias,
    }
    if attention.value is not None:
        arrays["value"] = attention.value.kernel
    return {name: np.asarray(array[...], np.float64) for name, array in (arrays | more).items()}


def parameters(part):
    found = {}
    if part.settings.itrr:
        found["itrr"] = module(part.images.attention, part.images.block)
    if part.settings.hlrr:
        more = {"bias": part.labels.bias} if part.settings.hierarchy_bias else {}
        found["hlrr"] = module(part.labels.attention, part.labels.block, **more)
    if part.settings.lgifo:
        found["lgifo"] = module(part.guidance.attention, part.guidance.block)
    return found


def randomised(part, seed=1):
    """Give every parameter a random value: fresh biases are 0 and scales 1."""
    _, params, _ = take_apart(part)
    rng = np.random.default_rng(seed)
    blueprint = take_apart(part)[0]
    state = [
        (blueprint.param_paths[name], jnp.asarray(rng.normal(size=x.shape) * 0.7, x.dtype))
        for name, x in params.items()
    ]
    nnx.update(part, nnx.from_flat_state(state))
    return part


@pytest.mark.parametrize("row", [row for row in reference.ROWS if row != "a"])
@pytest.mark.parametrize("context", ["batch", "self", "bank"])
def test_rows_of_the_ablation_follow_the_paper(row, context, float64):
    part = randomised(made(jnp.float64, **switches(row)))
    rng = np.random.default_rng(3)
    x, head = features(dtype=np.float64), rng.normal(size=(FEATURES, CLASSES))
    valid = np.array([True, True, False, True, True, True])
    bank, bank_valid = rng.normal(size=(4, FEATURES)), np.array([True, False, True, True])
    labels = np.asarray(part.label_vectors[...]) if part.settings.lgifo else None
    expected = reference.forward(
        row,
        x,
        labels,
        parameters(part) | {"head": {"weight": head, "bias": np.zeros(CLASSES)}},
        heads=SIZES["heads"],
        scale=SIZES["scale"],
        coarse_of=TREE.coarse_of,
        context=context,
        valid=valid,
        bank=bank if context == "bank" else None,
        bank_valid=bank_valid if context == "bank" else None,
    )
    comparison = Comparison(
        jnp.asarray(valid), context, Bank(jnp.asarray(bank), jnp.asarray(bank_valid))
    )
    refined, outputs = part(jnp.asarray(x), comparison=comparison)
    np.testing.assert_allclose((refined @ head)[valid], expected.logits[valid], atol=1e-10)
    if part.settings.itrr:
        weights = outputs["relation_weights"]
        np.testing.assert_allclose(weights[valid], expected.relations[valid], atol=1e-10)


def test_labels_of_a_tree_and_of_classes_alone_follow_the_paper(float64):
    for tree in (TREE, None):
        settings = {"hierarchy_bias": tree is not None, "itrr": False, "nnldl": False}
        part = randomised(made(jnp.float64, tree, **settings))
        vectors = np.asarray(part.label_vectors[...])
        assert vectors.shape == (CLASSES + (2 if tree else 0), LENGTH)
        expected = reference.hlrr(
            vectors,
            parameters(part)["hlrr"],
            heads=SIZES["heads"],
            scale=SIZES["scale"],
            coarse_of=tree and tree.coarse_of,
        )
        np.testing.assert_allclose(part.label_features(), expected, atol=1e-10)


def test_residual_adds_the_input_of_the_image_blocks(float64):
    part = randomised(made(jnp.float64, residual=True, hlrr=False, lgifo=False))
    x = features(dtype=np.float64)
    expected, _ = reference.itrr(
        x,
        reference.compared_images(x),
        parameters(part)["itrr"],
        heads=SIZES["heads"],
        scale=SIZES["scale"],
        residual=True,
    )
    np.testing.assert_allclose(part(jnp.asarray(x), comparison=OF_BATCH)[0], expected, atol=1e-10)


@pytest.mark.parametrize("neighbours", [1, 3, 5, 9])
@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_neighbours_follow_the_paper(neighbours, reduction, float64):
    rng = np.random.default_rng(neighbours)
    logits, valid = rng.normal(size=(BATCH, CLASSES)), np.array([1, 1, 1, 0, 1, 1], bool)
    weights = rng.dirichlet(np.ones(BATCH), BATCH)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    d, found = reference.label_distributions(weights, probabilities, neighbours, valid)
    got, known = neighbour_distribution(
        jnp.asarray(weights),
        jnp.asarray(probabilities),
        jnp.asarray(valid & ~np.eye(BATCH, dtype=bool)),
        neighbours,
    )
    np.testing.assert_array_equal(known[valid], found[valid])
    np.testing.assert_allclose(got[valid], d[valid], atol=1e-10)
    loss, _ = neighbour_loss(
        jnp.asarray(logits),
        jnp.asarray(weights),
        neighbours=neighbours,
        reduction=reduction,
        mask=jnp.asarray(valid),
    )
    expected = reference.distribution_loss(d, found, logits, valid, reduction)
    np.testing.assert_allclose(loss, expected, atol=1e-10)


def test_label_distances_are_those_of_equation_9():
    sigma = reference.label_distances(TREE.coarse_of)
    order = {0.0: 0, 1.0: 1, 500.0: 2}
    expected = [[order[value] for value in row] for row in np.asarray(sigma).tolist()]
    assert [list(row) for row in label_distances(TREE)] == expected


def test_the_bias_decreases_with_the_distance_for_any_parameters():
    for seed in range(3):
        part = randomised(made(hierarchy_bias=True), seed)
        kinds = np.array(label_distances(TREE))
        same, related, other = (np.asarray(part.labels.biases())[kinds == k] for k in range(3))
        assert same.min() > related.max() and related.min() > other.max()


def test_padding_neither_attends_nor_is_attended():
    part = made()
    x = features()
    mask = jnp.arange(BATCH) < 4
    refined, outputs = part(jnp.asarray(x), comparison=Comparison(mask, "batch"))
    np.testing.assert_array_equal(outputs["relation_weights"][:4, 4:], 0)
    alone, _ = part(jnp.asarray(x[:4]), comparison=OF_BATCH)
    np.testing.assert_allclose(refined[:4], alone, atol=1e-6)
    other = x.copy()
    other[4:] = np.nan
    again, _ = part(jnp.asarray(other), comparison=Comparison(mask, "batch"))
    np.testing.assert_array_equal(refined[:4], again[:4])


@pytest.mark.parametrize("context", ["self", "bank"])
def test_other_images_of_a_request_do_not_matter(context):
    part = made()
    part.bank_features[...] = jnp.asarray(features(4, seed=5))
    part.bank_labels[...] = jnp.array([0, 1, -1, 2], jnp.int32)
    x = features()
    whole, _ = part(jnp.asarray(x), comparison=Comparison(context=context))
    for rows in ([0], [3, 1], [5, 4, 3, 2, 1, 0]):
        some, _ = part(jnp.asarray(x[rows]), comparison=Comparison(context=context))
        np.testing.assert_allclose(some, whole[np.array(rows)], atol=1e-6)


def test_an_empty_bank_is_the_image_alone():
    part = made()
    x = jnp.asarray(features())
    alone, _ = part(x, comparison=Comparison(context="self"))
    bank, outputs = part(x)
    np.testing.assert_allclose(bank, alone, atol=1e-6)
    np.testing.assert_array_equal(outputs["relation_weights"][:, -1], 1)


def loss_and_gradients(part, x, labels, mask=None, neighbours=5):
    blueprint, params, stats = take_apart(part)
    head = jnp.asarray(np.random.default_rng(9).normal(size=(FEATURES, CLASSES)), jnp.float32)

    def loss_of(params, x):
        model = blueprint.build(params, stats)
        refined, outputs = model(x, rngs=nnx.Rngs(dropout=0), comparison=Comparison(mask))
        logits = (refined.astype(jnp.float32) @ head) * labels
        loss, _ = neighbour_loss(
            logits, outputs["neighbour_weights"], neighbours=neighbours, mask=mask
        )
        return loss - jnp.mean(jax.nn.log_softmax(logits)[:, 0]), loss

    found = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True))(params, x)
    (_, loss), gradients = found
    return loss, gradients


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", ["one", "few", "identical", "uniform", "masked", "huge", "zero"])
def test_gradients_are_finite(case, dtype):
    part = made(dtype, train=True, hierarchy_bias=True)
    x, mask = features(), None
    x = {
        "one": x[:1],
        "few": x[:2],
        "identical": np.repeat(x[:1], BATCH, axis=0),
        "huge": 1e8 * x,
        "zero": 0 * x,
    }.get(case, x)
    if case == "masked":
        mask = jnp.zeros(BATCH, bool)
    labels = 0.0 if case == "uniform" else 1.0
    loss, gradients = loss_and_gradients(part, jnp.asarray(x), labels, mask)
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in jax.tree.leaves(gradients))
    assert np.isfinite(loss)
    assert (loss == 0) == (case in ("one", "masked"))


def test_neighbour_loss_of_uniform_predictions_is_the_entropy():
    weights = jnp.full((BATCH, BATCH), 1 / BATCH)
    loss, _ = neighbour_loss(jnp.zeros((BATCH, CLASSES)), weights, reduction="batchmean")
    np.testing.assert_allclose(loss, np.log(CLASSES), rtol=1e-6)
    loss, _ = neighbour_loss(jnp.zeros((BATCH, CLASSES)), weights)
    np.testing.assert_allclose(loss, np.log(CLASSES) / CLASSES, rtol=1e-6)


def test_tiny_weights_keep_their_ratios():
    weights = jnp.asarray([[1.0, 3e-37, 1e-37]])
    allowed = jnp.asarray([[False, True, True]])
    got, known = neighbour_distribution(weights, jnp.eye(3), allowed, 5)
    assert known.all()
    np.testing.assert_allclose(got, [[0, 0.75, 0.25]], rtol=1e-5)


def test_neighbours_get_no_gradient():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(BATCH, CLASSES)), jnp.float32)
    weights = jnp.asarray(rng.dirichlet(np.ones(BATCH), BATCH), jnp.float32)
    gradient = jax.grad(lambda w: neighbour_loss(logits, w)[0])(weights)
    np.testing.assert_array_equal(gradient, 0)
    # With a constant D, the gradient of its cross-entropy is (P - D) / (B N).
    allowed = ~jnp.eye(BATCH, dtype=bool)
    probabilities = jax.nn.softmax(logits)
    target, _ = neighbour_distribution(weights, probabilities, allowed, 5)
    gradient = jax.grad(lambda x: neighbour_loss(x, weights)[0])(logits)
    expected = (probabilities - target) / (BATCH * CLASSES)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"itrr": False, "lgifo": False, "hlrr": False, "nnldl": False}, "relations.enabled"),
        ({"itrr": False}, "relations.nnldl = True needs relations.itrr"),
        ({"lgifo": False}, "relations.hlrr = True needs relations.lgifo"),
        ({"hlrr": False, "hierarchy_bias": True}, "relations.hierarchy_bias = True needs"),
        ({"hierarchy_bias": True}, "model.hierarchy"),
        ({"heads": 0}, "relations.heads = 0"),
        ({"dropout": 1.0}, "relations.dropout = 1.0"),
        ({"scale": float("nan")}, "relations.scale = nan"),
        ({"context": "banks"}, "bank"),
        ({"itrr": 1}, "True or False"),
    ],
)
def test_senseless_settings_are_refused_by_name(settings, said):
    with pytest.raises(ValueError, match=said):
        RelationsSettings(**settings)


def test_a_section_has_every_setting_but_the_tree():
    section = to_section(None)
    assert not section["enabled"] and "hierarchy" not in section
    assert from_section(section, None) is None
    section |= {"enabled": True, "hierarchy_bias": True}
    assert RelationsSettings(**from_section(section, TREE.to_plain())).hierarchy_bias
    with pytest.raises(ValueError, match="heads"):
        from_section({**section, "haeds": 3}, None)


def test_a_tree_of_other_classes_and_batch_reliability_are_refused():
    with pytest.raises(ValueError, match="5 fine classes, the model 4"):
        models.create("resnet18", n_expression=4, relations={"hierarchy": TREE.to_plain()})
    with pytest.raises(ValueError, match="scope"):
        models.create("resnet18", relations={}, reliability={"scope": "batch"})


@pytest.mark.parametrize(
    "name", [n for n in models.names() if models.takes(n, "relations") and n != "features"]
)
def test_every_backbone_takes_relations(name):
    side = 64 if name == "emofan" else 224 if name.startswith(("vit", "arbex", "poster")) else 32
    if name.startswith(("arbex_tiny", "poster_v2_tiny")):
        side = 32
    changes = {"emofan": {"width": 32, "depth": 2, "emotion_blocks": 2}}.get(name, {})
    reliability = {} if models.entry(name).constructor.__name__ == "ARBEx" else None
    if reliability is not None:
        changes["reliability"] = reliability

    def outputs(images):
        model = models.create(name, n_expression=CLASSES, relations={"bank_size": 4}, **changes)
        model.eval()
        return model(images)

    found = jax.eval_shape(outputs, jax.ShapeDtypeStruct((3, side, side, 3), jnp.float32))
    assert found["logits"].shape == (3, CLASSES)
    assert found["relation_weights"].shape == (3, 5)
    assert found["image_features"].shape == found["embedding"].shape


# Parameters that relations add to ResNet-18 with 33 fine and 6 coarse classes, by row of Table 3.
# D = 512, inner width 512, label vectors of 300 numbers.
_BLOCK, _LABEL_BLOCK = (
    (width * 4 * width + 4 * width) + (4 * width * width + width) + 2 * width
    for width in (512, 300)
)
_ITRR = 4 * 512 * 512 + _BLOCK
_HLRR = 4 * 300 * 512 + _LABEL_BLOCK
_LGIFO = 512 * 512 + 300 * 512 + 8 * 300 * 512 + _BLOCK
_ADDED = {
    "b": _ITRR,
    "c": _ITRR,
    "d": _LGIFO,
    "e": _ITRR + _LGIFO,
    "f": _HLRR + 3 + _LGIFO,
    "g": _ITRR + _HLRR + 3 + _LGIFO,
    "all": _ITRR + _HLRR + 3 + _LGIFO,
}


def test_parameter_counts():
    plain = load("fg_emotions").to_plain()

    def count(relations):
        def build():
            model = models.create("resnet18", n_expression=33, relations=relations)
            return take_apart(model)[1]

        return sum(x.size for x in jax.eval_shape(build).values())

    bare = count(None)
    assert bare == 11_193_441
    for row, added in _ADDED.items():
        assert count({**switches(row), "hierarchy": plain}) - bare == added, row
    assert bare + _ADDED["all"] == 19_424_536
