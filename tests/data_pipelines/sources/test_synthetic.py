"""Synthetic faces: purity, labels, geometry, knobs, and the frozen look of version 1."""

import concurrent.futures
import pickle
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.rendering import expressions, geometry, hashing, identity
from data_pipelines.schema import FLIP_INDEX, LABEL_ORDERS, DataError, Source
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.synthetic import SPLITS, SyntheticFaces, render
from tests.data_pipelines.made_images import check_record

INNER = slice(17, 68)  # the landmarks without the jaw


def person(number: int = 3) -> identity.Person:
    return identity.describe(*hashing.draw(hashing.fold(number).tolist(), [identity.NUMBERS])[0])


def muscles(units: dict[int, float] | None = None, sides: tuple[float, float] = (1.0, 1.0)):
    levels = np.zeros((len(expressions.ACTION_UNITS), 2))
    for unit, level in (units or {}).items():
        levels[expressions.AU[unit]] = np.array(sides) * level
    return expressions.Muscles(levels)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


# Purity and access.


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 2), st.integers(0, 2**31), st.sampled_from([*SPLITS]))
def test_a_record_is_a_pure_function_of_seed_split_and_index(index, seed, split):
    first = render(seed, index, split=split)
    check_record(first, 8)
    assert same(first, render(seed, index, split=split))


def test_a_record_does_not_depend_on_size_order_or_process():
    small, large = SyntheticFaces(40, seed=5), SyntheticFaces(4000, seed=5)
    forwards = [small[i] for i in (0, 7, 39)]
    backwards = [large[i] for i in (39, 7, 0)][::-1]
    copied = pickle.loads(pickle.dumps(large))
    for record, other, index in zip(forwards, backwards, (0, 7, 39), strict=True):
        assert same(record, other)
        assert same(record, render(5, index))
        assert same(record, copied[index])
    assert same(small[-1], small[39])
    assert len(small) == 40
    with pytest.raises(IndexError, match="40"):
        small[40]


