"""Confusion matrices: cells, and titles that agree with the table."""

import numpy as np
import pytest

from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.report.figures import confusion


def draw(true, predicted, min_count=1):
    statistics = ClassificationStatistics(3, min_count=min_count).update(np.eye(3)[predicted], true)
    model = ("", statistics.confusion, statistics.compute())
    return confusion.confusion_matrices([model], ["a", "b", "c"])


def test_confusion_matrix_counts():
    figure = draw(np.array([0, 0, 0, 1, -1]), np.array([0, 0, 1, 1, 0]))
    axes = figure.axes[0]
    np.testing.assert_allclose(
        axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]]
    )
    assert [t.get_text() for t in axes.texts] == ["67%", "2", "33%", "1", "100%", "1", "no images"]
    assert axes.get_title(loc="left") == (
        "Accuracy 75.0%, balanced 83.3%\n(over the 2 of 3 classes with enough images)"
    )
    assert [t.get_text() for t in axes.get_yticklabels()][:2] == ["a  (3)", "b  (1)"]


def test_confusion_matrix_balances_over_the_classes_that_the_table_counts():
    true, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    figure = draw(true, predicted, min_count=2)
    expected = ClassificationStatistics(3, min_count=2).update(np.eye(3)[predicted], true).compute()
    assert expected["balanced_accuracy"] == pytest.approx(2 / 3)
    title = figure.axes[0].get_title(loc="left")
    assert title == ("Accuracy 75.0%, balanced 66.7%\n(over the 1 of 3 classes with enough images)")
