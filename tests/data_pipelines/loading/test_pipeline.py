import errno
import logging
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.loading.workers import WatchedIterator, WorkerDiedError
from data_pipelines.schema import DataError, DecodeError, TooManyBadRecords
from tests.data_pipelines.made_images import Listed, encode, manifest_source, smooth, write_csv

PICTURES = [encode(smooth(40, 40, k), quality=90) for k in range(24)]
ROOT = pathlib.Path(__file__).parents[3]


def pipe(source=None, train=True, start_step=0, batch_size=8, **options):
    own = {k: options.pop(k) for k in ("seed", "shard_index", "shard_count") if k in options}
    data = {"image_size": 24, "augment": "arbex_heavy"} | options
    source = Listed(PICTURES) if source is None else source
    return make_pipeline(
        data, source, train=train, batch_size=batch_size, start_step=start_step, **own
    )


def kept_in(size):
    return {"cache": "memory", "cache_megabytes": size / 1e6}


def take(pipeline, count):
    with pipeline:
        return [next(pipeline) for _ in range(count)]


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_a_training_batch_is_what_the_contract_says():
    batch = take(pipe(), 1)[0]
    shapes = {
        "image": ("uint8", (8, 24, 24, 3)),
        "expression": ("int32", (8,)),
        "valence_arousal": ("float32", (8, 2)),
        "landmarks": ("float32", (8, 68, 2)),
        "group": ("int32", (8,)),
        "mask": ("bool", (8,)),
        "index": ("int64", (8,)),
    }
    assert {k: (str(v.dtype), v.shape) for k, v in batch.items()} == shapes
    assert batch["mask"].all() and np.isnan(batch["landmarks"]).all()
    np.testing.assert_array_equal(batch["expression"], batch["index"] % 3)
    np.testing.assert_array_equal(batch["group"], batch["index"])
    assert batch["image"].reshape(8, -1).std(1).min() > 1


def test_an_epoch_shows_every_record_once():
    batches = take(pipe(), 6)
    for epoch in (batches[:3], batches[3:]):
        index = np.concatenate([b["index"] for b in epoch])
        np.testing.assert_array_equal(np.sort(index), np.arange(24))


def test_epochs_differ_in_order_and_augmentation():
    with pipe(batch_size=24) as pipeline:
        first, second = next(pipeline), next(pipeline)
        assert pipeline.step == 2 and pipeline.steps_per_epoch == 1.0
    assert (first["index"] != second["index"]).any()
    place = [int(np.flatnonzero(b["index"] == 5)[0]) for b in (first, second)]
    assert (first["image"][place[0]] != second["image"][place[1]]).any()


@pytest.mark.parametrize("sampling", ["shuffle", "refine", "inverse_frequency"])
def test_a_resumed_stream_equals_the_uninterrupted_one(sampling):
    options = {"sampling": sampling, "refine": {"per_group": 4, "per_class": 9}, "seed": 5}
    whole = take(pipe(**options), 9)
    with pipe(**options) as pipeline:
        for _ in range(4):
            next(pipeline)
        step = pipeline.step
    for a, b in zip(take(pipe(**options, start_step=step), 5), whole[4:], strict=True):
        same(a, b)


def test_a_closed_pipeline_goes_on_where_it_stopped():
    whole = take(pipe(), 4)
    pipeline = pipe()
    again = [next(pipeline), next(pipeline)]
    pipeline.close()
    again += [next(pipeline), next(pipeline)]
    pipeline.close()
    for a, b in zip(again, whole, strict=True):
        same(a, b)


def test_threads_and_prefetch_do_not_change_the_stream():
    whole = take(pipe(num_threads=1, prefetch=1), 5)
    for threads, prefetch in ((2, 1), (5, 9)):
        for a, b in zip(take(pipe(num_threads=threads, prefetch=prefetch), 5), whole, strict=True):
            same(a, b)


