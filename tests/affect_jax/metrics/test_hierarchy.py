"""Metrics above the classes: by hand, against a plain loop, and in any division of the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.hierarchy import HierarchyStatistics, distances, group_sums
from affect_jax.metrics.names import known_names, names_of
from data_pipelines.hierarchies import tree
from data_pipelines.hierarchies.tree import Hierarchy
from tests.affect_jax.label_trees import SIX

TWO = Hierarchy("two", ("a", "b", "c"), ("x", "y"), (0, 1, 0))
WORRY, PRIDE, PANIC, WRATH, CHEERFUL, RELIEF = range(6)


def measure(hierarchy, predicted, labels, min_count=1, **batch):
    logits = 5 * np.eye(len(hierarchy.fine))[predicted]
    statistics = HierarchyStatistics(hierarchy, min_count)
    return statistics.update({"logits": logits}, {"expression": np.array(labels), **batch})


def test_distances_of_three_and_two_levels():
    got = distances(SIX)
    assert got[WORRY].tolist() == [0, 6, 2, 4, 6, 6, 6]
    assert got[CHEERFUL].tolist() == [6, 2, 6, 6, 0, 2, 6]
    np.testing.assert_array_equal(got[:, :-1], got[:, :-1].T)
    assert distances(TWO).tolist() == [[0, 4, 2, 4], [4, 0, 4, 4], [2, 4, 0, 4]]


def test_distances_of_fg_emotions_by_a_walk_over_the_tree():
    hierarchy = tree.load("fg_emotions")
    parents = {("fine", i): ("coarse", c) for i, c in enumerate(hierarchy.coarse_of)}
    parents |= {("coarse", i): ("pole", p) for i, p in enumerate(hierarchy.pole_of)}

    def way(node):
        return [node, *(way(parents[node]) if node in parents else [("root", 0)])]

    for i in range(33):
        for j in range(33):
            up, other = way(("fine", i)), way(("fine", j))
            steps = next(k + other.index(node) for k, node in enumerate(up) if node in other)
            assert distances(hierarchy)[i, j] == steps


def test_figures_by_hand():
    labels = [WORRY, WORRY, WORRY, WORRY, PRIDE, PRIDE, WRATH, -1]
    predicted = [WORRY, PANIC, WRATH, RELIEF, CHEERFUL, PRIDE, WRATH, WRATH]
    got = measure(SIX, predicted, labels).compute()
    assert got == {
        "coarse_accuracy": pytest.approx(5 / 7),
        "coarse_accuracy_summed": pytest.approx(5 / 7),
        "coarse_balanced_accuracy": pytest.approx((2 / 4 + 1 + 1) / 3),
        "pole_accuracy": pytest.approx(6 / 7),
        "errors_within_coarse": 2 / 4,  # panic and cheerful; wrath and relief leave theirs
        "hierarchical_distance": (2 + 4 + 6 + 2) / 4,
        "hierarchical_distance_all": 14 / 7,
    }
    rare = measure(SIX, predicted, labels, min_count=2).compute()
    assert rare["coarse_balanced_accuracy"] == pytest.approx((2 / 4 + 1) / 2)
    assert "coarse_balanced_accuracy" not in measure(SIX, predicted, labels, 5).compute()
    assert "pole_accuracy" not in measure(TWO, [0, 1], [0, 0]).compute()


def test_summed_probabilities_can_name_another_coarse_class():
    probabilities = np.array(
        [[0.3, 0.1, 0.2, 0.4, 0.0, 0.0]]
    )  # fear 0.5, though wrath is likeliest
    np.testing.assert_allclose(group_sums(SIX, probabilities), [[0.5, 0.4, 0.1]])
    with np.errstate(divide="ignore"):
        outputs = {"logits": np.log(probabilities)}
    batch = {"expression": np.array([PANIC])}
    got = HierarchyStatistics(SIX).update(outputs, batch).compute()
    assert (got["coarse_accuracy"], got["coarse_accuracy_summed"]) == (0, 1)


def test_without_an_error_and_without_examples():
    got = measure(SIX, [WORRY, WRATH], [WORRY, WRATH]).compute()
    assert got["hierarchical_distance"] == got["hierarchical_distance_all"] == 0
    assert got["coarse_accuracy"] == 1 and "errors_within_coarse" not in got
    assert measure(SIX, [WORRY], [-1]).compute() == {}
    assert measure(SIX, [WORRY], [WRATH], mask=np.array([False])).compute() == {}
    assert HierarchyStatistics(SIX).update({}, {}).compute() == {}


def test_predictions_that_are_no_numbers_are_the_worst_errors():
    logits = np.array([[np.nan, 0, 0], [np.inf, 0, 0], [9, 0, 0]])
    batch = {"expression": np.zeros(3, int)}
    got = HierarchyStatistics(TWO).update({"logits": logits}, batch).compute()
    assert got["coarse_accuracy"] == got["coarse_accuracy_summed"] == pytest.approx(1 / 3)
    assert got["errors_within_coarse"] == 0 and got["hierarchical_distance"] == 4


def test_logits_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="logits of 3 classes, but the hierarchy six has 6"):
        HierarchyStatistics(SIX).update({"logits": np.zeros((1, 3))}, {"expression": [0]})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 30))
def test_any_division_gives_the_same_and_agrees_with_a_plain_loop(seed, rows, cut):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 6))
    batch = {"expression": random.integers(-1, 6, rows), "mask": random.random(rows) < 0.8}
    whole = HierarchyStatistics(SIX).update({"logits": logits}, batch)
    parts = []
    for part in (slice(0, cut), slice(cut, None)):
        own = {name: values[part] for name, values in batch.items()}
        seen = HierarchyStatistics(SIX).update({"logits": logits[part]}, own)
        parts.append(HierarchyStatistics(SIX).load_state(seen.state()))
    figures = whole.compute()
    assert parts[0].merge(parts[1]).compute() == pytest.approx(figures)
    used = np.flatnonzero(batch["mask"] & (batch["expression"] >= 0))
    pairs = [(int(batch["expression"][i]), int(logits[i].argmax())) for i in used]
    if not pairs:
        assert figures == {}
        return
    right = [SIX.coarse_of[a] == SIX.coarse_of[b] for a, b in pairs]
    assert figures["coarse_accuracy"] == pytest.approx(np.mean(right))
    wrong = [(a, b) for a, b in pairs if a != b]
    if wrong:
        lengths = [distances(SIX)[pair] for pair in wrong]
        assert figures["hierarchical_distance"] == pytest.approx(np.mean(lengths))
        within = np.mean([SIX.coarse_of[a] == SIX.coarse_of[b] for a, b in wrong])
        assert figures["errors_within_coarse"] == pytest.approx(within)
    fine = ClassificationStatistics(6).update(logits, batch["expression"], batch["mask"]).compute()
    assert figures["coarse_accuracy"] >= fine["accuracy"]


def test_one_coarse_class_for_each_class_repeats_the_fine_figures():
    flat = Hierarchy("flat", tuple("abcd"), tuple("wxyz"), (2, 0, 3, 1))
    random = np.random.default_rng(0)
    outputs = {"logits": random.normal(size=(50, 4))}
    batch = {"expression": random.integers(0, 4, 50)}
    metrics = MetricSet({"expression"}, 4, extra=[HierarchyStatistics(flat)])
    got = metrics.update(outputs, batch).compute()
    assert got["coarse_accuracy"] == got["coarse_accuracy_summed"] == got["accuracy"]
    assert got["coarse_balanced_accuracy"] == pytest.approx(got["balanced_accuracy"])
    assert got["errors_within_coarse"] == 0 and got["hierarchical_distance"] == 4


def test_uniform_errors_on_fg_emotions():
    fg = tree.load("fg_emotions")
    labels, predicted = np.divmod(np.arange(33 * 33), 33)
    got = measure(fg, predicted, labels).compute()
    assert got["errors_within_coarse"] == pytest.approx(1 / 6)
    assert got["hierarchical_distance"] == pytest.approx(4.62, abs=0.005)
    assert got["coarse_accuracy"] == pytest.approx(0.192, abs=5e-4)


def test_names_are_known_before_anything_is_measured():
    metrics = MetricSet({"expression"}, 6, extra=[HierarchyStatistics(SIX, min_count=10)])
    measured = {n for n in names_of(metrics, 6, 10) if "coarse" in n or "hierarchical" in n}
    assert measured | {"pole_accuracy"} == set(
        measure(SIX, [WORRY, WRATH], [WORRY, PRIDE]).compute()
    )
    assert measured < known_names()
