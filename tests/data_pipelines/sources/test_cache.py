"""Decoded pictures and sources that several pipelines have in common."""

import pickle

import numpy as np

from data_pipelines.loading.options import Options
from data_pipelines.loading.pipeline import Pipeline
from data_pipelines.sources import cache, subset
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.synthetic import SyntheticFaces


class Counting(SyntheticFaces):
    """Notes which records are drawn."""

    def __init__(self, *args, **knobs):
        super().__init__(*args, image_size=32, **knobs)
        self.drawn = []

    def __getitem__(self, i):
        self.drawn.append(int(i))
        return super().__getitem__(i)


def one_pass(source, **options):
    # One thread: two could draw the same picture at once, before either has kept it.
    options = {"cache_bytes": 1 << 24, "num_threads": 1} | options
    with Pipeline(source, Options(4, **{"image_size": 24} | options), train=False) as batches:
        return [b["image"] for b in batches]


def test_pipelines_within_shared_draw_each_picture_once():
    source = Counting(8)
    alone = one_pass(source)
    source.drawn.clear()
    with cache.shared():
        first = one_pass(source)
        with cache.shared():  # belongs to the outer one
            second = one_pass(source)
        assert sorted(source.drawn) == list(range(8))
        one_pass(source, image_size=20)  # another framing has pictures of its own
        assert sorted(source.drawn) == sorted([*range(8), *range(8)])
    for a, b, c in zip(alone, first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    source.drawn.clear()
    one_pass(source)
    assert set(source.drawn) == set(range(8))


def test_subsets_share_the_pictures_of_their_whole():
    source = Counting(8)
    some, others = subset.Subset(source, [1, 3, 5, 6]), subset.Subset(source, [6, 3, 0])
    with cache.shared():
        one_pass(some)
        found = one_pass(others)[0]
    assert sorted(source.drawn) == [0, 1, 3, 5, 6]
    whole = np.concatenate(one_pass(source))
    np.testing.assert_array_equal(found[:3], whole[[6, 3, 0]])
    copied = pickle.loads(pickle.dumps(others))
    assert copied.class_names == source.class_names and copied[2]["expression"] == others.labels[2]


def test_what_was_used_longest_ago_goes_when_room_is_short():
    with cache.shared():
        a, b, c = (SyntheticFaces(4, seed=s) for s in range(3))
        first, second = cache.cache_for(a, "", 100), cache.cache_for(b, "", 100)
        first.put(0, "picture", 60)
        second.put(0, "picture", 60)
        assert cache.cache_for(a, "", 100).get(0) == "picture"  # still there, and used last
        cache.cache_for(c, "", 100)
        assert cache.cache_for(b, "", 100).get(0) is None
        first.put(1, "too large", 50)
        assert first.get(1) is None


def test_sources_of_one_config_are_made_once():
    section = {"source": "synthetic", "synthetic": {"num_train": 8}, "image_size": 32}
    with cache.shared():
        made = make_sources(section)
        assert make_sources({**section, "image_size": 64})["train"] is made["train"]
        other = make_sources({**section, "synthetic": {"num_train": 9}})
        assert len(other["train"]) == 9
    assert make_sources(section)["train"] is not made["train"]