def test_worker_processes_do_not_change_the_stream():
    source = Listed([*PICTURES[:5], PICTURES[5][:100], *PICTURES[6:]])  # one is damaged
    whole = take(pipe(source), 7)
    with pipe(source, num_workers=2, num_threads=1, start_step=2) as pipeline:
        for expected in whole[2:]:
            same(next(pipeline), expected)
        assert list(pipeline.bad_records.names) == ["image 5"]


def test_worker_processes_in_evaluation():
    expected = list(pipe(Listed(PICTURES[:21]), train=False))
    with pipe(Listed(PICTURES[:21]), train=False, num_workers=2, num_threads=1) as pipeline:
        for a, b in zip(pipeline, expected, strict=True):
            same(a, b)
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(pipeline)


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("train", [True, False])
def test_processes_together_see_the_batches_of_one(train, shards):
    options = {"train": train, "sampling": "refine", "refine": {"per_class": 7}}
    whole = take(pipe(Listed(PICTURES[:21]), **options), 3)
    parts = [
        take(pipe(Listed(PICTURES[:21]), **options, shard_index=h, shard_count=shards), 3)
        for h in range(shards)
    ]
    for step, batch in enumerate(whole):
        same(batch, {k: np.concatenate([p[step][k] for p in parts]) for k in batch})


def test_evaluation_is_one_padded_pass_in_order():
    pipeline = pipe(Listed(PICTURES[:21]), train=False)
    for _ in range(2):
        batches = list(pipeline)
        assert len(batches) == len(pipeline) == 3
        mask = np.concatenate([b["mask"] for b in batches])
        index = np.concatenate([b["index"] for b in batches])
        np.testing.assert_array_equal(mask, np.arange(24) < 21)
        np.testing.assert_array_equal(index, [*range(21), -1, -1, -1])
        assert (batches[-1]["expression"][5:] == -1).all()
        assert (batches[-1]["image"][5:] == 0).all()
    pipeline.close()


def test_a_pass_that_was_broken_off_is_followed_by_a_whole_one():
    with pipe(Listed(PICTURES[:21]), train=False) as pipeline:
        next(iter(pipeline))
        index = np.concatenate([b["index"] for b in pipeline])
    np.testing.assert_array_equal(index, [*range(21), -1, -1, -1])


def test_passes_share_workers_and_name_bad_records_once(caplog):
    pictures = [*PICTURES[:20], b"no picture"]
    with pipe(Listed(pictures), train=False, num_workers=2, num_threads=1) as pipeline:
        seen = []
        for _ in range(3):
            assert sum(b["mask"].sum() for b in pipeline) == 20
            seen.append({p.pid for p in workers_of(pipeline)})
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == seen[2]
    assert len([r for r in caplog.records if "skipped" in r.message]) == 1
    assert pipeline.bad_records.count == 1


def test_training_and_evaluation_watch_workers_of_their_own():
    options = {"num_workers": 1, "num_threads": 1, "prefetch": 1}
    with pipe(**options) as training:
        next(training)
        with pipe(train=False, **options) as evaluation:
            next(evaluation)
            assert len(workers_of(training)) == 2
        next(training)
        next(training)
        assert len(workers_of(training)) == 1
    assert not workers_of(training)


def test_evaluation_is_the_same_whatever_the_seed_and_batch_size():
    one = np.concatenate([b["image"] for b in pipe(train=False, seed=1)])
    two = np.concatenate([b["image"] for b in pipe(train=False, seed=2, batch_size=12)])
    np.testing.assert_array_equal(one, two)


def test_a_batch_larger_than_the_set():
    with pytest.raises(DataError, match="batch_size 25 is larger than an epoch of 24"):
        pipe(batch_size=25)
    (batch,) = pipe(train=False, batch_size=40)
    assert batch["mask"].sum() == 24


