"""Tables of metrics; what importing the package pulls in."""

import math
import subprocess
import sys

import pytest

from affect_jax.runtime import results_table

PLAIN = {"accuracy": 0.5, "valence_ccc": 0.25, "nme": 0.04321, "loss": math.nan, "recall_sad": 1.0}


def test_table_down():
    table = results_table(
        {"plain": PLAIN, "flip-averaged": {"valence_ccc": 0.3}},
        references={"paper": {"accuracy": 0.62, "arousal_ccc": 0.65}},
        title="Test split",
    )
    assert table.splitlines() == [
        "Test split",
        "",
        "                                plain   flip-averaged  | paper",
        "--------------------------------------------------------------",
        "Expression                                             |",
        "  accuracy                      0.500               -  | 0.620",
        "Valence                                                |",
        "  CCC                           0.250           0.300  |     -",
        "Landmarks                                              |",
        "  error / eye distance (NME)   0.0432               -  |     -",
        "Objective                                              |",
        "  loss                              -               -  |     -",
        "Recall by class                                        |",
        "  sad                           1.000               -  |     -",
    ]


def test_table_across():
    table = results_table(
        {"emofan": PLAIN, "resnet18": {}},
        references={"paper": {"accuracy": 0.62}},
        metrics=["accuracy", "valence_ccc"],
        layout="across",
    )
    assert table.splitlines() == [
        "           accuracy   Valence CCC",
        "---------------------------------",
        "emofan        0.500         0.250",
        "resnet18          -             -",
        "---------------------------------",
        "paper         0.620             -",
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"results": {}}, "no results"),
        ({"results": {"a": {}}, "layout": "up"}, "layout 'up'"),
        ({"results": {"a": {}}, "references": {"a": {}}}, "both results and references"),
    ],
)
def test_tables_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        results_table(**arguments)


def test_importing_is_cheap():
    code = (
        "import sys, affect_jax.runtime, affect_jax.report; "
        "print([m for m in ('matplotlib', 'tqdm', 'tensorboardX', 'google.protobuf') "
        "if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
