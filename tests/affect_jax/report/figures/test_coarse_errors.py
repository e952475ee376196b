"""Errors by coarse class: cells and totals."""

import numpy as np

from affect_jax.report.figures import coarse_errors as figures


def test_coarse_errors_leave_empty_cells_empty():
    figure = figures.coarse_errors([("m", np.array([[3, 1], [0, 0]]))], ["x", "y"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["3\n75%", "1\n25%"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x  (4)", "y  (0)"]