def test_landmarks_follow_the_picture():
    points = np.random.default_rng(0).uniform(10, 50, (6, 68, 2)).astype(np.float32)
    images = np.zeros((6, 60, 60, 3), np.uint8)
    for k in range(6):
        x, y = points[k, 8].round().astype(int)  # the chin keeps its number under a flip
        points[k, 8] = x, y
        images[k, y - 1 : y + 2, x - 1 : x + 2] = 255
    source = Listed(list(images), landmarks=points)
    overrides = {"rotation": 20.0, "flip": 0.5, "scale": 0.1}
    options = {"augment": "none", "augment_overrides": overrides, "batch_size": 6}
    for batch in take(pipe(source, image_size=64, **options), 4):
        for image, (x, y) in zip(batch["image"], batch["landmarks"][:, 8], strict=True):
            if 3 < x < 60 and 3 < y < 60:
                ys, xs = np.nonzero(image[..., 0] > 128)
                assert abs(xs.mean() - x) < 0.7 and abs(ys.mean() - y) < 0.7


def test_arrays_need_no_encoding():
    images = [smooth(24, 24, k) for k in range(6)]
    (batch,) = pipe(Listed(images), train=False, batch_size=6, augment="none")
    np.testing.assert_array_equal(batch["image"], np.stack(images))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "array"])
def test_large_pictures_are_averaged_not_sampled(kind):
    # A fine chequered pattern is grey from afar; sampling it would show a false one.
    picture = np.tile(np.uint8([[0, 255], [255, 0]]), (100, 100))[..., None].repeat(3, 2)
    raw = picture if kind == "array" else encode(picture, kind)
    landmarks = np.full((1, 68, 2), 99.5, np.float32)
    landmarks[0, 0], landmarks[0, 1] = 0, 199
    options = {"augment": "none", "augment_overrides": {"box_scale": 1.0}, "batch_size": 1}
    (batch,) = pipe(Listed([raw], landmarks=landmarks), train=False, image_size=24, **options)
    assert np.abs(batch["image"][0, 2:-2, 2:-2].astype(int) - 127).max() <= 3
    # Landmarks are carried along: the outermost ones lie on the edges of the crop.
    np.testing.assert_allclose(batch["landmarks"][0, 0], [-0.5, -0.5], atol=1e-3)
    np.testing.assert_allclose(batch["landmarks"][0, 1], [23.5, 23.5], atol=1e-3)


def test_what_is_kept_in_memory_does_not_change_the_stream():
    options = {"image_size": 16, "batch_size": 12}
    plain = take(pipe(**options, **kept_in(1)), 6)  # no picture fits: cropped anew every time
    kept = pipe(**options, **kept_in(1 << 24))
    for expected in plain:
        same(next(kept), expected)
    assert len(kept._loader._cache._entries) == 24
    kept.close()
    some = pipe(**options, **kept_in(10_000))
    for expected in plain:
        same(next(some), expected)
    assert 0 < len(some._loader._cache._entries) < 24
    some.close()
    resumed = take(pipe(**options, **kept_in(1 << 24), start_step=3), 3)
    same(resumed[2], plain[5])


BAD = {
    "truncated": PICTURES[3][:300],
    "empty": b"",
    "text": b"no picture",
    "missing": FileNotFoundError(2, "No such file or directory"),
    "source's own": DecodeError("frame 7 is gone"),
}


@pytest.mark.parametrize("name", BAD)
def test_unreadable_records_are_replaced_in_training(name, caplog):
    source = Listed([*PICTURES[:3], BAD[name], *PICTURES[4:]])
    with pipe(source) as pipeline:
        batches = [next(pipeline) for _ in range(9)]
        assert pipeline.bad_records.count == 1
    index = np.concatenate([b["index"] for b in batches])
    assert 3 not in index and all(b["mask"].all() for b in batches)
    labels = np.concatenate([b["expression"] for b in batches])
    np.testing.assert_array_equal(np.bincount(labels), [24, 24, 24])  # by one of its own class
    assert sum("skipped: image 3" in r.message for r in caplog.records) == 1
    for a, b in zip(take(pipe(source, start_step=4), 5), batches[4:], strict=True):
        same(a, b)


