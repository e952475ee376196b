"""Cases: lines below the faces, names of models, kinds without a case."""

import numpy as np
import pytest

from affect_jax.report.figures import cases
from affect_jax.report.figures.faces import Face

BLANK = np.zeros((8, 8, 3), np.uint8)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_cases_name_models_once_a_row_and_shorten_long_names():
    case = cases.Case(Face(1, BLANK, 0, ""), "a (x)", [("within", "b (x)"), ("wrong", "c (y)")])
    name = "a very long name of a model"
    figure = cases.cases([("first", [case, case]), ("second", [])], ["m", name])
    left, right = figure.axes
    assert texts(left)[:3] == ["a (x)", "≈ b (x)", "✗ c (y)"]
    assert texts(left)[3:] == ["true class", "m", "a very lon…of a model"]
    assert texts(right) == texts(left)[:3]
    assert [text.get_text() for text in figure.texts] == ["first", "second"]
    with pytest.raises(ValueError, match="no face"):
        cases.cases([("first", [])], ["m", "n"])
