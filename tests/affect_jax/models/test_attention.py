"""Attention: what it computes, and the branch of cuDNN, which a CPU sees through a stand-in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax import models
from affect_jax.models import attention
from affect_jax.models.state import take_apart

PLAIN = jax.nn.dot_product_attention


def heads(tokens, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((2, tokens, 3, 8)).astype(dtype)


@pytest.fixture
def cudnn(monkeypatch):
    """Stands in for cuDNN in training: refuses odd numbers of tokens, biases and masks. The list
    holds the tokens of the queries and keys of every call."""
    calls = []

    def refusing(q, k, v, bias=None, mask=None, *, key_value_seq_lengths=None, implementation):
        assert implementation == "cudnn"
        if bias is not None or mask is not None or q.shape[1] % 2 or k.shape[1] % 2:
            raise NotImplementedError(f"Unsupported sequence length Q {q.shape[1]}")
        calls.append((q.shape[1], k.shape[1]))
        return PLAIN(q, k, v, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", refusing)
    monkeypatch.setattr(attention, "serves_cudnn", lambda *_: True)
    return calls


def by_hand(q, k, v, bias=0.0, largest=np.inf):
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]) + bias
    scores = np.clip(scores, -largest, largest)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", shares, v), shares


def test_attention_by_hand():
    q, k, v = heads(5), heads(7, 1), heads(7, 2)
    bias = np.random.default_rng(3).standard_normal((3, 5, 7))
    weights = []
    with jax.enable_x64(True):
        plain = attention.attend(q, k, v, weights=weights)
        biased = attention.attend(q, k, v, bias=bias)
        cut = attention.attend(q, k, v, largest=0.1)
    expected, shares = by_hand(q, k, v)
    np.testing.assert_allclose(plain, expected, rtol=1e-12)
    np.testing.assert_allclose(weights[0], shares, rtol=1e-12)
    np.testing.assert_allclose(biased, by_hand(q, k, v, bias)[0], rtol=1e-12)
    np.testing.assert_allclose(cut, by_hand(q, k, v, largest=0.1)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("queries", "keys", "padded"), [(5, 5, (8, 8)), (8, 8, (8, 8)), (1, 11, (8, 16))]
)
def test_cudnn_sees_multiples_of_8_and_the_result_is_the_same(queries, keys, padded, cudnn):
    q, k, v = heads(queries), heads(keys, 1), heads(keys, 2)
    weights = np.random.default_rng(4).standard_normal(q.shape)

    def loss(arrays, implementation):
        return jnp.sum(attention.attend(*arrays, implementation=implementation) * weights)

    with jax.enable_x64(True):
        found, gradients = jax.value_and_grad(loss)((q, k, v), "auto")
        expected, wanted = jax.value_and_grad(loss)((q, k, v), "xla")
    assert cudnn == [padded]
    # The stand-in takes its softmax in float32, whatever the inputs are.
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for ours, theirs in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [None, 4])
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_equal_those_that_jax_derives(biased, length):
    q, k, v = heads(5), heads(7, 1), heads(7, 2)
    bias = np.random.default_rng(3).standard_normal((3, 5, 7)) if biased else np.zeros((3, 5, 7))
    seen = np.where(np.arange(7) < (length or 7), 0.0, -np.inf)

    def plainly(q, k, v, bias):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8) + bias + seen
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)

    def ours(q, k, v, bias):
        return attention.attend(q, k, v, bias=bias if biased else None, length=length)

    with jax.enable_x64(True):
        found, wanted = (
            jax.value_and_grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1, 2, 3))(q, k, v, bias)
            for f in (ours, plainly)
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13),
        (found[0], found[1][: 3 + biased]),
        (wanted[0], wanted[1][: 3 + biased]),
    )


@pytest.mark.parametrize("weights", [None, []])
def test_clipped_scores_of_keys_beyond_the_length_do_not_count(weights):
    q, k, v = heads(5), heads(8, 1), heads(8, 2)
    with jax.enable_x64(True):
        cut = attention.attend(q, k, v, largest=1.0, length=4, weights=weights)
    np.testing.assert_allclose(cut, by_hand(q, k[:, :4], v[:, :4], largest=1.0)[0], rtol=1e-12)


def test_gradients_in_bfloat16_are_as_exact_as_their_numbers():
    """Values and gradients with a common part, which has to cancel."""
    shapes = [np.random.default_rng(seed).standard_normal((4, 96, 2, 32)) for seed in range(4)]
    q, k, v, g = (jnp.asarray(x, jnp.bfloat16) for x in shapes)
    v, g = v + 4, g + 1
    bias = jnp.asarray(np.random.default_rng(5).standard_normal((2, 96, 96)), jnp.float32)

    def gradients(*arrays, dtype):
        given = [x.astype(dtype) for x in (*arrays, g)]
        found = lambda *a: attention.attend(*a[:3], bias=a[3])  # noqa: E731
        return jax.vjp(found, *given[:3], bias)[1](given[3])

    narrow = jax.jit(lambda *a: gradients(*a, dtype=jnp.bfloat16))(q, k, v)
    wide = jax.jit(lambda *a: gradients(*a, dtype=jnp.float32))(q, k, v)
    for ours, exact in zip(narrow, wide, strict=True):
        error = np.linalg.norm(np.float32(ours) - np.float32(exact)) / np.linalg.norm(exact)
        assert error < 4e-3


def test_the_backward_pass_keeps_no_scores_in_float32():
    q, k, v = (heads(40, seed, np.float32).astype(jnp.bfloat16) for seed in range(3))
    pulled = jax.eval_shape(lambda *a: jax.vjp(attention.attend, *a)[1], q, k, v)
    wide = [x.shape for x in jax.tree.leaves(pulled) if x.dtype == jnp.float32]
    assert (2, 3, 40, 40) in [x.shape for x in jax.tree.leaves(pulled)]
    assert all(shape[-2:] != (40, 40) for shape in wide)


def test_what_the_fused_kernel_cannot_do_is_left_to_xla(cudnn):
    q, k, v = (heads(*x, np.float32) for x in ((5, 0), (7, 1), (7, 2)))
    attention.attend(q, k, v, bias=np.zeros((3, 5, 7), np.float32))
    attention.attend(q, k, v, largest=1.0)
    attention.attend(q, k, v, weights=[])
    assert not cudnn


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_ti16", {"depth": 1, "image_size": 32}),
        ("poster_v2_tiny", {"vit_depth": 1}),
        # The same attention as POSTER++: a twin.
        pytest.param("arbex_tiny", {"reliability": {"anchors": 2}}, marks=pytest.mark.slow),
    ],
)
def test_models_train_where_cudnn_refuses_odd_numbers_of_tokens(
    name, arguments, cudnn, monkeypatch
):
    """Gradients of the whole model, by the branch of cuDNN and without it."""
    model = models.create(name, n_expression=3, **arguments)
    model.eval()
    blueprint, params, stats = take_apart(model)
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)

    def gradients():
        def loss(params):
            return jnp.sum(jnp.square(blueprint.build(params, stats)(images)["logits"]))

        return jax.jit(jax.grad(loss))(params)

    fused = gradients()
    assert cudnn and all(tokens % 8 == 0 for call in cudnn for tokens in call)
    calls = len(cudnn)
    monkeypatch.setattr(attention, "serves_cudnn", lambda *_: False)
    plain = gradients()
    assert len(cudnn) == calls and fused.keys() == plain.keys()
    for path, value in plain.items():
        scale = max(float(jnp.abs(value).max()), 1e-3)
        np.testing.assert_allclose(fused[path] / scale, value / scale, atol=2e-4, err_msg=path)


@pytest.mark.parametrize(
    ("capability", "dtype", "features", "serves"),
    [
        ("9.0", "bfloat16", 64, True),
        ("8.0", "float16", 96, True),
        (None, "bfloat16", 64, True),
        ("7.5", "bfloat16", 64, False),
        ("gfx90a", "bfloat16", 64, False),
        ("9.0", "float32", 64, False),
        ("9.0", "bfloat16", 20, False),
        ("9.0", "bfloat16", 256, False),
    ],
)
def test_which_gpus_and_heads_cudnn_serves(capability, dtype, features, serves, monkeypatch):
    class GPU:
        pass

    if capability:
        GPU.compute_capability = capability
    assert not attention.serves_cudnn("bfloat16", 64)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [GPU()])
    assert attention.serves_cudnn(dtype, features) is serves