@pytest.mark.parametrize("name", BAD)
def test_unreadable_records_are_masked_in_evaluation(name, caplog):
    pipeline = pipe(Listed([*PICTURES[:3], BAD[name], *PICTURES[4:]]), train=False)
    for _ in range(2):
        batches = list(pipeline)
        mask = np.concatenate([b["mask"] for b in batches])
        np.testing.assert_array_equal(np.flatnonzero(~mask), [3])
    assert (batches[0]["image"][3] == 0).all() and batches[0]["expression"][3] == -1
    assert batches[0]["index"][3] == 3
    assert sum("skipped" in r.message for r in caplog.records) == 1
    pipeline.close()


def test_boxes_outside_the_picture_are_skipped():
    points = np.full((24, 68, 2), 20, np.float32)
    points[:, ::2] += 10
    points[7] += 100
    pipeline = pipe(Listed(PICTURES, landmarks=points), train=False)
    assert sum(b["mask"].sum() for b in pipeline) == 23
    assert "outside the image" in pipeline.bad_records.names["image 7"]


def test_decompression_bombs_are_skipped():
    pipeline = pipe(Listed([encode(smooth(300, 300)), *PICTURES[1:]]), train=False, max_pixels=5000)
    assert sum(b["mask"].sum() for b in pipeline) == 23
    assert "300x300 is more than 5000 pixels" in pipeline.bad_records.names["image 0"]


@pytest.mark.parametrize("train", [True, False])
def test_too_many_unreadable_records_stop_the_run(train):
    source = Listed([b""] * 6 + PICTURES[6:])
    with pytest.raises(TooManyBadRecords, match=r"3 of 24 records .*max_bad_fraction = 0\.1"):
        take(pipe(source, train=train), 3)
    assert len(take(pipe(source, train=train, max_bad_fraction=0.25), 3)) == 3


def test_a_set_without_any_readable_record_stops():
    with pytest.raises(TooManyBadRecords):
        take(pipe(Listed([b""] * 24), max_bad_fraction=1.0), 1)


def test_errors_of_the_program_are_not_taken_for_bad_records():
    with pytest.raises(ZeroDivisionError):
        take(pipe(Listed([ZeroDivisionError(), *PICTURES[1:]])), 3)


def test_a_folder_that_vanishes_stops_the_run(tmp_path):
    for k, data in enumerate(PICTURES):
        (tmp_path / f"{k}.jpg").write_bytes(data)
    rows = [[f"{k}.jpg", ("sad", "happy")[k % 2], f"p{k}"] for k in range(24)]
    write_csv(tmp_path / "set.csv", ["path", "expression", "person"], rows)
    source = manifest_source(tmp_path / "set.csv")
    with pipe(source, prefetch=1, num_threads=1) as pipeline:
        next(pipeline)
        shutil.rmtree(tmp_path)
        with pytest.raises(TooManyBadRecords, match=r"set.csv:\d+ .*cannot be read"):
            for _ in range(20):
                next(pipeline)


def workers_of(pipeline):
    return [p for p in multiprocessing.active_children() if "grain" in p.name]


