"""Smoothing over video frames: the paper's weights, tracks apart, and figures from whole splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affect_jax import systems
from affect_jax.config import ConfigError
from affect_jax.evaluation import evaluator as evaluator_lib
from affect_jax.evaluation import smoothing
from affect_jax.runtime.parallel import Mapper
from data_pipelines.sources import synthetic
from tests.affect_jax import tiny
from tests.data_pipelines.made_images import Listed


def test_the_last_five_outputs_with_the_weights_of_the_paper():
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    got = smoothing.smooth(values, np.zeros(6, int))
    wanted = [
        1,
        (0.4 * 2 + 0.25 * 1) / 0.65,
        (0.4 * 4 + 0.25 * 2 + 0.15 * 1) / 0.8,
        (0.4 * 8 + 0.25 * 4 + 0.15 * 2 + 0.1 * 1) / 0.9,
        0.4 * 16 + 0.25 * 8 + 0.15 * 4 + 0.1 * 2 + 0.1 * 1,
        0.4 * 32 + 0.25 * 16 + 0.15 * 8 + 0.1 * 4 + 0.1 * 2,
    ]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


tracks_strategy = st.lists(st.integers(-1, 3), min_size=1, max_size=40).map(np.array)


@given(tracks_strategy, st.floats(-1e3, 1e3))
def test_constant_sequences_stay_as_they_are(tracks, value):
    values = np.full((len(tracks), 3), value)
    np.testing.assert_allclose(smoothing.smooth(values, tracks), values, rtol=1e-12)


@given(tracks_strategy, st.integers(0, 2**32 - 1))
def test_each_track_is_smoothed_as_if_it_were_alone(tracks, seed):
    values = np.random.default_rng(seed).normal(size=(len(tracks), 2))
    got = smoothing.smooth(values, tracks)
    for track in set(tracks.tolist()):
        rows = np.flatnonzero(tracks == track)
        alone = smoothing.smooth(values[rows], np.zeros(len(rows), int))
        np.testing.assert_array_equal(got[rows], values[rows] if track < 0 else alone)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_smoothed_values_stay_between_those_they_come_from_and_know_no_future(count, seed):
    values = np.random.default_rng(seed).normal(size=count)
    got = smoothing.smooth(values, np.zeros(count, int))
    for i in range(count):
        window = values[max(i - 4, 0) : i + 1]
        assert window.min() - 1e-12 <= got[i] <= window.max() + 1e-12
        cut = smoothing.smooth(values[: i + 1], np.zeros(i + 1, int))
        np.testing.assert_array_equal(cut, got[: i + 1])


def test_frames_that_could_not_be_read_are_passed_over():
    predictions = {"index": np.array([0, 2, 3, 5]), "valence": np.array([1.0, 0.0, 1.0, 1.0])}
    got = smoothing.smooth_predictions(predictions, np.array([7, 7, 7, 8, 8, 8]))
    np.testing.assert_allclose(got["valence"], [1, 0.25 / 0.65, 1, 1])


@pytest.mark.parametrize("batch_size", [8, 16, 40])
def test_the_evaluator_joins_batches_before_it_smooths(batch_size):
    source = synthetic.SyntheticFaces(36, image_size=32, frames_per_video=6)
    noise = np.random.default_rng(0).normal(size=(36, 2)).astype(np.float32)
    labels = np.stack([source[i]["valence_arousal"] for i in range(36)])
    system = systems.create(
        tiny.config(), class_names=("a",), has=frozenset({"valence_arousal"}), class_counts=(36,)
    )
    evaluator = object.__new__(evaluator_lib.Evaluator)
    evaluator._system, evaluator._flip, evaluator._min_count = system, False, 1
    evaluator._by_batch = None

    class Here(Mapper):
        """Passes batches through, in an order that is not that of the source."""

        def __init__(self):
            pass

        def prefetch(self, batches):
            return [(b, b) for b in batches]

        def local_rows(self, outputs):
            return outputs

    evaluator._mapper = Here()
    evaluator._step = lambda view, b: {
        "valence": noise[b["index"], 0],
        "arousal": noise[b["index"], 1],
    }
    order = np.random.default_rng(1).permutation(36)
    batches = [
        {
            "index": order[k : k + batch_size],
            "mask": np.ones(len(order[k : k + batch_size]), bool),
            "valence_arousal": labels[order[k : k + batch_size]],
        }
        for k in range(0, 36, batch_size)
    ]
    result = evaluator.run({}, batches, tracks=source.tracks)
    assert not result.predictions
    wanted = smoothing.smooth(noise, np.arange(36) // 6)
    rmse = np.sqrt(np.mean((wanted[:, 0] - labels[:, 0]) ** 2))
    assert result.video["valence_rmse"] == pytest.approx(rmse)
    assert result.video["valence_rmse"] < result.metrics["valence_rmse"]


def test_a_split_without_videos_is_refused_and_left_alone_when_not_asked():
    stills = Listed([None, None, None])
    assert evaluator_lib.tracks_to_smooth(tiny.config(), stills) is None
    with pytest.raises(ConfigError, match="column `video`"):
        evaluator_lib.tracks_to_smooth(tiny.config(eval__video=True), stills)
    videos = synthetic.SyntheticFaces(8, image_size=32, frames_per_video=3)
    tracks = evaluator_lib.tracks_to_smooth(tiny.config(eval__video=True), videos)
    np.testing.assert_array_equal(tracks, [0, 0, 0, 1, 1, 1, 2, 2])