def test_threads_draw_the_same_pictures():
    source = SyntheticFaces(64, seed=2)
    alone = [source[i]["image"] for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = [record["image"] for record in pool.map(source.__getitem__, range(24))]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_seeds_and_splits_differ():
    base = SyntheticFaces(8, seed=0)[0]["image"]
    assert not np.array_equal(base, SyntheticFaces(8, seed=1)[0]["image"])
    assert not np.array_equal(base, SyntheticFaces(8, seed=0, split="test")[0]["image"])


def test_hash_gives_the_same_key_for_a_number_and_for_a_vector():
    numbers = np.array([0, 1, 5, 2**40])
    for base in (0, 7, -3):
        single = [hashing.fold(base, int(n))[0] for n in numbers]
        assert hashing.fold(base, numbers).tolist() == single
    u = hashing.uniforms(hashing.fold(np.arange(20_000)), 2)
    assert u.min() > 0 and u.max() < 1
    np.testing.assert_allclose(u.mean(0), 0.5, atol=0.01)
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.02


# The protocol and the labels.


def test_it_is_a_source_and_its_arrays_agree_with_its_records():
    source = SyntheticFaces(48, seed=4, symmetric_noise=0.4, missing_expression=0.2)
    assert isinstance(source, Source)
    assert source.class_names == LABEL_ORDERS["affectnet8"]
    assert source.has == {"expression", "valence_arousal", "landmarks", "attributes"}
    for i in range(0, 48, 5):
        record = source[i]
        assert record["image"].shape == (128, 128, 3) and record["image"].dtype == np.uint8
        assert record["expression"] == source.labels[i]
        assert record["true_expression"] == source.true_labels[i]
        assert record["group"] == source.groups[i]
        assert np.array_equal(record["attributes"], source.attributes[i])
        assert record["attributes"].dtype == np.int32
    assert source.labels.dtype == source.groups.dtype == source.attributes.dtype == np.int32
    text = source.describe(17)
    assert "17" in text and source.class_names[source.true_labels[17]] in text
    for names, column in zip(source.attribute_values, source.attributes.T, strict=True):
        assert column.max() < len(names)


def test_classes_are_balanced_unless_asked_otherwise():
    labels = SyntheticFaces(40_000).labels
    np.testing.assert_allclose(np.bincount(labels, minlength=8) / 40_000, 1 / 8, atol=0.015)
    counts = np.bincount(SyntheticFaces(40_000, imbalance=20.0).labels, minlength=8)
    assert np.all(np.diff(counts) < 0)
    assert 14 < counts[0] / counts[7] < 28


def test_persons_and_videos_are_groups_of_neighbours_and_splits_share_no_person():
    sources = [SyntheticFaces(4000, split=split) for split in SPLITS]
    persons = [set(source.persons) for source in sources]
    assert not (persons[0] & persons[1] or persons[0] & persons[2] or persons[1] & persons[2])
    train = sources[0]
    assert len(persons[0]) == 4000 // 16
    for values in (np.array(train.persons), train.true_labels):
        per_video = values.reshape(-1, 4)
        assert (per_video == per_video[:, :1]).all()
    assert (train.groups == np.arange(4000) // 4).all()
    assert (train.attributes.reshape(-1, 16, 3) == train.attributes.reshape(-1, 16, 3)[:, :1]).all()


def test_frames_of_a_video_move_smoothly():
    source = SyntheticFaces(64, frames_per_video=8, seed=1)
    records = [source[i] for i in range(64)]
    marks = np.stack([r["landmarks"] for r in records]).reshape(8, 8, 68, 2)
    within = np.linalg.norm(np.diff(marks, axis=1), axis=-1).mean()
    between = np.linalg.norm(marks[1:, 0] - marks[:-1, 0], axis=-1).mean()
    assert 0.1 < within < 0.35 * between
    labels = np.stack([r["valence_arousal"] for r in records]).reshape(8, 8, 2)
    assert np.abs(np.diff(labels, axis=1)).mean() < 0.15
    images = np.stack([r["image"] for r in records]).reshape(8, 8, -1).astype(float)
    assert np.abs(np.diff(images, axis=1)).mean() < np.abs(images[1:, 0] - images[:-1, 0]).mean()


def test_frames_closer_in_time_differ_less():
    def motion(frame_time):
        source = SyntheticFaces(8, seed=3, frames_per_video=8, frame_time=frame_time)
        marks = np.stack([source[i]["landmarks"] for i in range(8)])
        return np.linalg.norm(np.diff(marks, axis=0), axis=-1).mean()

    assert motion(0.05) < 0.3 * motion(0.35)
    # The first frame is that of any other speed.
    slow, fast = (SyntheticFaces(8, frames_per_video=8, frame_time=t)[0] for t in (0.05, 0.35))
    np.testing.assert_array_equal(slow["image"], fast["image"])


def test_valence_and_arousal_follow_the_category_and_the_intensity():
    source = SyntheticFaces(640, frames_per_video=1, image_size=32)
    valence, arousal = np.stack([source[i]["valence_arousal"] for i in range(320)]).T
    shown = source.true_labels[:320]
    mean_v, mean_a = (
        dict(zip(source.class_names, [x[shown == c].mean() for c in range(8)], strict=True))
        for x in (valence, arousal)
    )
    assert abs(mean_v["neutral"]) < 0.1 and abs(mean_a["neutral"]) < 0.1
    assert mean_v["happy"] > 0.4
    assert all(mean_v[name] < -0.2 for name in ("sad", "fear", "disgust", "anger", "contempt"))
    assert mean_a["sad"] < -0.1
    assert all(mean_a[name] > 0.3 for name in ("surprise", "fear", "anger"))
    assert valence[shown == 1].std() > 0.08  # the intensity varies


def test_attributes_are_uneven_on_purpose():
    bands = SyntheticFaces(64_000).attributes[::16]
    shares = np.bincount(bands[:, 0], minlength=4) / len(bands)
    np.testing.assert_allclose(shares, [0.40, 0.30, 0.18, 0.12], atol=0.03)
    assert 0.1 < bands[:, 2].mean() < 0.2


def test_darker_bands_have_darker_skin():
    people = [person(k) for k in range(300)]
    skin = [np.mean([sum(p.skin) for p in people if p.attributes[0] == k]) for k in range(4)]
    assert np.all(np.diff(skin) < 0)
    assert skin[0] > 1.8 * skin[3]


# Landmarks.


def test_landmarks_are_in_ibug_order_and_mostly_inside():
    source = SyntheticFaces(1600, seed=9)
    inside = []
    for i in range(0, 1600, 40):
        record = source[i]
        marks = record["landmarks"]
        inside.append(((marks >= 0) & (marks <= 127)).all(1).mean())
        x0, y0, x1, y1 = record["box"]
        assert x0 <= marks[:, 0].min() and marks[:, 0].max() <= x1
        assert y0 < marks[:, 1].min() and marks[:, 1].max() <= y1
        # Along the eyes, from image left to right, whatever the pose drawn by default.
        corners = marks[[36, 39, 42, 45], 0]
        assert np.all(np.diff(corners) > 0)
        assert marks[48, 0] < marks[54, 0]
        assert marks[8, 1] > marks[57, 1] > marks[33, 1] > marks[27, 1]
    assert np.mean(inside) > 0.97


def test_a_frontal_face_is_laid_out_as_ibug_points_are():
    points = geometry.landmarks(person(), muscles())
    x, y = points[:, 0], points[:, 1]
    assert np.all(np.diff(x[:17]) > 0) and y[8] == y[:17].max()
    assert np.all(np.diff(x[17:27]) > 0)
    assert np.all(np.diff(y[27:31]) > 0) and np.all(np.diff(x[31:36]) > 0)
    assert np.all(np.diff(x[36:40]) > 0) and x[40] > x[41]
    assert np.all(y[[37, 38, 43, 44]] < y[[41, 40, 47, 46]])
    assert np.all(np.diff(x[48:55]) > 0) and np.all(np.diff(x[54:60]) < 0)
    assert np.all(np.diff(x[60:65]) > 0) and np.all(np.diff(x[64:68]) < 0)
    assert y[51] < y[62] <= y[66] < y[57]


def test_mirrored_muscles_give_mirrored_landmarks():
    someone = person()
    one_sided = geometry.landmarks(someone, muscles({12: 1.0, 14: 1.0, 4: 0.5}, (1.0, 0.1)))
    other = geometry.landmarks(someone, muscles({12: 1.0, 14: 1.0, 4: 0.5}, (0.1, 1.0)))
    np.testing.assert_allclose(one_sided[FLIP_INDEX] * [-1, 1, 1], other, atol=1e-9)
    assert one_sided[48, 1] < one_sided[54, 1] - 5  # the active corner is the higher one


@pytest.mark.parametrize(
    "unit, points, axis, sign",
    [
        (1, [21, 22], 1, -1),
        (2, [18, 25], 1, -1),
        (4, [21, 22], 1, 1),
        (5, [37, 38, 43, 44], 1, -1),
        (7, [40, 41, 46, 47], 1, -1),
        (6, [40, 41, 46, 47], 1, -1),
        (9, [31, 35], 1, -1),
        (12, [48, 54], 1, -1),
        (15, [48, 54], 1, 1),
        (16, [57], 1, 1),
        (17, [57, 8], 1, -1),
        (20, [54], 0, 1),
        (10, [50, 52], 1, -1),
        (26, [8, 57], 1, 1),
        (43, [37, 38, 43, 44], 1, 1),
    ],
)
def test_each_action_unit_moves_its_landmarks(unit, points, axis, sign):
    someone, with_it = person(), {unit: 1.0} if unit != 16 else {16: 1.0, 25: 1.0}
    rest = geometry.landmarks(someone, muscles({25: 1.0} if unit == 16 else None))
    moved = geometry.landmarks(someone, muscles(with_it))
    assert np.all(sign * (moved - rest)[points, axis] > 0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 1.2), min_size=38, max_size=38))
