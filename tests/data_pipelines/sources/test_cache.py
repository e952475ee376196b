"""Decoded images and sources that several pipelines share."""

import pickle

import numpy as np

from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.sources import subset
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.synthetic import SyntheticFaces


class Counting(SyntheticFaces):
    """Notes which records are drawn."""

    def __init__(self, *args, **options):
        super().__init__(*args, image_size=32, **options)
        self.drawn = []

    def __getitem__(self, i):
        self.drawn.append(int(i))
        return super().__getitem__(i)


def one_pass(source, cache=None, **options):
    # One thread: two could draw the same picture at once, before either has kept it.
    data = {"image_size": 24, "augment": "none", "num_threads": 1, "cache": "memory"} | options
    with make_pipeline(data, source, train=False, batch_size=4, cache=cache) as batches:
        return [b["image"] for b in batches]


def test_pipelines_with_one_cache_draw_each_image_once():
    source = Counting(8)
    alone = one_pass(source)
    source.drawn.clear()
    cache = DataCache()
    first, second = (one_pass(source, cache=cache) for _ in range(2))
    assert sorted(source.drawn) == list(range(8))
    one_pass(source, cache=cache, image_size=20)  # another framing has images of its own
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
    cache = DataCache()
    one_pass(some, cache=cache)
    found = one_pass(others, cache=cache)[0]
    assert sorted(source.drawn) == [0, 1, 3, 5, 6]
    whole = np.concatenate(one_pass(source))
    np.testing.assert_array_equal(found[:3], whole[[6, 3, 0]])
    copied = pickle.loads(pickle.dumps(others))
    assert copied.class_names == source.class_names and copied[2]["expression"] == others.labels[2]


def test_what_was_used_longest_ago_goes_when_room_is_short():
    cache = DataCache()
    a, b, c = (SyntheticFaces(4, seed=s) for s in range(3))
    first, second = cache.images(a, "", 100), cache.images(b, "", 100)
    first.put(0, "image", 60)
    second.put(0, "image", 60)
    assert cache.images(a, "", 100).get(0) == "image"  # still there, and used last
    cache.images(c, "", 100)
    assert cache.images(b, "", 100).get(0) is None
    first.put(1, "too large", 50)
    assert first.get(1) is None


def test_sources_of_one_config_are_made_once():
    section = {"source": "synthetic", "synthetic": {"num_train": 8}, "image_size": 32}
    cache = DataCache()
    made = make_sources(section, cache)
    assert make_sources({**section, "image_size": 64}, cache)["train"] is made["train"]
    other = make_sources({**section, "synthetic": {"num_train": 9}}, cache)
    assert len(other["train"]) == 9
    assert make_sources(section)["train"] is not made["train"]
