"""Confusion matrices: cells, and titles that agree with the table."""

import numpy as np
import pytest

from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.report.figures import confusion
from data_pipelines.hierarchies import tree
from tests.affect_jax.label_trees import SIX


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


def draw_tree(**options):
    counts = np.arange(36).reshape(6, 6)  # all different: a wrong order shows
    model = ("", counts, {"accuracy": 0.5, "coarse_accuracy": 0.75, "errors_within_coarse": 0.5})
    return confusion.confusion_matrices([model], SIX.fine, hierarchy=SIX, **options), counts


def test_classes_are_ordered_and_framed_by_coarse_class():
    figure, counts = draw_tree()
    axes = figure.axes[0]
    order = [0, 2, 3, 1, 4, 5]
    names = [SIX.fine[i] for i in order]
    assert [t.get_text() for t in axes.get_xticklabels()] == names
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        f"{name}  ({counts[i].sum()})" for name, i in zip(names, order, strict=True)
    ]
    expected = (counts / counts.sum(1, keepdims=True))[np.ix_(order, order)]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    frames = [(*p.get_xy(), p.get_width(), p.get_height()) for p in axes.patches]
    assert frames == [(-0.5, -0.5, 2, 2), (1.5, 1.5, 1, 1), (2.5, 2.5, 3, 3)]
    top, right = axes.child_axes
    assert [t.get_text() for t in top.get_xticklabels()] == ["fear", "anger", "joy"]
    assert right.get_yticks().tolist() == [0.5, 2, 4]
    assert axes.get_title(loc="left") == "Accuracy 50.0%\ncoarse 75.0%, 50.0% of errors within"


def test_small_screens_name_the_coarse_classes_of_many():
    (figure, _) = draw_tree(narrow=True)
    assert len(figure.axes[0].get_xticklabels()) == 6 and len(figure.axes[0].child_axes) == 2
    fg = tree.load("fg_emotions")
    model = ("", np.eye(33, dtype=int), {"accuracy": 1.0})
    axes = confusion.confusion_matrices([model], fg.fine, hierarchy=fg, narrow=True).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(fg.coarse)
    assert axes.get_yticks().tolist() == [2, 8, 16, 22, 26.5, 31]
    assert not axes.child_axes and not axes.texts
