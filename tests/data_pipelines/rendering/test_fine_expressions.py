"""Fine expressions: where they lie, who their neighbours are, and what a mixture shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.hierarchies import tree
from data_pipelines.rendering import expressions
from data_pipelines.rendering import fine_expressions as fine

COARSE = np.array(fine.COARSE_OF)
SAME = COARSE[:, None] == COARSE
OTHERS = ~np.eye(33, dtype=bool)


def row(name):
    return fine.CLASS_NAMES.index(name)


def test_the_classes_are_those_of_fg_emotions():
    published = tree.load("fg_emotions")
    assert published.fine == fine.CLASS_NAMES
    assert published.coarse == fine.COARSE_NAMES and published.coarse_of == fine.COARSE_OF
    assert np.bincount(COARSE).tolist() == [5, 7, 9, 3, 6, 3]
    assert fine.COARSE_NAMES[COARSE[row("lust")]] == "love"


def test_coarse_expressions_lie_farther_apart_than_their_classes():
    distances = fine.distances()
    within, between = distances[SAME & OTHERS], distances[~SAME]
    assert between.mean() > 1.7 * within.mean()
    # The nearest class of each class belongs to its coarse expression.
    nearest = np.where(OTHERS, distances, np.inf).argmin(axis=1)
    assert (COARSE[nearest] == COARSE).all()
    # A class is nearer to the mean of the others of its coarse expression than to any other mean.
    flat = fine.positions(0).reshape(33, -1)
    for k in range(33):
        means = [flat[(c == COARSE) & OTHERS[k]].mean(axis=0) for c in range(6)]
        assert np.linalg.norm(flat[k] - means, axis=1).argmin() == COARSE[k], fine.CLASS_NAMES[k]


def test_no_two_classes_coincide():
    assert fine.distances()[OTHERS].min() > 0.5
    affect = fine.circumplex()
    assert np.abs(affect[:, None] - affect)[OTHERS].max(axis=1).min() > 0.04


def test_strengths_of_units_are_possible():
    levels = fine.positions(0)
    assert levels.shape == (33, len(expressions.ACTION_UNITS) + 3, 2)
    assert levels.min() == 0 and levels.max() <= 1.2
    assert np.abs(fine.circumplex()).max() <= 1


def test_contempt_alone_is_one_sided():
    left, right = fine.positions(0), fine.positions(1)
    one_sided = np.abs(left[..., 0] - left[..., 1]).max(axis=1)
    assert one_sided.argmax() == row("contempt")
    anger = SAME[row("contempt")]
    assert (one_sided[~anger] == 0).all()
    np.testing.assert_array_equal(left, right[..., ::-1])


@pytest.mark.parametrize(
    ("name", "degrees"),
    [
        ("cheerful", 7.8),
        ("enthrall", 24.9),
        ("thrill", 48.6),
        ("astonish", 69.8),
        ("suffering", 188.7),
        ("sorrow", 207.5),
        ("relief", 316.2),
        ("pleasure", 353.2),
    ],
)
def test_positions_on_the_circumplex_that_are_published(name, degrees):
    """Russell (1980) gives the angles of the adjectives that the module names."""
    valence, arousal = fine.circumplex()[row(name)]
    assert np.degrees(np.arctan2(arousal, valence)) % 360 == pytest.approx(degrees, abs=0.6)


def test_poles():
    valence = fine.circumplex()[:, 0]
    assert (valence[COARSE < 3] < -0.2).all() and (valence[COARSE >= 3] > 0.1).all()


def test_neighbours():
    distances, found = fine.distances(), fine.neighbours()
    np.testing.assert_array_equal(distances, distances.T)
    for k, (first, second, outside) in enumerate(found):
        assert len({k, first, second, outside}) == 4
        assert COARSE[first] == COARSE[second] == COARSE[k] != COARSE[outside]
        assert distances[k, first] <= distances[k, second]
        farther = np.flatnonzero(SAME[k] & (np.arange(33) != k) & (np.arange(33) != first))
        assert distances[k, second] == distances[k, farther].min()
        assert distances[k, outside] == distances[k, ~SAME[k]].min()
    assert fine.CLASS_NAMES[found[row("panic"), 0]] == "terror"


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 32), *[st.floats(1e-9, 1, exclude_max=True)] * 3),
        min_size=1,
        max_size=20,
    ),
    st.floats(0, 1),
)
def test_a_mixture_sums_to_one_and_its_class_weighs_most(rows, ambiguity):
    classes = np.array([r[0] for r in rows])
    mixed = fine.mixtures(classes, np.array([r[1:] for r in rows]), ambiguity)
    assert (mixed.weights >= 0).all()
    np.testing.assert_allclose(mixed.weights.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(mixed.dense().sum(axis=1), 1, atol=2e-7)
    assert mixed.dense().dtype == np.float32
    np.testing.assert_array_equal(mixed.dense().argmax(axis=1), classes)
    assert (mixed.weights[:, 0] >= 1 - 0.6 * ambiguity).all()


def test_a_mixture_by_hand():
    k = row("anxiety")
    first, second, outside = fine.neighbours()[k]
    classes, u = np.array([k, k]), np.array([[0.25, 0.5, 0.9], [0.25, 0.5, 0.05]])
    mixed = fine.mixtures(classes, u, 0.5)
    # The neighbours share 0.6 * 0.5 * sqrt(0.25), of which the nearest gets a half.
    expected = np.zeros((2, 33), np.float32)
    expected[:, k], expected[:, first], expected[0, second], expected[1, outside] = (
        0.85,
        0.075,
        0.075,
        0.075,
    )
    np.testing.assert_allclose(mixed.dense(), expected, atol=1e-7)
    assert mixed.draw(np.array([0.84, 0.86])).tolist() == [k, first]
    assert mixed.draw(np.array([0.93, 0.93])).tolist() == [second, outside]
    levels, affect = mixed.of(0).shown(0)
    weights = expected[0].astype(float)
    np.testing.assert_allclose(
        levels, np.einsum("k,kuh->uh", weights, fine.positions(0)), atol=1e-7
    )
    np.testing.assert_allclose(affect, weights @ fine.circumplex(), atol=1e-7)


def test_without_ambiguity_a_face_shows_one_class():
    classes = np.arange(33)
    mixed = fine.mixtures(classes, np.random.default_rng(0).random((33, 3)), 0.0)
    np.testing.assert_array_equal(mixed.dense(), np.eye(33))
    np.testing.assert_array_equal(mixed.of(7).shown(1)[0], fine.positions(1)[7])
    np.testing.assert_array_equal(mixed.draw(np.full(33, 1 - 1e-12)), classes)
