"""Comparisons of rows: what is shown and drawn."""

import numpy as np

from affect_jax.report.comparison_table import Comparison, Layout
from affect_jax.report.figures import comparison as figures_lib


def test_a_curve_is_the_mean_of_the_runs_over_steps():
    runs = {0: {4: 0.2, 8: 0.4}, 1: {4: 0.4, 8: 0.8, 12: 0.9}}
    figure = figures_lib.curves_figure({"accuracy": {"row": runs}})
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[4, 0.3], [8, 0.6]])


def test_nothing_is_drawn_without_values():
    assert figures_lib.curves_figure({"accuracy": {"row": {0: {}}}}) is None
    assert figures_lib.rows_figure({"row": {"accuracy": []}}, "", {}) is None
    assert figures_lib.differences_figure({}, "row") is None
    some = {"accuracy": {"row": {0: {}}}, "loss": {"row": {0: {4: 1.0}}, "other": {}}}
    (axes,) = figures_lib.curves_figure(some).axes
    assert [line.get_label() for line in axes.lines] == ["row"]


def test_a_grid_shows_a_figure_that_is_no_column():
    grid = {"column": "nll", "corner": "", "across": ["a"], "lines": {"line": ["row"]}}
    compared = Comparison(Layout(columns=("accuracy",), grid=grid), {"row": {0: {"nll": 1.5}}})
    assert "1.500" in compared.text()
