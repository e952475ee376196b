import json
import pathlib

import numpy as np
import pytest

from data_pipelines.protocols import cleaning
from data_pipelines.schema import DataError

GOLDEN = pathlib.Path(__file__).parents[2] / "data" / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "cleaning.npz") as file:
        return dict(file)


def test_the_rule_keeps_what_the_official_code_keeps(golden):
    kept = cleaning.keep(golden["expression"], golden["valence"], golden["arousal"])
    np.testing.assert_array_equal(kept, golden["keep8"])
    # The classes of `affectnet5`.
    five = np.isin(golden["expression"], (0, 1, 2, 3, 6))
    np.testing.assert_array_equal(five, golden["keep5_uncleaned"])
    np.testing.assert_array_equal(kept & five, golden["keep5"])
    counts = json.loads((GOLDEN / "cleaning.json").read_text())["counts"]["keep5"]["per_class"]
    kept_five = np.bincount(golden["expression"][kept & five], minlength=7)[[0, 1, 2, 3, 6]]
    assert {str(i): int(n) for i, n in enumerate(kept_five)} == counts


def test_unknown_affect_is_never_kept():
    label = np.array([0, 1, 1])
    assert not cleaning.keep(label, np.array([np.nan, -2, 0.9]), np.array([0, 0.5, -2])).any()


def test_agrees_speaks_the_class_names_of_the_source():
    va = np.array([[0.8, 0.1], [0.8, 0.1], [0.8, 0.1]], np.float32)
    labels = np.array([0, 1, -1])
    kept = cleaning.agrees(("sadness", "happiness"), labels, va)
    np.testing.assert_array_equal(kept, [False, True, False])
    with pytest.raises(DataError, match="other"):
        cleaning.agrees(("happy", "other"), labels, va)
