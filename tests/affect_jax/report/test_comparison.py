"""Comparisons of rows: what is shown and drawn."""

import numpy as np

from affect_jax.report.comparison import Comparison, Layout
from affect_jax.report.figures import comparison as figures_lib


def test_a_curve_is_the_mean_of_the_runs_over_steps():
    curves = {"accuracy": {"row": {0: {4: 0.2, 8: 0.4}, 1: {4: 0.4, 8: 0.8, 12: 0.9}}}}
    compared = Comparison(Layout(columns=("accuracy",)), {"row": {}}, curves)
    figure = figures_lib.curves_figure(compared.curves)
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[4, 0.3], [8, 0.6]])


def test_nothing_is_drawn_of_figures_that_are_none():
    curves = {"accuracy": {"row": {0: {}}}, "loss": {"row": {0: {4: 1.0}}, "other": {}}}
    compared = Comparison(Layout(columns=("accuracy",)), {"row": {}}, curves)
    assert compared.curves == {"loss": {"row": {0: {4: 1.0}}}}


def test_a_grid_shows_a_figure_that_is_no_column():
    grid = {"column": "nll", "corner": "", "across": ["a"], "lines": {"line": ["row"]}}
    compared = Comparison(Layout(columns=("accuracy",), grid=grid), {"row": {0: {"nll": 1.5}}})
    assert "1.500" in compared.text()