def test_eyelids_and_lips_never_cross(number, levels):
    state = expressions.Muscles(np.array(levels).reshape(-1, 2))
    y = geometry.landmarks(person(number), state)[:, 1]
    assert np.all(y[[37, 38, 43, 44]] < y[[41, 40, 47, 46]])
    assert np.all(y[[61, 62, 63]] <= y[[67, 66, 65]])
    assert np.all(y[[50, 51, 52]] < y[[61, 62, 63]])
    assert np.all(y[[67, 66, 65]] < y[[58, 57, 56]])


def test_the_features_lie_under_their_landmarks():
    """Lips are redder than the chin where the landmarks say; 6 pixels lower, they are not."""

    def redness(image: np.ndarray, places: np.ndarray) -> float:
        x, y = np.clip(np.round(places).astype(int), 0, 127).T
        red, green, blue = image[y, x].astype(float).mean(0)
        return red / (green + blue)

    here = away = total = 0
    source = SyntheticFaces(4000, seed=3)
    for i in range(0, 4000, 32):
        record = source[i]
        if source.true_labels[i] not in (0, 2) or source.attributes[i, 0] > 1:
            continue
        image = cv2.blur(record["image"], (2, 2))
        marks = record["landmarks"]
        lips = 0.5 * (marks[[66, 65, 67]] + marks[[57, 56, 58]])
        chin = 0.35 * marks[[57]] + 0.65 * marks[[8]]
        here += redness(image, lips) > 1.15 * redness(image, chin)
        away += redness(image, lips + np.array([0.0, 6.0])) > 1.15 * redness(image, chin)
        total += 1
    assert total >= 12
    assert here >= 0.9 * total
    assert away <= 0.3 * total


