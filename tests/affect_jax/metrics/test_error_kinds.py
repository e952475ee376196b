"""Errors within and across coarse classes, and of two models, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affect_jax.metrics import error_kinds

# Coarse classes {a, b} and {c}.
COARSE = (0, 0, 1)
CONFUSION = np.array([[5, 2, 1], [3, 9, 0], [4, 0, 7]])


def test_errors_by_coarse_class():
    errors = error_kinds.coarse_errors(CONFUSION, COARSE)
    np.testing.assert_array_equal(errors, [[2 + 3, 1], [4, 0]])
    assert error_kinds.share_within(errors) == pytest.approx(5 / 10)
    # a has 3 errors and b 3, each with 1 sibling among the 2 wrong classes; c has none.
    chance = error_kinds.share_within_by_chance(CONFUSION, COARSE)
    assert chance == pytest.approx((3 / 2 + 3 / 2) / 10)


def test_without_errors_there_is_no_share():
    perfect = np.diag([3, 1, 2])
    assert not error_kinds.coarse_errors(perfect, COARSE).any()
    assert math.isnan(error_kinds.share_within(error_kinds.coarse_errors(perfect, COARSE)))
    assert math.isnan(error_kinds.share_within_by_chance(perfect, COARSE))
    labels = np.array([0, 2])
    assert math.isnan(error_kinds.share_of_errors_within(labels, labels, COARSE))


@given(st.integers(0, 10_000))
def test_both_ways_of_counting_agree(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, 7)
    labels, predictions = rng.integers(0, 7, (2, 60))
    confusion = np.zeros((7, 7), int)
    np.add.at(confusion, (labels, predictions), 1)
    errors = error_kinds.coarse_errors(confusion, coarse)
    assert errors.sum() == (labels != predictions).sum()
    share = error_kinds.share_of_errors_within(labels, predictions, coarse)
    assert share == pytest.approx(error_kinds.share_within(errors))


def test_outcomes_of_two_models():
    labels = np.array([0, 0, 0, 0, -1])
    found = error_kinds.outcomes(labels, np.array([0, 0, 1, 1, 0]), np.array([0, 1, 0, 2, 0]))
    assert tuple(found) == error_kinds.OUTCOMES
    rows = {name: np.flatnonzero(kind).tolist() for name, kind in found.items()}
    assert rows == {"first": [1], "second": [2], "neither": [3], "both": [0]}