def test_a_killed_worker_stops_the_run():
    pipeline = pipe(num_workers=2, num_threads=1, prefetch=1)
    next(pipeline)
    victim = workers_of(pipeline)[0]
    os.kill(victim.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(WorkerDiedError, match=r"worker process ended unexpectedly \(exit code -9"):
        for _ in range(10_000):
            next(pipeline)
    assert time.monotonic() - start < 30
    with pytest.raises(WorkerDiedError):
        next(pipeline)
    pipeline.close()
    assert not workers_of(pipeline)


def test_full_shared_memory_is_named():
    pipeline = pipe(num_workers=1, num_threads=1, prefetch=1)
    next(pipeline)
    # What the system sends where a batch finds no room.
    os.kill(workers_of(pipeline)[0].pid, signal.SIGBUS)
    with pytest.raises(WorkerDiedError, match=r"\(/dev/shm.*\) is full; make it larger "):
        for _ in range(10_000):
            next(pipeline)
    pipeline.close()


def test_no_space_for_the_queues_of_workers_is_named():
    class Full:
        def __iter__(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    iterator = WatchedIterator(Full())
    with pytest.raises(WorkerDiedError, match=r"is full; make it larger .*data.num_workers=0"):
        next(iterator)
    iterator.close()


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_workers_leave_when_the_run_is_killed(tmp_path):
    (tmp_path / "run.py").write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, sys, time
            sys.path.insert(0, {str(ROOT)!r})
            if __name__ == "__main__":
                from tests.data_pipelines.loading.test_pipeline import pipe
                pipeline = pipe(num_workers=1, num_threads=1)
                next(pipeline)
                print(*[p.pid for p in multiprocessing.active_children()], flush=True)
                time.sleep(60)
            """
        )
    )
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, text=True)
    try:
        (worker,) = map(int, run.stdout.readline().split())
    finally:
        run.kill()
        run.communicate()
    stat = pathlib.Path(f"/proc/{worker}/stat")
    deadline = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the worker outlives its trainer"
        time.sleep(0.2)


def test_class_counts_of_each_epoch_are_logged(caplog):
    caplog.set_level(logging.INFO)
    options = {"sampling": "refine", "refine": {"per_class": 8}, "batch_size": 12}
    take(pipe(Listed(PICTURES, groups=np.arange(24) // 6), **options), 5)
    lines = [r.message for r in caplog.records if "epoch" in r.message]
    assert lines == [f"epoch {e} (refine): a 8, b 8, c 8" for e in range(3)]


def test_class_counts_tell_repetition(caplog):
    caplog.set_level(logging.INFO)
    options = {"sampling": "refine", "refine": {"per_class": 16}, "batch_size": 12}
    pipeline = pipe(Listed(PICTURES), **options)
    take(pipeline, 1)
    twice = "a 16 (8 different), b 16 (8 different), c 16 (8 different)"
    assert [r.message for r in caplog.records] == [f"epoch 0 (refine): {twice}"]
    # 48 examples an epoch are 4 batches.
    starting = [pipeline.epoch_starting(step) for step in range(9)]
    counts = {"a": 16, "b": 16, "c": 16}, {"a": 8, "b": 8, "c": 8}
    expected = {0: (0, *counts), 4: (1, *counts), 8: (2, *counts)}
    assert starting == [expected.get(step) for step in range(9)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "must be positive"),
        ({"seed": -1}, "must not be negative"),
        ({"shard_index": 2, "shard_count": 2}, "outside 0..1"),
        ({"shard_count": 3}, "not divisible by 3 processes"),
        ({"augment": "light"}, "known: none"),
        ({"crop": "nose"}, "known: auto"),
        ({"sampling": "sorted"}, "known: shuffle"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        pipe(**options)


def test_an_empty_source_is_refused():
    with pytest.raises(DataError, match="holds no record"):
        pipe(Listed([]))


def test_settings_come_from_the_config():
    config = {
        "image_size": 20,
        "augment": "poster",
        "augment_overrides": {"rotation": 9.0, "erase": None},
        "sampling": "inverse_frequency",
        "cache": "memory",
        "cache_megabytes": 3,
        "num_threads": 2,
    }
    made = make_pipeline(config, Listed(PICTURES), train=True, batch_size=8, seed=9)
    loader = made._loader
    data = loader.options.data
    assert (data.image_size, loader.options.seed, data.cache_bytes) == (20, 9, 3_000_000)
    assert (loader.params.rotation, loader.params.erase) == (9.0, 0.5)
    assert loader.plan.sampling == "inverse_frequency" and made.buffered == 4
    with pytest.raises(DataError, match="known: none, memory"):
        make_pipeline({"cache": "disk"}, Listed(PICTURES), train=True, batch_size=8)


def test_config_dicts_are_read():
    from ml_collections import ConfigDict

    config = ConfigDict({"image_size": 20, "refine": {"per_group": 3, "per_class": 4}})
    config.sampling = "refine"
    with make_pipeline(config, Listed(PICTURES), train=True, batch_size=6) as made:
        assert next(made)["image"].shape == (6, 20, 20, 3)
        assert made.steps_per_epoch == 2.0
