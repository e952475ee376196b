"""Sets of metrics: independent of how the data are cut, ordered and masked."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.metrics.base import MetricSet

NAN = np.nan
HAS = {"expression", "valence_arousal", "landmarks"}
deterministic = settings(derandomize=True, deadline=None, max_examples=40)


def example_batch(seed, n=40, classes=4):
    """Model outputs and labels with every kind of missing label."""
    rng = np.random.default_rng(seed)
    batch = {
        "expression": rng.integers(-1, classes, n),
        "valence_arousal": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "landmarks": rng.uniform(0, 64, (n, 68, 2)).astype(np.float32),
        "mask": rng.random(n) < 0.8,
    }
    batch["valence_arousal"][rng.random((n, 2)) < 0.2] = NAN
    batch["landmarks"][rng.random((n, 68)) < 0.01] = NAN
    batch["landmarks"][rng.random(n) < 0.2] = NAN
    outputs = {
        "logits": 3 * rng.standard_normal((n, classes)).astype(np.float32),
        "valence": rng.standard_normal(n).astype(np.float32),
        "arousal": rng.standard_normal(n).astype(np.float32),
        "landmarks": rng.uniform(0, 64, (n, 68, 2)).astype(np.float32),
    }
    return outputs, batch


def metric_set(outputs, batch, rows=None):
    def take(arrays):
        return arrays if rows is None else {k: v[rows] for k, v in arrays.items()}

    return MetricSet(HAS, 4).update(take(outputs), take(batch))


def assert_same(a, b, tolerance=1e-9):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == pytest.approx(b[name], abs=tolerance, rel=0), name


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=12))
@deterministic
def test_any_partition_gives_the_same_figures(seed, cuts):
    outputs, batch = example_batch(seed)
    bounds = [0, *sorted(cuts), 40]
    parts = [metric_set(outputs, batch, slice(a, b)) for a, b in itertools.pairwise(bounds)]
    whole = metric_set(outputs, batch).compute()
    merged = MetricSet(HAS, 4)
    for part in parts:
        merged.merge(part)
    assert_same(merged.compute(), whole)
    streamed = MetricSet(HAS, 4)
    for a, b in itertools.pairwise(bounds):
        streamed.update(
            {k: v[a:b] for k, v in outputs.items()}, {k: v[a:b] for k, v in batch.items()}
        )
    assert_same(streamed.compute(), whole)


@given(seed=st.integers(0, 1000))
@deterministic
def test_any_order_gives_the_same_figures(seed):
    outputs, batch = example_batch(seed)
    order = np.random.default_rng(seed).permutation(40)
    assert_same(metric_set(outputs, batch, order).compute(), metric_set(outputs, batch).compute())


@given(seed=st.integers(0, 1000), cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)))
@deterministic
def test_merging_is_associative(seed, cuts):
    outputs, batch = example_batch(seed)
    i, j = sorted(cuts)

    def part(a, b):
        return metric_set(outputs, batch, slice(a, b))

    left = part(0, i).merge(part(i, j)).merge(part(j, 40))
    right = part(0, i).merge(part(i, j).merge(part(j, 40)))
    assert_same(left.compute(), right.compute(), 1e-12)


@given(seed=st.integers(0, 1000))
@deterministic
def test_states_travel_as_float64_vectors(seed):
    outputs, batch = example_batch(seed)
    one, two = (metric_set(outputs, batch, rows) for rows in (slice(0, 15), slice(15, 40)))
    rows = np.stack([one.to_array(), two.to_array()])
    assert rows.dtype == np.float64
    gathered = MetricSet(HAS, 4)
    for row in rows:
        gathered.merge(gathered.from_array(row))
    assert gathered.compute() == one.merge(two).compute()


@given(seed=st.integers(0, 1000))
@deterministic
def test_masked_and_unlabelled_examples_count_nowhere(seed):
    outputs, batch = example_batch(seed)
    expected = metric_set(outputs, batch, batch["mask"]).compute()
    for values in outputs.values():
        values[~batch["mask"]] = NAN
    outputs["valence"][np.isnan(batch["valence_arousal"][:, 0])] = NAN
    outputs["logits"][batch["expression"] < 0] = NAN
    assert_same(metric_set(outputs, batch).compute(), expected, 1e-12)


def test_only_labels_and_outputs_that_exist_are_measured():
    outputs, batch = example_batch(0)
    assert set(MetricSet({"expression"}, 4).update(outputs, batch).compute()) >= {"accuracy", "ece"}
    assert MetricSet(HAS, 4).compute() == {}
    assert MetricSet((), 4).update(outputs, batch).compute() == {}
    assert MetricSet((), 4).to_array().shape == (0,)
    only = MetricSet(HAS, 4).update({"landmarks": outputs["landmarks"]}, batch).compute()
    ends = ("", "_auc", "_failures")
    assert set(only) == {f"{name}{end}" for name in ("nme", "nme_box") for end in ends}


def test_a_state_of_other_labels_is_refused():
    state = MetricSet({"expression"}, 4).to_array()
    with pytest.raises(ValueError, match="other labels or classes"):
        MetricSet({"expression"}, 5).from_array(state)