def test_pictures_of_other_sizes_show_the_same_scene():
    small, base, large = (render(6, 12, image_size=s) for s in (64, 128, 192))
    # Centres of pixels count: a length scales about the corner of the picture, at -0.5.
    for record, factor in ((small, 0.5), (large, 1.5)):
        scaled = (base["landmarks"] + 0.5) * factor - 0.5
        np.testing.assert_allclose(record["landmarks"], scaled, atol=1e-3)
        size = record["image"].shape[0]
        picture = cv2.resize(base["image"], (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(picture.astype(float) - record["image"]).mean() < 9


# Knobs.


def test_label_noise_keeps_the_true_label_aside():
    symmetric = SyntheticFaces(20_000, symmetric_noise=0.3)
    wrong = symmetric.labels != symmetric.true_labels
    assert abs(wrong.mean() - 0.3) < 0.015
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (symmetric.true_labels[wrong], symmetric.labels[wrong]), 1)
    assert (pairs[~np.eye(8, dtype=bool)] > 0).all()
    confused = SyntheticFaces(20_000, confusable_noise=0.2)
    wrong = confused.labels != confused.true_labels
    assert abs(wrong.mean() - 0.2) < 0.015
    assert {
        (int(a), int(b))
        for a, b in zip(confused.true_labels[wrong], confused.labels[wrong], strict=True)
    } == {(0, 2), (2, 0), (1, 7), (7, 1), (3, 4), (4, 3), (5, 6), (6, 5)}
    assert np.array_equal(symmetric.true_labels, confused.true_labels)
    assert np.array_equal(symmetric[3]["image"], confused[3]["image"])


def test_missing_labels():
    source = SyntheticFaces(
        600,
        missing_expression=0.5,
        missing_valence_arousal=0.3,
        missing_landmarks=1.0,
        image_size=32,
    )
    assert 0.4 < (source.labels == -1).mean() < 0.6
    records = [source[i] for i in range(100)]
    assert all(np.isnan(r["landmarks"]).all() and np.isfinite(r["box"]).all() for r in records)
    gone = np.array([np.isnan(r["valence_arousal"]).all() for r in records])
    assert 0.15 < gone.mean() < 0.45
    assert all((r["expression"] == -1) == (source.labels[i] == -1) for i, r in enumerate(records))
    assert all(0 <= r["true_expression"] < 8 for r in records)


def test_the_second_camera_sees_the_same_people_otherwise():
    a, b = SyntheticFaces(400, domain="a"), SyntheticFaces(400, domain="b")
    assert np.array_equal(a.labels, b.labels)
    colder = []
    for i in range(0, 400, 40):
        one, two = a[i], b[i]
        assert np.array_equal(one["valence_arousal"], two["valence_arousal"])
        colder.append(
            np.subtract(*two["image"].mean((0, 1))[[2, 0]])
            - np.subtract(*one["image"].mean((0, 1))[[2, 0]])
        )
    assert np.mean(colder) > 5


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"split": "dev"}, "train"),
        ({"version": 99}, "version"),
        ({"image_size": 8}, "image_size"),
        ({"size": 2**31}, "size"),
        ({"imbalance": 0.5}, "imbalance"),
        ({"frames_per_video": 0}, "frames_per_video"),
        ({"symmetric_noise": 1.5}, "symmetric_noise"),
        ({"symmetric_noise": 0.6, "confusable_noise": 0.6}, "confusable_noise"),
        ({"missing_landmarks": float("nan")}, "missing_landmarks"),
        ({"domain": "c"}, "domain"),
        ({"missing_landmark": 0.5}, "missing_landmarks"),
    ],
)
def test_impossible_arguments_are_named(arguments, words):
    with pytest.raises(DataError, match=words):
        SyntheticFaces(**{"size": 10, **arguments})


