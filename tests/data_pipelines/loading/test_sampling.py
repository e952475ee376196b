import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loading import sampling as sampling_lib
from data_pipelines.loading.sampling import RefinementPlan
from data_pipelines.schema import DataError

RNG = np.random.default_rng(0)
LABELS = RNG.choice(4, 3000, p=[0.7, 0.2, 0.09, 0.01]).astype(np.int32)
LABELS[::50] = -1
GROUPS = RNG.choice(12, 3000, p=np.array([30, *[1] * 11]) / 41).astype(np.int32)


def make(sampling="refine", **options):
    options = {"batch_size": 16, "seed": 3} | options
    if sampling == "refine":
        options = {"per_group": 100, "per_class": 50} | options
    return RefinementPlan(LABELS, GROUPS, sampling=sampling, **options)


def test_shuffle_takes_every_record_once():
    plan = make("shuffle")
    orders = [plan.order(e) for e in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(3000))
    assert (orders[0] != orders[1]).any()


def test_refinement_is_balanced_and_keeps_to_the_group_limit():
    plan = make()
    for epoch in range(3):
        order = plan.order(epoch)
        np.testing.assert_array_equal(plan.class_counts(epoch, 4)[0], [50] * 4)
        assert plan.length == len(order) == 200
        # Frequent classes come without repetition, rare ones repeat evenly.
        frequent = order[LABELS[order] == 0]
        assert len(np.unique(frequent)) == 50
    pool = sampling_lib.refinement_pool(
        GROUPS, np.flatnonzero(LABELS >= 0), 100, np.random.default_rng(1)
    )
    assert len(np.unique(pool)) == len(pool)
    sizes = np.bincount(GROUPS[pool])
    usable = np.bincount(GROUPS[LABELS >= 0])
    np.testing.assert_array_equal(sizes, np.minimum(usable, 100))


def test_records_without_group_are_not_limited():
    groups = np.full(100, -1, np.int32)
    pool = sampling_lib.refinement_pool(groups, np.arange(100), 5, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(pool), np.arange(100))


def test_equal_keys_are_ordered_alike_everywhere():
    noise = np.arange(5000, dtype=np.uint64) * np.uint64(7919) % np.uint64(3)

    class Coarse:
        def integers(self, *unused):
            return noise

    pool = sampling_lib.refinement_pool(np.zeros(5000, np.int32), np.arange(5000), 4000, Coarse())
    in_order = sorted(range(5000), key=noise.tolist().__getitem__)
    np.testing.assert_array_equal(pool, in_order[:4000])


def test_a_small_class_is_topped_up_evenly():
    labels = np.array([0] * 90 + [1] * 7, np.int32)
    plan = RefinementPlan(labels, np.arange(97), sampling="refine", batch_size=4, per_class=50)
    times = np.bincount(plan.order(0), minlength=97)[90:]
    assert times.sum() == 50 and set(times) <= {7, 8}


def test_a_class_that_the_group_limit_hides_is_still_there():
    labels = np.array([0] * 5000 + [1], np.int32)
    limits = {"per_group": 2, "per_class": 10}
    plan = RefinementPlan(labels, np.zeros(5001), 2, sampling="refine", **limits)
    for epoch in range(5):
        np.testing.assert_array_equal(plan.class_counts(epoch, 2)[0], [10, 10])


def test_inverse_frequency_draws_classes_alike():
    plan = make("inverse_frequency")
    counts, _ = plan.class_counts(0, 4)
    assert counts.sum() == plan.length == (LABELS >= 0).sum()
    assert np.ptp(counts) <= 1


def test_orders_are_pure_functions_of_seed_and_epoch():
    for sampling in sampling_lib.SAMPLINGS:
        a, b = make(sampling), make(sampling)
        b.order(7)
        np.testing.assert_array_equal(a.order(2), b.order(2))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(a)).order(2), a.order(2))
        assert (a.order(2) != a.order(3)).any()
        assert (a.order(2) != make(sampling, seed=4).order(2)).any()


