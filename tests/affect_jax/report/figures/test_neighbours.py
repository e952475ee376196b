"""Nearest images: captions, frames, and which classes have bars."""

import numpy as np
import pytest

from affect_jax.report.figures import neighbours
from affect_jax.report.figures.faces import Face
from affect_jax.report.figures.style import png

BLANK = np.zeros((8, 8, 3), np.uint8)
NAMES = [f"class {i}" for i in range(33)]


def test_neighbours_show_the_true_class_among_the_largest_of_both_distributions():
    mixed, own = np.zeros(33), np.zeros(33)
    own[[3, 4, 5]], mixed[[6, 7]] = (0.6, 0.3, 0.1), (0.7, 0.3)
    near = [neighbours.Neighbour(9, BLANK, 2, 3, 0.25), neighbours.Neighbour(8, BLANK, -1, 4, 0.1)]
    rows = [
        neighbours.Neighbourhood(Face(1, BLANK, 2, ""), own, near, mixed),
        neighbours.Neighbourhood(Face(2, BLANK, -1, ""), own, near[:1], mixed),
    ]
    figure = neighbours.neighbours(rows, NAMES)
    face, first, second, bars = figure.axes[:4]
    assert face.get_title() == "example 1\nlabel class 2\npredicted class 3"
    assert first.get_title() == "25.0%\nlabel class 2\npredicted class 3"
    assert second.get_title() == "10.0%\nno label\npredicted class 4"
    # Framed: the neighbour with the face's label alone.
    assert [len(axes.patches) for axes in (first, second)] == [1, 0]
    shown = [label.get_text() for label in bars.get_yticklabels()]
    assert shown == ["class 6", "class 3", "class 4", "class 7", "class 2"]
    assert png(figure, dpi=20)
    with pytest.raises(ValueError, match="no face"):
        neighbours.neighbours([], NAMES)
