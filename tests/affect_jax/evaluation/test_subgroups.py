"""Subgroups of stored predictions, against counts by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affect_jax.evaluation import predictions, subgroups

CLASSES = ("a", "b")


def stored(labels, guesses, codes, attributes, **more):
    outputs = {
        "index": np.arange(len(labels)),
        "expression": np.array(labels, np.int32),
        "logits": np.eye(2)[np.array(guesses)] * 4,
        "attributes": np.array(codes, np.int32).reshape(len(labels), -1),
        **more,
    }
    return predictions.gather(outputs, CLASSES, ["x"] * len(labels), attributes=attributes)


def test_figures_are_those_of_the_rows_of_a_value():
    # Women: 2 of 3 right; men: 1 of 2; the last person's gender is not known.
    found = subgroups.measure(
        stored(
            labels=[0, 1, 1, 0, 1, 1],
            guesses=[0, 1, 0, 0, 0, 1],
            codes=[[0, 1], [0, 0], [0, 1], [1, 1], [1, 1], [-1, 0]],
            attributes=[("gender", ("woman", "man")), ("age", ("young", "old", "very old"))],
        )
    )
    assert [(g.attribute, g.value, g.images) for g in found] == [
        ("gender", "woman", 3),
        ("gender", "man", 2),
        ("gender", "not known", 1),
        ("age", "young", 2),
        ("age", "old", 4),
    ]
    accuracies = [g.figures["accuracy"] for g in found]
    assert accuracies == pytest.approx([2 / 3, 1 / 2, 1, 1, 1 / 2])
    # Women: class a 1 of 1, class b 1 of 2.
    assert found[0].figures["balanced_accuracy"] == pytest.approx(0.75)


def test_valence_and_landmarks_are_measured_too():
    valence_arousal = np.array([[0.0, 0.2], [0.4, 0.1], [0.5, 0.5], [np.nan, np.nan]], np.float32)
    predicted = np.array([0.1, 0.5, 0.0, 0.0])
    points = np.tile(np.linspace(0, 67, 68)[:, None] * [1.0, 0.5], (4, 1, 1))
    found = subgroups.measure(
        stored(
            labels=[0, 0, 1, 1],
            guesses=[0, 0, 1, 1],
            codes=[0, 0, 1, 1],
            attributes=[("glasses", ("no", "yes"))],
            valence_arousal=valence_arousal,
            valence=predicted,
            arousal=valence_arousal[:, 1],
            true_landmarks=points,
            landmarks=points + np.array([0, 0, 3, 3])[:, None, None] * [1.0, 0.0],
        )
    )
    assert found[0].figures["valence_rmse"] == pytest.approx(0.1)
    # Population moments: covariance 0.04, variances 0.04, means 0.1 apart.
    assert found[0].figures["valence_ccc"] == pytest.approx(0.08 / 0.09)
    assert found[1].figures["valence_rmse"] == pytest.approx(0.5)
    eyes = np.linalg.norm(points[0, 45] - points[0, 36])
    assert [g.figures["nme"] for g in found] == pytest.approx([0, 3 / eyes])


def test_rare_values_are_measured_together():
    # Value k has k + 1 images: of 15 values, the 11 largest stay.
    codes = np.repeat(np.arange(15), np.arange(1, 16))
    names = tuple(f"v{k}" for k in range(14))  # the last has no name
    found = subgroups.measure(
        stored([0] * 120, np.isin(codes, (0, 3)).astype(int), codes, [("race", names)])
    )
    assert [g.value for g in found] == [*(f"v{k}" for k in range(4, 14)), "value 14", "4 others"]
    assert found[-1].images == 1 + 2 + 3 + 4
    assert found[-1].figures["accuracy"] == pytest.approx((2 + 3) / 10)


def test_without_attributes_there_are_none():
    assert subgroups.measure(stored([0], [0], [[0]], attributes=[])) == []


@given(st.lists(st.tuples(st.integers(-1, 20), st.booleans()), min_size=1, max_size=60))
def test_the_groups_of_an_attribute_hold_every_image_once(rows):
    codes, right = zip(*rows, strict=True)
    found = subgroups.measure(stored([0] * len(rows), [1 - r for r in right], codes, [("x", ())]))
    assert sum(g.images for g in found) == len(rows)
    assert sum(g.images * g.figures["accuracy"] for g in found) == pytest.approx(sum(right))
    assert len(found) <= 13


def test_predictions_of_another_test_are_noticed():
    one = stored([0, 1, 1, 1], [0, 1, 1, 0], [[0]] * 4, [])
    assert subgroups.belong_to(one, {"accuracy": 0.75, "loss": 3.0, "valence_ccc": 0.5})
    assert not subgroups.belong_to(one, {"accuracy": 0.5})
    assert subgroups.belong_to(one, {"accuracy": None})  # it was not a number
