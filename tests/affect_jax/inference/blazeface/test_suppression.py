import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.inference.blazeface import suppression
from affect_jax.inference.blazeface.network import NOTHING, Candidates


def candidates(*rows) -> Candidates:
    """Candidates of rows (left, top, right, bottom, score)."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    points = np.repeat(table[:, None, :2], 6, 1)
    return Candidates(table[:, :4], points, table[:, 4])


def test_overlaps():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], np.float32)
    np.testing.assert_allclose(suppression.overlaps(boxes[0], boxes), [1, 1 / 3, 0])


def test_a_cluster_becomes_its_weighted_mean_with_the_best_score():
    found = suppression.merged(candidates((0, 0, 10, 10, 0.9), (2, 0, 12, 10, 0.3)))
    np.testing.assert_allclose(found.boxes, [[0.5, 0, 10.5, 10]], rtol=1e-6)
    np.testing.assert_allclose(found.points[0, 0], [0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9])


def test_of_several_passes_the_best_of_each_face_stays():
    first = candidates((0, 0, 10, 10, 0.7), (50, 50, 60, 60, 0.8))
    second = candidates((1, 0, 11, 10, 0.9), (52, 52, 56, 56, 0.6))  # the last inside another
    found = suppression.distinct([first, second])
    np.testing.assert_allclose(found.scores, [0.9, 0.8])
    np.testing.assert_allclose(found.boxes, [[1, 0, 11, 10], [50, 50, 60, 60]])


def test_nothing_stays_nothing():
    for found in (suppression.merged(NOTHING), suppression.distinct([NOTHING, NOTHING])):
        assert found.boxes.shape == (0, 4)
        assert found.points.shape == (0, 6, 2)
        assert found.scores.shape == (0,)


@pytest.mark.parametrize("other", [(0, 0, 100, 100), (4, 4, 6, 6), (1, 1, 11, 11)])
def test_parts_and_surroundings_are_covered(other):
    assert suppression.covered(candidates((0, 0, 10, 10, 0.5)), candidates((*other, 0.9)))


def test_a_neighbour_is_not_covered():
    known = candidates((10, 0, 20, 10, 0.9))
    assert not suppression.covered(candidates((0, 0, 10, 10, 0.5)), known)
    assert not suppression.covered(candidates((0, 0, 10, 10, 0.5)), NOTHING)


boxes = st.tuples(
    *[st.integers(0, 40)] * 2, *[st.integers(1, 40)] * 2, st.floats(0.125, 1, width=32)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes, max_size=12))
def test_no_two_that_stay_are_one_face(rows):
    rows = [(x, y, x + w, y + h, score) for x, y, w, h, score in rows]
    found = suppression.distinct([candidates(*rows)])
    assert (np.diff(found.scores) <= 0).all()
    for i in range(1, len(found.scores)):
        before = Candidates(*(values[:i] for values in found))
        assert not suppression.covered(Candidates(*(v[i : i + 1] for v in found)), before)
    if rows:
        assert found.scores[0] == np.float32(max(row[-1] for row in rows))
