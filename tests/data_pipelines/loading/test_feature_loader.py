"""Batches of stored features: the order, sampling and padding of images, without their work."""

import multiprocessing
import threading

import numpy as np
import pytest

from data_pipelines.defaults import DataConfig
from data_pipelines.loading.batch_rows import BatchRows
from data_pipelines.loading.options import Options
from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.loading.sampling import RefinementPlan
from data_pipelines.sources.features import FeatureFile, FeatureSource
from tests.data_pipelines import made_features
from tests.data_pipelines.made_images import Listed, smooth

COUNT = 37
LABELS = np.array([0, 0, 0, 1, 2, 0, -1] * 6, np.int32)[:COUNT]
GROUPS = np.arange(COUNT, dtype=np.int32) // 3


@pytest.fixture(scope="module")
def source():
    content = {
        "features": np.random.default_rng(0).standard_normal((COUNT, 5), np.float32),
        "expression": LABELS,
        "group": GROUPS,
        "expression_probs": np.full((COUNT, 3), 1 / 3, np.float32),
        "attributes": np.ones((COUNT, 1), np.int32),
        "valence_arousal": np.zeros((COUNT, 2), np.float32),
    }
    splits = dict.fromkeys(made_features.SIZES, content)
    file = FeatureFile(made_features.CLASSES, splits, attribute_names=("gender",))
    return FeatureSource(file, "train")


def pipe(source, train=True, batch_size=8, **options):
    own = {k: options.pop(k) for k in ("seed", "shard_index", "shard_count") if k in options}
    start = options.pop("start_step", 0)
    data = {"image_size": 4, "augment": "none", "refine": {"per_group": 2, "per_class": 9}}
    return make_pipeline(
        data | options, source, train=train, batch_size=batch_size, start_step=start, **own
    )


def take(pipeline, count):
    with pipeline:
        return [next(pipeline) for _ in range(count)]


def test_a_batch_holds_the_rows_of_its_index(source):
    for batch in take(pipe(source), 7):
        index = batch["index"]
        assert index.dtype == np.int64 and batch["mask"].all() and batch["mask"].dtype == bool
        for name, column in source.columns.items():
            np.testing.assert_array_equal(batch[name], column[index])
            assert batch[name].dtype == column.dtype
        assert batch.keys() == {*source.columns, "mask", "index"}


@pytest.mark.parametrize(("votes", "learnt"), [("auto", True), ("ignore", False)])
def test_votes_are_measured_in_any_case(votes, learnt, source):
    (batch,) = take(pipe(source, votes=votes), 1)
    assert ("expression_probs" in batch) == learnt
    (batch,) = take(pipe(source, train=False, votes=votes), 1)
    assert "expression_probs" in batch


@pytest.mark.parametrize("sampling", ["shuffle", "refine", "inverse_frequency"])
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_the_order_is_the_order_of_images(sampling, shard, source):
    images = Listed([smooth(4, 4)] * COUNT, LABELS, GROUPS)
    own = {"shard_index": shard[0], "shard_count": shard[1], "seed": 3, "sampling": sampling}
    ours, theirs = (take(pipe(s, start_step=2, **own), 9) for s in (source, images))
    for one, other in zip(ours, theirs, strict=True):
        for name in ("index", "expression", "group", "mask"):
            np.testing.assert_array_equal(one[name], other[name])


def test_the_last_batch_of_a_pass_is_padded_with_unknowns(source):
    with pipe(source, train=False) as pipeline:
        assert len(pipeline) == 5
        first, second = list(pipeline), list(pipeline)
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in first])[:COUNT], range(COUNT))
    last = first[-1]
    np.testing.assert_array_equal(last["mask"], [True] * 5 + [False] * 3)
    assert (last["index"][5:] == -1).all() and (last["image"][5:] == 0).all()
    for name in ("expression", "group", "attributes"):
        assert (last[name][5:] == -1).all()
    for name in ("valence_arousal", "expression_probs"):
        assert np.isnan(last[name][5:]).all()
    np.testing.assert_array_equal(source.columns["group"], GROUPS)  # the arrays stay
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_a_broken_pass_begins_again(source):
    with pipe(source, train=False) as pipeline:
        next(iter(pipeline))
        assert [len(b["index"]) for b in pipeline] == [8] * 5


def test_nothing_is_started_for_features(source):
    threads = threading.active_count()
    with pipe(source, num_workers=2) as pipeline:
        next(pipeline)
        assert threading.active_count() == threads and not multiprocessing.active_children()


def test_rows_of_training_and_evaluation():
    options = Options(8, DataConfig(), shard_index=1, shard_count=2)
    rows = BatchRows.at(6, None, options, 11)  # the first step of the fourth pass
    np.testing.assert_array_equal(rows.records, [4, 5, 6, 7])
    rows = BatchRows.at(7, None, options, 11)
    np.testing.assert_array_equal(rows.mask, [False] * 4)
    plan = RefinementPlan(np.zeros(11, int), np.zeros(11, int), 8)
    both = [BatchRows.at(1, plan, Options(8, shard_index=k, shard_count=2), 11) for k in (0, 1)]
    assert all(rows.mask.all() for rows in both)
    # Positions 8 to 15 of epochs of 11 records.
    got = sorted((e, p) for rows in both for e, p in zip(rows.epochs, rows.places, strict=True))
    assert got == [(0, 8), (0, 9), (0, 10), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    for rows in both:
        expected = [plan.order(e)[p] for e, p in zip(rows.epochs, rows.places, strict=True)]
        np.testing.assert_array_equal(rows.records, expected)
