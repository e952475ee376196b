"""Cluster indices by hand and against scikit-learn; t-SNE where it is installed."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affect_jax.errors import UserError
from affect_jax.metrics import clusters


def test_two_classes_by_hand():
    # Centres (0, 0) and (10, 0); every point is 1 from its own.
    points = np.array([[-1, 0], [1, 0], [9, 0], [11, 0], [50, 50]], float)
    labels = np.array([0, 0, 3, 3, -1])
    assert clusters.davies_bouldin(points, labels) == pytest.approx(0.2)
    # Between: 4 points 5 from the middle, 1 degree of freedom; within: 4 over 2.
    assert clusters.calinski_harabasz(points, labels) == pytest.approx(100 / 2)


def test_degenerate_classes():
    same = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert clusters.davies_bouldin(same, np.array([0, 0, 1, 1])) == 0.0
    assert clusters.calinski_harabasz(same, np.array([0, 0, 1, 1])) == float("inf")
    assert clusters.davies_bouldin(same, np.array([0, 1, 0, 1])) == float("inf")
    for function in (clusters.davies_bouldin, clusters.calinski_harabasz):
        with pytest.raises(ValueError, match="at least 2 classes"):
            function(same, np.array([0, 0, 0, -1]))
        with pytest.raises(ValueError, match="more points than classes"):
            function(same, np.arange(4))


def test_distances_within_and_between_coarse_classes_by_hand():
    # Centres at 0, 2, 10 and 14; the coarse classes are {0, 1} and {2, 3}. The unlabelled point and
    # the number of points of a class do not matter.
    points = np.array([[-1.0], [1.0], [2.0], [10.0], [14.0], [14.0], [99.0]])
    labels = np.array([0, 0, 1, 2, 3, 3, -1])
    found = clusters.coarse_distances(points, labels, [0, 0, 1, 1])
    assert found.within == pytest.approx((2 + 4) / 2)
    assert found.between == pytest.approx((10 + 14 + 8 + 12) / 4)
    assert found.ratio == pytest.approx(3 / 11)


def test_coarse_classes_without_pairs_have_no_distance():
    points, labels = np.arange(6.0)[:, None], np.array([0, 0, 1, 1, 4, 4])
    single = clusters.coarse_distances(points, labels, [0, 1, 9, 9, 2])
    assert np.isnan(single.within) and single.between > 0 and np.isnan(single.ratio)
    one = clusters.coarse_distances(points, labels, [0] * 5)
    assert np.isnan(one.between) and np.isnan(one.ratio) and one.within > 0
    same = clusters.coarse_distances(np.zeros((6, 2)), labels, [0, 0, 9, 9, 2])
    assert same.within == same.between == 0 and np.isnan(same.ratio)
    with pytest.raises(ValueError, match="at least 2 classes"):
        clusters.coarse_distances(points, np.array([0, 0, 0, 0, -1, -1]), [0, 1])


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_the_ratio_of_distances_does_not_change_with_scale_and_place(seed, scale, shift):
    rng = np.random.default_rng(seed)
    labels, coarse = np.repeat(np.arange(6), 4), rng.permutation([0, 0, 0, 1, 1, 2])
    points = rng.normal(size=(24, 3))
    ratio = clusters.coarse_distances(points, labels, coarse).ratio
    moved = clusters.coarse_distances(scale * points + shift, labels, coarse).ratio
    assert moved == pytest.approx(ratio, rel=1e-6)


def test_equal_to_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 200)
    points = rng.normal(size=(200, 7)) + 0.7 * labels[:, None]
    assert clusters.davies_bouldin(points, labels) == pytest.approx(
        metrics.davies_bouldin_score(points, labels), rel=1e-10
    )
    assert clusters.calinski_harabasz(points, labels) == pytest.approx(
        metrics.calinski_harabasz_score(points, labels), rel=1e-10
    )


def test_sample_takes_labelled_rows_once():
    labels = np.array([0, -1, 1, 1, 0, -1, 2])
    np.testing.assert_array_equal(clusters.sample(labels, 10), [0, 2, 3, 4, 6])
    some = clusters.sample(labels, 3)
    assert len(set(some)) == 3 and (labels[some] >= 0).all()
    np.testing.assert_array_equal(some, clusters.sample(labels, 3))


def test_tsne_keeps_far_groups_apart():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 15)
    points = rng.normal(size=(30, 5)) + 100.0 * labels[:, None]
    places = clusters.tsne(points)
    assert places.shape == (30, 2)
    nearest = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(30)
    np.testing.assert_array_equal(labels[nearest.argmin(axis=1)], labels)
    np.testing.assert_array_equal(places, clusters.tsne(points))


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match=r"affect_jax\[analysis\]"):
        clusters.tsne(np.zeros((10, 2)))
