"""Reliability balancing: distributions, invariances, extreme inputs, training state."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.models.layers import Layers
from affect_jax.models.reliability import (
    Reliability,
    anchor_distances,
    blend,
    confidence,
    geometric_correction,
)
from affect_jax.models.reliability_attention import TokenAttention
from affect_jax.models.reliability_settings import (
    CORRECTIONS,
    ReliabilitySettings,
    from_section,
    to_section,
)
from affect_jax.models.state import take_apart

CLASSES, FEATURES, BATCH = 4, 10, 5


def part(dtype=jnp.float32, **settings):
    """A balancing part in evaluation mode."""
    make = Layers(nnx.Rngs(0), dtype)
    made = Reliability(FEATURES, CLASSES, **{"anchors": 3, "make": make, **settings})
    made.eval()
    return made


@nnx.jit
def run(balancing, given_):
    return balancing(given_)


@jax.jit
def confidence_of(logits):
    return confidence(jax.nn.log_softmax(logits))


def inputs(batch=BATCH, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "embedding": jnp.asarray(rng.normal(size=(batch, FEATURES)), jnp.float32),
        "logits": jnp.asarray(scale * rng.normal(size=(batch, CLASSES)), jnp.float32),
    }


@settings(max_examples=25)
@given(st.lists(st.floats(-1e4, 1e4), min_size=6, max_size=6))
def test_confidence_lies_between_0_and_1(logits):
    assert 0 <= confidence_of(jnp.asarray(logits, jnp.float32)) <= 1


@pytest.mark.parametrize("classes", [2, 7, 8])
def test_confidence_is_0_if_uniform_and_1_if_certain(classes):
    uniform = jnp.full(classes, -jnp.log(classes))
    assert 0 <= confidence(uniform) <= 1e-6
    certain = jnp.where(jnp.arange(classes) == 1, 0.0, -jnp.inf)
    assert confidence(certain) == 1
    for log_probs in (uniform, certain):
        assert np.isfinite(jax.grad(confidence_of)(log_probs)).all()


@settings(max_examples=20)
@given(st.floats(0, 1), st.integers(0, 99))
def test_blend_is_the_weighted_sum(weight, seed):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), 2)
    got = jnp.exp(blend(jnp.log(p)[None], jnp.log(q)[None], jnp.asarray([weight])))
    np.testing.assert_allclose(got[0], weight * p + (1 - weight) * q, atol=1e-6)


@pytest.mark.parametrize(
    ("correction", "scope"), [*((name, "example") for name in CORRECTIONS), ("weighted", "batch")]
)
def test_all_distributions_sum_to_1(correction, scope):
    outputs = run(part(correction=correction, scope=scope), inputs(scale=3.0))
    for probabilities in (outputs["primary"], outputs["corrected"], jnp.exp(outputs["logits"])):
        assert (probabilities >= 0).all()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=2e-6)
    for name in ("confidence_primary", "confidence_corrected"):
        assert ((outputs[name] >= 0) & (outputs[name] <= 1)).all()


def test_what_the_corrections_are():
    given_ = inputs(scale=2.0)
    primary = jax.nn.softmax(given_["logits"])
    off = run(part(correction="off"), given_)
    np.testing.assert_allclose(jnp.exp(off["logits"]), primary, atol=1e-6)
    both, named_both = (
        run(part(correction="weighted"), given_),
        run(part(correction="both"), given_),
    )
    np.testing.assert_array_equal(both["logits"], named_both["logits"])

    geometric = run(part(correction="geometric"), given_)
    expected = jnp.exp(geometric_correction(geometric["anchor_distances"], 1.0))
    np.testing.assert_allclose(geometric["corrected"], expected, atol=1e-6)
    attentive = run(part(correction="attentive"), given_)
    t_g, t_a = geometric["corrected"], attentive["corrected"]
    c_g, c_a = confidence(jnp.log(t_g)) + 1e-4, confidence(jnp.log(t_a)) + 1e-4
    t = (c_g[:, None] * t_g + c_a[:, None] * t_a) / (c_g + c_a)[:, None]
    np.testing.assert_allclose(both["corrected"], t, atol=1e-5)
    c_l, c_t = both["confidence_primary"] + 1e-4, both["confidence_corrected"] + 1e-4
    final = (c_l[:, None] * primary + c_t[:, None] * t) / (c_l + c_t)[:, None]
    np.testing.assert_allclose(jnp.exp(both["logits"]), final, atol=1e-5)


def test_without_anchors_the_correction_is_the_attentive_one():
    outputs = run(part(anchors=0), inputs())
    np.testing.assert_array_equal(
        outputs["corrected"], run(part(anchors=0, correction="attentive"), inputs())["corrected"]
    )
    assert "anchor_distances" not in outputs
    assert not any("anchors" in path for path in take_apart(part(anchors=0))[1])


@settings(max_examples=10)
@given(st.permutations(range(3)), st.integers(0, CLASSES - 1))
def test_the_order_of_the_anchors_of_a_class_is_of_no_matter(order, which):
    balancing = part()
    before = run(balancing, inputs())["logits"]
    anchors = balancing.anchors[...]
    balancing.anchors[...] = anchors.at[which].set(anchors[which, np.array(order)])
    np.testing.assert_allclose(run(balancing, inputs())["logits"], before, atol=1e-6)


def test_a_prediction_does_not_depend_on_its_batch():
    balancing, everything = part(), inputs()
    alone = {name: array[2:3] for name, array in everything.items()}
    np.testing.assert_allclose(
        run(balancing, alone)["logits"][0], run(balancing, everything)["logits"][2], atol=1e-6
    )
    across = part(scope="batch")
    difference = run(across, alone)["corrected"][0] - run(across, everything)["corrected"][2]
    assert np.abs(difference).max() > 1e-4


@pytest.mark.parametrize("scope", ["example", "batch"])
def test_queries_and_keys_learn(scope):
    blueprint, params, stats = take_apart(part(scope=scope))

    def loss(params):
        return blueprint.build(params, stats)(inputs())["corrected"][:, 0].sum()

    gradients = jax.jit(jax.grad(loss))(params)
    for name in ("query", "key"):
        assert np.abs(gradients[f"attention/{name}/kernel"]).max() > 1e-5


def test_one_token_would_make_queries_and_keys_useless():
    attention = TokenAttention(FEATURES, CLASSES, 1, 2, Layers(nnx.Rngs(0)))
    blueprint, params, stats = take_apart(attention)
    embedding = inputs()["embedding"]
    gradients = jax.jit(jax.grad(lambda p: blueprint.build(p, stats)(embedding)[:, 0].sum()))(
        params
    )
    assert np.abs(gradients["query/kernel"]).max() < 1e-7
    assert np.abs(gradients["value/kernel"]).max() > 1e-3


LOGITS = [
    [0.0, -np.inf, -np.inf, -np.inf],
    [0.0, 0.0, 0.0, 0.0],
    [1e4, -1e4, 0.0, 1e4],
    [-200.0, 200.0, 0.0, 0.0],
]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("correction", ["weighted", "trust"])
def test_values_and_gradients_are_finite(correction, dtype):
    """One-hot, uniform, extreme and confidently wrong logits, with embeddings that lie on an
    anchor, far away, and between."""
    balancing = part(dtype, correction=correction, normalise=False)
    blueprint, params, stats = take_apart(balancing)
    logits = jnp.repeat(jnp.asarray(LOGITS, dtype), 3, axis=0)
    embedding = inputs(len(logits))["embedding"]
    embedding = embedding.at[::3].set(balancing.anchors[1, 2]).at[1::3].multiply(1e3)

    def loss(params, embedding, logits):
        outputs = blueprint.build(params, stats)(
            {"embedding": embedding.astype(dtype), "logits": logits}
        )
        return -jnp.mean(outputs["logits"]), outputs

    (value, outputs), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
        params, embedding, logits
    )
    assert np.isfinite(value)
    del outputs["embedding"]
    for name, array in outputs.items():
        assert array.dtype == jnp.float32 and np.isfinite(array).all(), name
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient.astype(jnp.float32)).all(), path


def test_anchors_do_not_tie_at_the_start_and_have_the_scale_of_the_embedding():
    balancing = Reliability(64, 8, make=Layers(nnx.Rngs(0)))
    anchors = balancing.anchors[...]
    assert anchors.shape == (8, 10, 64)
    assert 0.9 < anchors.std() < 1.1
    balancing.train()
    embedding = np.random.default_rng(0).normal(40, 7, (32, 64)).astype(np.float32)
    outputs = run(balancing, {"embedding": embedding, "logits": np.zeros((32, 8), np.float32)})
    # Standardised, the embedding is about sqrt(2 * 64) away from a random anchor.
    assert 9 < outputs["anchor_distances"].mean() < 14
    assert outputs["anchors"].shape == anchors.shape


def test_trust_is_ramped_in_by_training_steps():
    balancing = part(correction="trust", ramp_steps=4, normalise=False)
    given_ = inputs(scale=2.0)
    primary = jax.nn.softmax(given_["logits"])
    balancing.train()
    seen = [float(run(balancing, given_)["trust"]) for _ in range(6)]
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1]
    balancing.eval()
    outputs = run(balancing, given_)
    assert "trust" not in outputs
    certainty = outputs["confidence_primary"][:, None]
    expected = certainty * primary + (1 - certainty) * outputs["corrected"]
    np.testing.assert_allclose(jnp.exp(outputs["logits"]), expected, atol=1e-5)


@pytest.mark.parametrize("correction", ["weighted", "trust"])
def test_detached_confidences_get_no_gradient(correction):
    """The gradient is that of the blend with its weights put in as constants."""
    balancing = part(correction=correction, detach_confidence=True)
    blueprint, params, stats = take_apart(balancing)
    given_ = inputs(scale=2.0)
    found = run(balancing, given_)
    geometric = run(part(correction="geometric"), given_)
    epsilon = 1e-4
    c_g = geometric["confidence_corrected"] + epsilon
    c_a = run(part(correction="attentive"), given_)["confidence_corrected"] + epsilon
    c_l, c_t = found["confidence_primary"], found["confidence_corrected"]
    of_primary = c_l if correction == "trust" else (c_l + epsilon) / (c_l + c_t + 2 * epsilon)

    def final(model, embedding, logits):
        distances = anchor_distances(model.norm(embedding), model.anchors[...])
        t_g = jnp.exp(geometric_correction(distances, 1.0))
        t_a = jnp.exp(model.attention(model.norm(embedding)))
        t = (c_g[:, None] * t_g + c_a[:, None] * t_a) / (c_g + c_a)[:, None]
        primary = jax.nn.softmax(logits)
        return jnp.log(of_primary[:, None] * primary + (1 - of_primary[:, None]) * t)

    def gradient(function):
        def loss(embedding, logits):
            return function(blueprint.build(params, stats), embedding, logits)[:, 0].sum()

        return jax.jit(jax.grad(loss, (0, 1)))(given_["embedding"], given_["logits"])

    def ours(model, embedding, logits):
        return model({"embedding": embedding, "logits": logits})["logits"]

    for mine, expected in zip(gradient(ours), gradient(final), strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-5)
    blueprint, params, stats = take_apart(part(correction=correction))
    assert np.abs(gradient(ours)[1] - gradient(final)[1]).max() > 1e-3


@pytest.mark.parametrize("scope", ["example", "batch"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_enormous_embeddings_are_survived(dtype, scope):
    """Of bfloat16, whose largest number is 3e38, with parameters of that type too."""
    make = Layers(nnx.Rngs(0), dtype, dtype)
    balancing = Reliability(
        FEATURES, CLASSES, anchors=3, normalise=False, scope=scope, epsilon=0.0, make=make
    )
    blueprint, params, stats = take_apart(balancing)
    assert all(value.dtype == dtype for value in params.values())
    given_ = {name: array.astype(dtype) for name, array in inputs().items()}
    given_["embedding"] = given_["embedding"].at[0].multiply(1e30).at[1].set(3e38)
    given_["logits"] = given_["logits"].at[1].multiply(1e30)

    def loss(params, given_):
        outputs = blueprint.build(params, stats)(given_)
        return jnp.mean(outputs["logits"]) + jnp.mean(outputs["anchor_distances"] ** 2), outputs

    gradients, outputs = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, given_)
    for name, array in outputs.items():
        assert np.isfinite(array.astype(jnp.float32)).all(), name
        assert name == "embedding" or array.dtype == jnp.float32
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert gradient.dtype == dtype and np.isfinite(gradient.astype(jnp.float32)).all(), path
    ordinary = run(balancing, {k: v[2:] for k, v in given_.items()})
    if scope == "example":  # the others are as they would be without them
        np.testing.assert_allclose(outputs["logits"][2:], ordinary["logits"], atol=1e-5)


def test_without_epsilon_two_uniform_distributions_share_alike():
    balancing = part(epsilon=0.0, correction="geometric")
    balancing.anchors[...] = jnp.zeros_like(balancing.anchors[...])
    blueprint, params, stats = take_apart(balancing)
    given_ = {**inputs(), "logits": jnp.zeros((BATCH, CLASSES))}

    def loss(params, given_):
        outputs = blueprint.build(params, stats)(given_)
        return outputs["logits"][:, 0].sum(), outputs

    gradients, outputs = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, given_)
    assert not outputs["confidence_primary"].any()
    assert not outputs["confidence_corrected"].any()
    np.testing.assert_allclose(jnp.exp(outputs["logits"]), 1 / CLASSES, rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))


def test_the_norm_of_the_compared_embedding():
    """Behind the standardisation with its scale, in training mode."""
    balancing = part()
    balancing.train()
    balancing.norm.scale[...] = jnp.full(FEATURES, 3.0)
    norms = run(balancing, inputs(batch=64))["embedding_norm"]
    np.testing.assert_allclose(np.mean(norms**2), 9 * FEATURES, rtol=1e-3)
    balancing.eval()
    assert "embedding_norm" not in run(balancing, inputs())


def test_attention_across_the_batch_wants_its_axis_while_training():
    """A wrong name is no reason to attend within each replica."""
    make = Layers(nnx.Rngs(0), axis_name="data")
    balancing = Reliability(FEATURES, CLASSES, scope="batch", normalise=False, make=make)
    balancing.eval()
    assert run(balancing, inputs())["logits"].shape == (BATCH, CLASSES)
    balancing.train()
    with pytest.raises(NameError, match="data"):
        balancing(inputs())


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"scope": "examples"}, "reliability.scope = 'examples'; did you mean 'example'"),
        ({"correction": "geometrc"}, "correction = 'geometrc'; did you mean 'geometric'"),
        ({"correction": None}, "reliability.correction = None; there are: attentive, both"),
        ({"anchors": 0, "correction": "geometric"}, "needs anchors"),
        ({"scope": "batch", "heads": 3}, "heads must divide 4"),
        ({"tokens": 64}, "tokens = 64: an embedding of 10 numbers"),
        ({"anchors": -1}, "anchors = -1; it must be a whole number of at least 0"),
        ({"anchors": 2.5}, "anchors = 2.5; it must be a whole number"),
        ({"anchors": True}, "anchors = True; it must be a whole number"),
        ({"heads": 0}, "heads = 0; it must be a whole number of at least 1"),
        ({"delta": 0.0}, "delta = 0.0; it must be a positive number"),
        ({"delta": float("inf")}, "delta = inf; it must be a positive number"),
        ({"temperature": "1"}, "temperature = '1'; it must be a positive number"),
        ({"anchor_scale": True}, "anchor_scale = True; it must be a positive number"),
        ({"epsilon": float("nan")}, "epsilon = nan; it must be 0 or a positive number"),
        ({"normalise": "no"}, "normalise = 'no'; it must be True or False"),
    ],
)
def test_settings_that_make_no_sense(settings_, message):
    with pytest.raises(ValueError, match=message):
        part(**settings_)
    part(tokens=64, scope="batch")  # where there are no tokens


def test_the_argument_of_the_models():
    make = Layers(nnx.Rngs(0))
    assert Reliability.of(None, FEATURES, CLASSES, make) is None
    assert Reliability.of({}, FEATURES, CLASSES, make).settings.anchors == 10
    assert Reliability.of({"anchors": 2}, FEATURES, CLASSES, make).settings.anchors == 2
    for given_ in ("yes", 5, ["anchors"]):
        with pytest.raises(ValueError, match=re.escape(f"reliability = {given_!r}; give None")):
            Reliability.of(given_, FEATURES, CLASSES, make)
    with pytest.raises(ValueError, match="no setting 'anchor'; did you mean 'anchors'"):
        Reliability.of({"anchor": 4}, FEATURES, CLASSES, make)
    with pytest.raises(ValueError, match="at least 2 classes"):
        Reliability.of({}, FEATURES, 0, make)


def test_a_section_of_a_config_and_the_argument_of_a_model():
    off, on = to_section(None), to_section({"anchors": 2})
    assert off["enabled"] is False and on["enabled"] is True
    assert off.keys() == on.keys() == {"enabled", *vars(ReliabilitySettings())}
    assert from_section(off) is None
    assert from_section(on) == vars(ReliabilitySettings(anchors=2))
    for given_ in (None, True, {"anchors": 4}, {"enabled": None}):
        with pytest.raises(ValueError, match="a section with enabled = True or False"):
            from_section(given_)
    with pytest.raises(ValueError, match="no setting 'anchor'"):
        from_section({"enabled": False, "anchor": 4})
