import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.evaluation.smoothing import smooth
from affect_jax.inference import tracks
from affect_jax.inference.tracks import Smoother, Tracker
from tests.affect_jax.inference import media


def box(x, y=0.0, side=40.0):
    return (x, y, x + side, y + side)


def look(face):
    return tracks.look(face, np.array([0, 0, *face.shape[1::-1]]))


@pytest.fixture(scope="module")
def looks():
    return [look(face) for face in media.faces()[:4]]


def follow(frames, looks, **options):
    """Tracks of frames, each a dict of person -> box, at 25 frames a second."""
    tracker = Tracker(**options)
    found = []
    for number, people in frames:
        boxes = np.array(list(people.values()), np.float32)
        given = tracker.update(boxes, [looks[p] for p in people], number, number / 25)
        found.append(dict(zip(people, given, strict=True)))
    return found


def test_overlaps():
    one = np.array([box(0), box(100)])
    np.testing.assert_allclose(
        tracks.overlaps(one, np.array([box(0), box(20)])), [[1, 1 / 3], [0, 0]]
    )


def test_a_look_does_not_change_with_the_light(looks):
    face = media.faces()[0]
    darker = (face * 0.6 + 10).astype(np.uint8)
    assert look(darker) @ looks[0] > 0.98
    assert abs(looks[0].mean()) < 1e-6 and np.linalg.norm(looks[0]) == pytest.approx(1, abs=1e-5)


def test_a_look_is_of_the_box_alone_at_any_size(looks):
    face = media.faces()[0]
    picture = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    picture[90:602, 70:582] = cv2.resize(face, (512, 512), interpolation=cv2.INTER_CUBIC)
    assert tracks.look(picture, np.array([70, 90, 582, 602])) @ looks[0] > 0.99
    np.testing.assert_array_equal(tracks.look(face, np.array([130, 0, 170, 40])), tracks.NO_LOOK)
    np.testing.assert_array_equal(tracks.look(face, np.array([9, 9, 9, 20])), tracks.NO_LOOK)
    reaching_out = tracks.look(face, np.array([-20, -20, 108, 108]))
    assert np.linalg.norm(reaching_out) == pytest.approx(1, abs=1e-5)


def test_two_people_keep_their_tracks_in_any_order(looks):
    frames = []
    for n in range(20):
        people = {0: box(3 * n), 1: box(200 - 3 * n, 100)}
        frames.append((n, people if n % 2 else dict(reversed(people.items()))))
    found = follow(frames, looks)
    assert all(f == {0: found[0][0], 1: found[0][1]} for f in found)
    assert sorted(found[0].values()) == [0, 1]


def test_a_face_comes_back_to_its_track_within_a_second_but_not_later(looks):
    first, near, far = (0, {0: box(0)}), (20, {0: box(10)}), (60, {0: box(10)})
    assert follow([first, near], looks) == [{0: 0}, {0: 0}]
    assert follow([first, far], looks) == [{0: 0}, {0: 1}]


def test_few_frames_a_second_give_a_face_more_time(looks):
    frames = [(0, {0: box(0)}), (50, {0: box(10)}), (100, {0: box(20)})]
    assert follow(frames, looks, fps=0.5) == [{0: 0}, {0: 0}, {0: 0}]


def test_another_face_at_the_same_place_is_another_track(looks):
    unlike = -looks[0]
    found = follow([(0, {0: box(0)}), (1, {1: box(0)})], [looks[0], unlike])
    assert found == [{0: 0}, {1: 1}]


def test_a_fast_face_is_known_by_its_look(looks):
    assert follow([(0, {0: box(0)}), (1, {0: box(55)})], looks) == [{0: 0}, {0: 0}]
    assert follow([(0, {0: box(0)}), (1, {0: box(300)})], looks) == [{0: 0}, {0: 1}]


def test_frames_without_faces_or_times(looks):
    tracker = Tracker()
    assert tracker.update(np.zeros((0, 4)), [], 0, np.nan) == []
    assert tracker.update(np.array([box(0)]), looks[:1], 1, np.nan) == [0]
    assert tracker.update(np.array([box(2)]), looks[:1], 2, np.nan) == [0]


@settings(max_examples=30)
@given(st.integers(1, 14), st.randoms(use_true_random=False))
def test_tracks_go_on_from_their_state(stop, random):
    looks = [look(face) for face in media.faces()[:4]]
    frames = [
        (n, {p: box(random.uniform(0, 90) + 60 * p) for p in range(4) if random.random() < 0.8})
        for n in range(15)
    ]
    whole, half = Tracker(), Tracker()
    for number, people in frames:
        if number == stop:
            half = Tracker(state=json.loads(json.dumps(half.state())))
        arguments = np.array(list(people.values())), [looks[p] for p in people], number, number / 25
        assert whole.update(*arguments) == half.update(*arguments)
        assert whole.alive == half.alive


def test_smoothing_is_that_of_evaluation(looks):
    rng = np.random.default_rng(0)
    values, numbers = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    smoother = Smoother()
    found = []
    for value, number in zip(values, numbers, strict=True):
        smoother = Smoother(json.loads(json.dumps(smoother.state())))  # as after a crash
        found.append(smoother.update(int(number), value))
    np.testing.assert_array_equal(found, smooth(values, numbers))


def test_a_track_that_ended_is_forgotten():
    smoother = Smoother()
    smoother.update(0, np.zeros(2))
    smoother.update(1, np.zeros(2))
    smoother.keep(frozenset([1]))
    assert [number for number, _ in smoother.state()] == [1]
