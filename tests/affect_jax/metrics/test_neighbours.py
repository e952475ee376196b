"""The nearest images of a row of weights."""

import numpy as np

from affect_jax.metrics.neighbours import nearest


def test_the_largest_allowed_weights_come_first():
    weights = np.array([[0.1, 0.6, 0.3, 0.0], [0.4, 0.0, 0.2, 0.4]])
    allowed = np.array([[True, False, True, True], [False, True, True, True]])
    np.testing.assert_array_equal(nearest(weights, allowed, 2), [[2, 0], [3, 2]])
    # A weight of 0 is allowed; what is not allowed never is among them.
    np.testing.assert_array_equal(nearest(weights, allowed, 9), [[2, 0, 3], [3, 2, 1]])


def test_rows_without_enough_images_shorten_all():
    allowed = np.array([[True, True], [True, False]])
    assert nearest(np.ones((2, 2)), allowed, 2).tolist() == [[0], [0]]
    assert nearest(np.ones((1, 1)), np.zeros((1, 1), bool), 5).shape == (1, 0)
