"""Tables of metrics: fixed width, Markdown, numbers and labels."""

import math

import pytest

from affect_jax.runtime import results_table, tables

PLAIN = {"accuracy": 0.5, "valence_ccc": 0.25, "nme": 0.04321, "loss": math.nan, "recall_sad": 1.0}


def test_table_in_fixed_width():
    table = results_table(
        {"plain": PLAIN, "flip-averaged": {"valence_ccc": 0.3}}, title="Test split"
    )
    assert table.splitlines() == [
        "Test split",
        "",
        "                                plain   flip-averaged",
        "-----------------------------------------------------",
        "Expression",
        "  accuracy                      0.500               -",
        "Valence",
        "  CCC                           0.250           0.300",
        "Landmarks",
        "  error / eye distance (NME)   0.0432               -",
        "Objective",
        "  loss                              -               -",
        "Recall by class",
        "  sad                           1.000               -",
    ]


def test_table_in_markdown():
    table = results_table({"a|b": {"accuracy": 0.5, "nll": 1.0}}, markdown=True, title="T")
    assert table.splitlines() == [
        "**T**",
        "",
        "|  | a\\|b |",
        "|---|---:|",
        "| **Expression** |  |",
        "| accuracy ↑ | 0.500 |",
        "| negative log-likelihood ↓ | 1.000 |",
    ]


def test_a_standard_deviation_stands_next_to_its_mean():
    spread = {"accuracy": 0.5, "accuracy_sd": 0.0123, "nll_sd": 0.1, "nll": 1.0}
    table = results_table({"bank": {"accuracy": 0.25, "nll": 2.0}, "batch": spread})
    assert table.splitlines()[2:] == [
        "Expression",
        "  accuracy                  0.250   0.500 ± 0.012",
        "  negative log-likelihood   2.000   1.000 ± 0.100",
    ]


def test_a_table_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no results"):
        results_table({})


def test_numbers_and_labels_of_columns():
    assert tables.number("validation/nme", 0.01234, sign=True) == "+0.0123"
    assert tables.number("nme_auc", 0.5) == "0.500" and tables.number("nll", 12345.6) == "1.235e+04"
    assert tables.number("classes_counted", 7.0) == "7" and tables.number("loss", None) == "-"
    assert tables.label("validation/valence_ccc") == "validation valence CCC ↑"
