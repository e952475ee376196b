"""Divergence from votes and true mixtures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.metrics.mixtures import MixtureStatistics

TRUE = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]], np.float32)
PREDICTED = np.array([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])


def measure(true, predicted, mask=None):
    batch = {"expression_probs": np.asarray(true, np.float32)}
    batch |= {} if mask is None else {"mask": np.asarray(mask)}
    with np.errstate(divide="ignore"):
        outputs = {"logits": np.log(np.asarray(predicted))}
    return MixtureStatistics().update(outputs, batch)


def test_the_right_values():
    figures = measure(TRUE, PREDICTED).compute()
    # ln 2 for each of the first two; the third is equal.
    assert figures["mixture_kl"] == pytest.approx(2 * np.log(2) / 3, abs=1e-7)
    # The first predicts class 2, which the mixture does not have.
    assert figures["mixture_accuracy"] == pytest.approx(2 / 3)


def test_votes_need_not_be_normalised():
    figures = measure([[3, 1, 0]], [[0.5, 0.25, 0.25]]).compute()
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.25)
    assert figures["mixture_kl"] == pytest.approx(expected)


def test_what_is_unknown_or_masked_counts_nowhere():
    true = np.concatenate([TRUE, [[np.nan] * 3, [np.nan, 0.5, 0.5], [0, 0, 0], [0, 1, 0]]])
    predicted = np.concatenate([PREDICTED, np.full((3, 3), np.nan), [[0.9, 0.1, 0.0]]])
    mask = [True] * 6 + [False]
    assert measure(true, predicted, mask).compute() == measure(TRUE, PREDICTED).compute()


def test_a_class_that_is_ruled_out():
    """Its logit is minus infinity: without weight it costs nothing, with weight everything."""
    assert measure([[0.5, 0.5, 0.0]], [[0.5, 0.5, 0.0]]).compute()["mixture_kl"] == 0
    assert measure([[0.5, 0.4, 0.1]], [[0.5, 0.5, 0.0]]).compute()["mixture_kl"] == np.inf


def test_a_prediction_that_is_no_number_cannot_improve_the_figure():
    figures = measure([[1, 0], [0, 1]], [[np.nan, 0.5], [0.1, 0.9]]).compute()
    assert np.isnan(figures["mixture_kl"]) and figures["mixture_accuracy"] == 0.5


def test_without_mixtures_or_logits_there_is_nothing():
    assert MixtureStatistics().update({"logits": np.zeros((2, 3))}, {}).compute() == {}
    assert MixtureStatistics().update({}, {"expression_probs": TRUE}).compute() == {}
    assert measure(np.full((2, 3), np.nan), np.ones((2, 3))).compute() == {}


@settings(derandomize=True, deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 30))
def test_it_is_at_least_zero_and_merges_exactly(seed, cut):
    rng = np.random.default_rng(seed)
    true, predicted = rng.dirichlet(np.full(5, 0.3), 30), rng.dirichlet(np.ones(5), 30)
    mask = rng.random(30) < 0.8
    whole = measure(true, predicted, mask)
    one = measure(true[:cut], predicted[:cut], mask[:cut])
    two = measure(true[cut:], predicted[cut:], mask[cut:])
    assert one.merge(two).compute() == pytest.approx(whole.compute(), abs=1e-12)
    assert whole.compute()["mixture_kl"] >= 0
    # The mixture itself is the best prediction.
    assert measure(true, true.astype(np.float32)).compute()["mixture_kl"] < 1e-7
    moved = MixtureStatistics().load_state(whole.state())
    assert moved.compute() == whole.compute() and whole.state().dtype == np.float64