def test_sources_from_a_config():
    section = {
        "num_train": 64,
        "num_validation": 32,
        "num_test": 16,
        "render_size": 64,
        "symmetric_noise": 0.5,
        "missing_landmarks": 1.0,
        "frames_per_video": 2,
        "test_domain": "b",
    }
    sources = make_sources({"source": "synthetic", "synthetic": section})
    assert {k: len(v) for k, v in sources.items()} == {"train": 64, "validation": 32, "test": 16}
    assert (sources["train"].labels != sources["train"].true_labels).any()
    assert np.isnan(sources["train"][0]["landmarks"]).all()
    for split in ("validation", "test"):
        assert (sources[split].labels == sources[split].true_labels).all()
        assert np.isfinite(sources[split][0]["landmarks"]).all()
    assert [sources[k].options.domain for k in sources] == ["a", "a", "b"]
    assert sources["test"][0]["image"].shape == (64, 64, 3)
    with pytest.raises(DataError, match="num_train"):
        make_sources({"source": "synthetic", "synthetic": {"num_trian": 3}})


# The frozen look of version 1: if one of these changes, the version must too.


def test_labels_of_version_1_are_frozen():
    source = SyntheticFaces(
        5000, seed=1234, imbalance=5.0, symmetric_noise=0.1, missing_expression=0.1
    )
    table = np.column_stack([source.labels, source.true_labels, source.attributes])
    assert zlib.crc32(table.astype("<i4").tobytes()) == LABEL_CHECKSUM
    values = np.concatenate([render(1234, i)["valence_arousal"] for i in FROZEN])
    np.testing.assert_allclose(values, FROZEN_VALUES, atol=1e-4)


def test_pictures_of_version_1_are_frozen():
    """Means over a 4x4 grid, in grey levels: libraries may round, the look may not move."""
    for index, expected in zip(FROZEN, FROZEN_PICTURES, strict=True):
        image = render(1234, index)["image"]
        means = image.reshape(4, 32, 4, 32, 3).mean((1, 3, 4))
        np.testing.assert_allclose(means.ravel(), expected, atol=1.5)


def test_landmarks_of_version_1_are_frozen():
    marks = np.concatenate([render(1234, i)["landmarks"][[8, 30, 36, 45, 48, 54]] for i in FROZEN])
    np.testing.assert_allclose(marks.sum(1), FROZEN_MARKS, atol=0.02)


FROZEN = (0, 21, 42, 63)
LABEL_CHECKSUM = 3921608297
# fmt: off
FROZEN_VALUES = [-0.1120, 0.1354, -0.6119, -0.3011, 0.7435, 0.2707, -0.2819, 0.1133]
FROZEN_PICTURES = [
    [75.8, 107.5, 147.2, 60.1, 66.4, 166.5, 165.8, 75.5,
     58.3, 174.0, 138.3, 65.2, 51.3, 117.3, 112.0, 61.4],
    [53.4, 39.3, 58.4, 50.6, 43.7, 103.4, 172.8, 81.1,
     58.6, 74.7, 168.0, 58.3, 86.7, 51.5, 123.1, 46.1],
    [95.4, 38.8, 36.9, 108.2, 104.5, 87.2, 120.2, 82.8,
     67.2, 95.8, 119.9, 76.2, 82.1, 77.4, 96.8, 87.6],
    [78.1, 151.8, 150.1, 115.7, 107.2, 132.7, 174.2, 116.3,
     125.3, 106.7, 150.5, 149.0, 118.4, 84.4, 122.2, 143.4],
]
FROZEN_MARKS = [
    183.16, 147.83, 93.02, 148.66, 150.52, 179.90,
    172.67, 125.07, 82.63, 124.90, 140.57, 167.68,
    175.67, 145.52, 101.96, 145.29, 138.15, 168.96,
    182.27, 122.66, 80.45, 118.27, 139.40, 158.68,
]
# fmt: on
