"""The head, the balancing part and the losses of ARBEx against the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from affect_jax.losses import reliability as reliability_lib
from affect_jax.losses import supervised
from affect_jax.models import reliability
from affect_jax.models.arbex import Head
from affect_jax.models.layers import Layers
from affect_jax.models.reliability import Reliability, anchor_distances, confidence
from affect_jax.models.reliability_attention import BatchAttention
from affect_jax.models.state import take_apart
from tests.golden import golden_data as golden

weights = golden.weights
# The official code divides by a float32 log(8) in float64 too: 3e-9 off in a confidence of which
# 1 % is left after 1 - H.
FLOAT32_LOG = 1e-6


def official(part, component, dtype):
    """The entries of a component, checked and as `dtype` arrays."""
    found = golden.manifest(part)["components"][component]
    shapes = {e["name"]: tuple(e["shape"]) for e in found["state_dict"]}
    state = {
        e["name"]: weights.tensor(
            found["prefix"] + e["name"], shapes[e["name"]], e["kind"], gain=found["gain"]
        )
        for e in found["state_dict"]
        if e["kind"] != "int"
    }
    assert weights.digest(state.values()) == found["state_sha256"]
    return {name: jnp.asarray(value, dtype) for name, value in state.items()}


def layers(dtype):
    return Layers(nnx.Rngs(0), dtype, dtype)


def fill_linear(layer, state, name):
    layer.kernel[...] = state[f"{name}.weight"].T
    layer.bias[...] = state[f"{name}.bias"]


def official_head(part, dtype):
    state = official(part, "head", dtype)
    head = Head(768, (384, 192, 96), 8, 0.0, layers(dtype))
    for i, (layer, norm) in enumerate(zip(head.hidden, head.norms, strict=True)):
        fill_linear(layer, state, f"net.{4 * i}")
        norm.scale[...] = state[f"net.{4 * i + 2}.weight"]
        norm.bias[...] = state[f"net.{4 * i + 2}.bias"]
        norm.mean[...] = state[f"net.{4 * i + 2}.running_mean"]
        norm.var[...] = state[f"net.{4 * i + 2}.running_var"]
    fill_linear(head.output, state, "net.12")
    return head


def fill_attention(attention, state):
    for layer, name in zip((attention.query, attention.key, attention.value), "QKV", strict=True):
        fill_linear(layer, state, name)
    attention.in_proj.kernel[...] = state["attn_fn.in_proj_weight"].T
    attention.in_proj.bias[...] = state["attn_fn.in_proj_bias"]
    fill_linear(attention.out, state, "attn_fn.out_proj")


def assert_same(part, output, got, dtype, relative=None, name=None):
    """Within 1e-5 (float32) or 1e-10 (float64) of the largest magnitude, unless `relative`."""
    recorded = golden.arrays(part)[f"out{dtype[-2:]}/{output}"]
    got = np.asarray(got)
    assert got.dtype == dtype and got.shape == recorded.shape, output
    tolerance = (relative or {"float32": 1e-5, "float64": 1e-10}[dtype]) * np.abs(recorded).max()
    np.testing.assert_allclose(got, recorded, rtol=0, atol=tolerance, err_msg=name or output)


def embeddings(dtype):
    return jnp.asarray(weights.small("arbex:embedding", (5, 768)).astype(np.float32), dtype)


@nnx.jit
def call(module, x):
    return module(x)


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
def test_head_in_both_modes(dtype):
    with golden.precision(dtype):
        head, x = official_head("arbex_heads", dtype), embeddings(dtype)
        head.eval()
        assert_same("arbex_heads", "head_logits_eval", call(head, x), dtype)
        head.train()
        # Batch statistics of 5 examples lose digits in float32.
        loose = 2e-5 if dtype == "float32" else None
        assert_same("arbex_heads", "head_logits_train_dropout0", call(head, x), dtype, loose)
        for i, norm in enumerate(head.norms):
            for stat, theirs in ((norm.mean, "mean"), (norm.var, "var")):
                name = f"head_net{4 * i + 2}_running_{theirs}_after"
                assert_same("arbex_heads", name, stat[...], dtype)


@pytest.mark.parametrize("dtype", golden.DTYPES)
@pytest.mark.parametrize("count", [1, 10])
def test_distances_to_anchors(count, dtype):
    with golden.precision(dtype):
        anchors = official("arbex_heads", f"anchors{count}", dtype)["anchors"]
        got = anchor_distances(embeddings(dtype), anchors)
        assert_same("arbex_heads", f"anchors{count}_distances", got, dtype)


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
@pytest.mark.parametrize(("per_class", "heads"), [(1, 1), (2, 4)])
def test_attention_across_the_batch(per_class, heads, dtype):
    name = f"attn_{per_class}_{heads}"
    with golden.precision(dtype):
        attention = BatchAttention(768, 8, per_class, heads, layers(dtype))
        fill_attention(attention, official("arbex_heads", name, dtype))
        x = embeddings(dtype)
        one_by_one = np.concatenate([call(attention, x[i : i + 1]) for i in range(5)])
        assert_same("arbex_heads", name, np.exp(call(attention, x)), dtype)
        assert_same("arbex_heads", f"{name}_first3", np.exp(call(attention, x[:3])), dtype)
        assert_same("arbex_heads", f"{name}_one_by_one", np.exp(one_by_one), dtype)


@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_confidence(dtype):
    with golden.precision(dtype):
        logits = weights.small("arbex:probability_logits", (5, 8)).astype(np.float32)
        log_probs = jax.nn.log_softmax(2 * jnp.asarray(logits, dtype))
        assert_same("arbex_heads", "probabilities", jnp.exp(log_probs), dtype)
        assert_same("arbex_heads", "confidence", confidence(log_probs), dtype, FLOAT32_LOG)


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
def test_losses_and_their_gradients(dtype):
    with golden.precision(dtype):
        recorded = {
            k.split("/")[1]: jnp.asarray(v)
            for k, v in golden.arrays("arbex_losses").items()
            if k.startswith(f"out{dtype[-2:]}/")
        }
        anchors, e, labels = (recorded[k] for k in ("anchors", "embeddings", "labels"))

        def check(output, got):
            assert_same("arbex_losses", output, got, dtype)

        def center(anchors, e, certainty):
            distances = anchor_distances(e, anchors)
            return reliability_lib.center_loss(
                distances, labels, 16, confidence=certainty[:, 0], variant="official"
            )

        assert_same("arbex_losses", "distances", anchor_distances(e, anchors), dtype)

        def anchor(anchors):
            return reliability_lib.anchor_loss(anchors, variant="official")

        value, gradient = jax.jit(jax.value_and_grad(anchor))(anchors)
        check("anchor_loss", value)
        check("anchor_loss_grad_anchors", gradient)
        gradients = jax.jit(jax.value_and_grad(center, (0, 1, 2)))
        value, (by_anchor, by_embedding, by_confidence) = gradients(
            anchors, e, recorded["confidence"]
        )
        check("center_loss", value)
        check("center_loss_grad_anchors", by_anchor)
        check("center_loss_grad_embeddings", by_embedding)
        check("center_loss_grad_confidence", by_confidence)
        for name, weighting in (("weighted", recorded["class_weights"]), ("unweighted", None)):
            value, gradient = jax.jit(jax.value_and_grad(supervised.softmax_cross_entropy))(
                recorded["logits"], labels, class_weights=weighting
            )
            check(f"dist_loss_{name}", value)
            check(f"dist_loss_{name}_grad_logits", gradient)


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
def test_one_step_of_label_correction(dtype):
    part = "arbex_balance"
    with golden.precision(dtype):
        rule = golden.manifest(part)
        head = official_head(part, dtype)
        head.eval()
        balancing = Reliability(
            768,
            8,
            normalise=False,
            anchors=1,
            delta=rule["delta"],
            scope="batch",
            heads=1,
            correction="trust",
            ramp_steps=1,
            temperature=rule["temperature"],
            epsilon=0.0,
            make=layers(dtype),
        )
        balancing.anchors[...] = official(part, "anchors1", dtype)["anchors"]
        fill_attention(balancing.attention, official(part, "attn_1_1", dtype))
        balancing.steps[...] = jnp.asarray(rule["trust"], dtype)
        both = nnx.Dict(head=head, balancing=balancing)
        blueprint, params, stats = take_apart(both)
        labels = jnp.asarray(golden.arrays(part)["out64/labels"])
        class_weights = golden.arrays(part)["out64/class_weights"]

        def run(e, params):
            model = blueprint.build(params, stats)
            outputs = model.balancing({"embedding": e, "logits": model.head(e)})
            ce = supervised.negative_log_likelihood(
                outputs["logits"], labels, class_weights=class_weights
            )
            mu = reliability_lib.anchor_loss(outputs["anchors"], variant="official")
            center = reliability_lib.center_loss(
                outputs["anchor_distances"],
                labels,
                768,
                confidence=outputs["confidence_primary"],
                variant="official",
            )
            loss = ce + outputs["trust"] * (mu + center)
            return loss, (outputs, {"ce": ce, "mu": mu, "center": center, "total": loss})

        e = weights.small("arbex:balance_embedding", (6, 768)).astype(np.float32)
        e = jnp.asarray(e, dtype)
        found = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(e, params)
        (_, (outputs, terms)), (by_embedding, by_param) = found
        gradients = {
            "embeddings": by_embedding[:, ::7],
            "anchors": by_param["balancing/anchors"][..., ::7],
            "attn_Q_weight": by_param["balancing/attention/query/kernel"].T[:, ::7],
            "attn_in_proj_weight": by_param["balancing/attention/in_proj/kernel"].T,
            "attn_in_proj_bias": by_param["balancing/attention/in_proj/bias"],
            "head_last_weight": by_param["head/output/kernel"].T,
        }
        loose = max({"float32": 1e-5, "float64": 0}[dtype], FLOAT32_LOG)
        geometric = reliability.geometric_correction(outputs["anchor_distances"], rule["delta"])
        assert_same(part, "prob_dist", outputs["primary"], dtype)
        assert_same(part, "distances", outputs["anchor_distances"], dtype)
        assert_same(part, "similarities", jnp.exp(geometric), dtype)
        assert_same(part, "correction", outputs["corrected"], dtype, loose)
        assert_same(part, "prob_dist_corrected", jnp.exp(outputs["logits"]), dtype, loose)
        recorded = golden.arrays(part)[f"out{dtype[-2:]}/confidence"]
        np.testing.assert_allclose(
            outputs["confidence_primary"][:, None], recorded, rtol=0, atol=1e-6
        )
        for name, value in terms.items():
            assert_same(part, f"loss_{name}", value, dtype, loose)
        for name, gradient in gradients.items():
            assert_same(part, f"grad_{name}", gradient, dtype, 10 * loose)
