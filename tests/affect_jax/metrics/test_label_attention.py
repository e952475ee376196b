"""Attention between labels by their place in the tree."""

import numpy as np
import pytest

from affect_jax.metrics.label_attention import KINDS, attention_shares
from data_pipelines.hierarchies.tree import Hierarchy, load

TREE = Hierarchy("t", ("a", "b", "c"), ("x", "y"), (0, 0, 1))
# Of a, b and c to a, b, c, x and y; the rows of x and y do not count.
WEIGHTS = np.array(
    [
        [0.5, 0.1, 0.1, 0.2, 0.1],
        [0.3, 0.3, 0.1, 0.3, 0.0],
        [0.0, 0.1, 0.4, 0.1, 0.4],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


def test_shares_by_hand():
    found = attention_shares(WEIGHTS, TREE)
    shares = {kind: own["share"] for kind, own in found.items()}
    expected = {"itself": 1.2, "parent": 0.9, "siblings": 0.4, "others": 0.5}
    assert shares == pytest.approx({kind: value / 3 for kind, value in expected.items()})
    uniform = {kind: own["uniform"] for kind, own in found.items()}
    # Each of 5 labels: itself, the parent, a sibling of two of the three, and the rest.
    expected = {"itself": 1, "parent": 1, "siblings": 2 / 3, "others": 3 - 2 / 3}
    assert uniform == pytest.approx({kind: value / 5 for kind, value in expected.items()})


def test_labels_without_coarse_ones_have_no_parent():
    found = attention_shares(np.full((3, 3), 1 / 3), TREE)
    assert found["parent"] == {"share": 0.0, "uniform": 0.0}
    for own in found.values():
        assert own["share"] == pytest.approx(own["uniform"])


def test_shares_of_equal_weights_in_the_real_tree():
    tree = load("fg_emotions")
    found = attention_shares(np.full((39, 39), 1 / 39), tree)
    assert tuple(found) == KINDS
    # Coarse classes of 5, 7, 9, 3, 6 and 3.
    siblings = sum(n * (n - 1) for n in (5, 7, 9, 3, 6, 3)) / 33
    assert found["siblings"]["share"] == pytest.approx(siblings / 39)
    assert sum(own["share"] for own in found.values()) == pytest.approx(1)


def test_other_numbers_of_labels_are_refused():
    with pytest.raises(ValueError, match="4 labels, but the tree has 3 fine and 2 coarse"):
        attention_shares(np.eye(4), TREE)
