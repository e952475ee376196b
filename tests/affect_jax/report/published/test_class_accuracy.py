"""Table 1 of the RALD paper: its classes, and both kinds of mean."""

import numpy as np
import pytest

from affect_jax.report.published.class_accuracy import fg_emotions
from data_pipelines.hierarchies.tree import load


def test_the_classes_are_those_of_the_tree():
    assert fg_emotions().classes == load("fg_emotions").fine
    assert fg_emotions().accuracy.shape == (33, 9)


def test_means_of_the_columns():
    table = fg_emotions()
    means = dict(zip(table.models, 100 * table.accuracy.mean(axis=0), strict=True))
    printed = dict(zip(table.models, 100 * table.printed_mean, strict=True))
    differ = {"ResNet-18": (91.76, 91.91), "R18+R3HO": (94.92, 95.83)}
    for name, mean in means.items():
        computed, shown = differ.get(name, (printed[name], printed[name]))
        assert mean == pytest.approx(computed, abs=0.005)
        assert printed[name] == pytest.approx(shown)


def test_single_figures_in_another_order():
    table = fg_emotions()
    rows = table.rows_of(table.classes[::-1])
    assert rows == list(range(32, -1, -1))
    found = table.accuracy[rows][:, table.models.index("RALD")]
    assert found[[0, 9, 32]] == pytest.approx([0.9615, 0.9091, 0.9756])  # lust, surprise, anxiety
    speed = dict(zip(table.models, table.images_per_second, strict=True))
    assert speed["RALD"] == 1291 and np.isnan(speed["MSAU-Net"])


def test_other_classes_have_no_rows():
    table = fg_emotions()
    assert table.rows_of(table.classes[:-1]) is None
    assert table.rows_of((*table.classes[:-1], "joy")) is None
    assert table.rows_of(tuple(name.upper() for name in table.classes)) == list(range(33))
