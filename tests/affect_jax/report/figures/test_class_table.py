"""Tables of classes: bold cells, unknown ones, lines below."""

import numpy as np

from affect_jax.report.figures import class_table


def test_the_best_of_a_row_is_bold_unless_all_are_equal():
    accuracy = np.array([[0.5, 0.75, np.nan], [0.25, 0.25, 0.25]])
    summary = [("mean", ["1", "2", "-"])]
    figure = class_table.class_table(["p", "q", "r"], 2, accuracy, ["a", "b"], [], summary)
    cells = [(text.get_text(), text.get_fontweight()) for text in figure.axes[0].texts]
    assert cells[:3] == [("50.00", "normal"), ("75.00", "bold"), ("-", "normal")]
    assert {weight for _, weight in cells[3:]} == {"normal"}
    assert [text.get_text() for text in figure.axes[1].texts] == ["1", "2", "-"]