@given(
    count=st.integers(1, 300),
    start=st.integers(0, 1000),
    lanes=st.integers(1, 40),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_dealing_keeps_lanes_and_loses_nothing(count, start, lanes, seed):
    entries = np.arange(count)
    mixed = sampling_lib.deal(entries, start, lanes, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(mixed), entries)
    np.testing.assert_array_equal((mixed + start) % lanes, (entries + start) % lanes)


@pytest.mark.parametrize("batch_size", [1, 2, 6, 8, 48, 64, 100, 7])
def test_lanes_fill_the_parts_of_the_processes(batch_size):
    lanes = sampling_lib.lane_order(batch_size)
    np.testing.assert_array_equal(np.sort(lanes), np.arange(batch_size))
    count = 1
    while batch_size % count == 0:
        parts = lanes.reshape(count, -1)
        for process in range(count):
            assert len(set(parts[process] % count)) == 1
        count *= 2


@pytest.mark.parametrize("sampling", ["refine", "inverse_frequency"])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_processes_take_disjoint_parts_with_the_same_class_balance(sampling, shards):
    plan = make(sampling, batch_size=24)
    steps = -(-plan.length * 3 // 24)
    whole = np.concatenate([plan.batch_positions(s) for s in range(steps)])
    parts = [
        np.concatenate([plan.batch_positions(s, h, shards) for s in range(steps)])
        for h in range(shards)
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(whole)))
    together = np.concatenate([plan.batch_positions(5, h, shards) for h in range(shards)])
    np.testing.assert_array_equal(together, plan.batch_positions(5))
    for epoch in range(3):
        counts = []
        for part in parts:
            epochs, _, records = plan.at(part)
            counts.append(np.bincount(LABELS[records[epochs == epoch]], minlength=4))
        assert np.ptp(counts, axis=0).max() <= 1


def test_positions_run_through_epochs_without_a_gap():
    plan = make("shuffle", batch_size=7)
    epochs, places, records = plan.at(np.arange(2990, 3010))
    np.testing.assert_array_equal(epochs, [0] * 10 + [1] * 10)
    np.testing.assert_array_equal(places, [*range(2990, 3000), *range(10)])
    np.testing.assert_array_equal(records[:10], plan.order(0)[2990:])
    np.testing.assert_array_equal(records[10:], plan.order(1)[:10])


def test_batches_mix_classes():
    plan = make(batch_size=20, per_class=500)
    shares = []
    for step in range(100):
        labels = LABELS[plan.at(plan.batch_positions(step))[2]]
        shares.append(np.bincount(labels, minlength=4))
    shares = np.array(shares)
    assert (shares.max(1) <= 14).all() and shares.std(0).min() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "random"}, "known: shuffle, refine"),
        ({"sampling": "shuffle", "batch_size": 3001}, "larger than an epoch of 3000"),
        ({"sampling": "refine", "batch_size": 201}, "larger than an epoch of 200"),
        ({"sampling": "refine", "per_class": 0}, "at least 1"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        make(**options)


def test_sampling_by_class_needs_labels():
    with pytest.raises(DataError, match="needs expression labels"):
        RefinementPlan(np.full(9, -1), np.zeros(9), sampling="refine", batch_size=2)


def test_plan_of_millions_of_frames_is_quick_and_small():
    rng = np.random.default_rng(0)
    frames = 2_600_000
    labels = rng.choice(8, frames, p=np.array([40, 20, 15, 10, 6, 5, 3, 1]) / 100).astype(np.int32)
    groups = np.sort(rng.integers(0, 600, frames)).astype(np.int32)
    plan = RefinementPlan(labels, groups, sampling="refine", batch_size=64)
    # Processor time: what else runs on the machine does not count.
    start = time.process_time()
    plan.order(0)
    assert time.process_time() - start < 2
    tracemalloc.start()
    plan.order(1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    np.testing.assert_array_equal(plan.class_counts(1, 8)[0], [500] * 8)


@settings(max_examples=60)
@given(
    st.lists(st.integers(-1, 4), min_size=1, max_size=60),
    st.integers(0, 99),
    st.data(),
)
def test_every_beginning_of_a_balanced_order_is_balanced(labels, seed, data):
    labels = np.array(labels)
    excluded = data.draw(st.sets(st.integers(0, len(labels) - 1), max_size=5))
    order = sampling_lib.balanced_order(labels, seed, excluded)
    usable = [i for i in np.flatnonzero(labels >= 0).tolist() if i not in excluded]
    assert sorted(order.tolist()) == usable
    total = np.bincount(labels[usable], minlength=5) if usable else np.zeros(5, int)
    for length in range(1, len(order) + 1):
        counts = np.bincount(labels[order[:length]], minlength=5)
        # A class that could give more has at most one less than any other.
        more = counts < total
        assert not more.any() or counts.max() - counts[more].min() <= 1
    again = sampling_lib.balanced_order(labels, seed, excluded)
    np.testing.assert_array_equal(order, again)


def test_a_balanced_order_is_drawn_by_its_seed():
    orders = [sampling_lib.balanced_order(LABELS, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0][:20] != orders[2][:20]).any()
    first = LABELS[orders[0][: 4 * 20]].reshape(20, 4)
    np.testing.assert_array_equal(np.sort(first, axis=1), [[0, 1, 2, 3]] * 20)
    assert len({tuple(turn) for turn in first.tolist()}) > 10  # no class always comes first


def test_a_record_that_is_left_out_changes_no_other_choice():
    order = sampling_lib.balanced_order(LABELS, 3)
    left_out = int(order[9])
    changed = sampling_lib.balanced_order(LABELS, 3, [left_out])
    np.testing.assert_array_equal(changed[:9], order[:9])
    assert LABELS[changed[9]] == LABELS[left_out] and changed[9] != left_out
    of_others = LABELS[order] != LABELS[left_out]
    kept = LABELS[changed] != LABELS[left_out]
    np.testing.assert_array_equal(order[of_others], changed[kept])


def test_no_labelled_record_gives_an_empty_order():
    assert sampling_lib.balanced_order(np.full(4, -1), 0).tolist() == []
