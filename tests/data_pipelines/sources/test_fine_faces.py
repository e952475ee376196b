"""Synthetic faces with the 33 fine classes: mixtures, drawn labels, and the frozen labels."""

import pickle
import zlib

import numpy as np
import pytest

from data_pipelines.rendering import fine_expressions as fine
from data_pipelines.schema import DataError, Source
from data_pipelines.sources import differences, fingerprint
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.synthetic import SPLITS, SyntheticFaces, render
from tests.data_pipelines.made_images import check_record

COARSE = np.array(fine.COARSE_OF)


def faces(size, ambiguity=0.6, **options):
    return SyntheticFaces(size, classes="fg_emotions", ambiguity=ambiguity, **options)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def test_it_is_a_source_and_its_arrays_agree_with_its_records():
    source = faces(40, seed=4, image_size=64)
    assert isinstance(source, Source)
    assert source.class_names == fine.CLASS_NAMES and source.num_classes == 33
    assert source.hierarchy == "fg_emotions" and SyntheticFaces(4).hierarchy == ""
    assert source.has == SyntheticFaces(4).has | {"expression_probs"}
    for i in (0, 17, 39):
        record = source[i]
        check_record(record, 33)
        assert record["expression"] == source.labels[i]
        assert record["true_expression"] == source.true_labels[i]
        probs = record["expression_probs"]
        assert probs.dtype == np.float32 and probs.shape == (33,)
        np.testing.assert_array_equal(probs, source.true_mixtures[i])
        assert probs.argmax() == source.true_labels[i] and 1 < np.count_nonzero(probs) <= 3
    assert source.class_names[source.true_labels[17]] in source.describe(17)


def test_a_record_does_not_depend_on_size_order_or_process():
    small, large = faces(30, seed=5, image_size=64), faces(3000, seed=5, image_size=64)
    copied = pickle.loads(pickle.dumps(large))
    for i in (29, 0, 8):
        assert same(small[i], large[i])
        assert same(small[i], copied[i])
        assert same(small[i], render(5, i, classes="fg_emotions", ambiguity=0.6, image_size=64))
    np.testing.assert_array_equal(small.true_mixtures, large.true_mixtures[:30])


@pytest.mark.parametrize("ambiguity", [0.0, 0.3, 1.0])
def test_mixtures_sum_to_one(ambiguity):
    mixtures = faces(4000, ambiguity).true_mixtures
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=2e-7)
    assert (mixtures >= 0).all()


def test_without_ambiguity_the_mixture_is_the_label():
    source = faces(4000, 0.0)
    np.testing.assert_array_equal(source.true_mixtures, np.eye(33)[source.labels])
    np.testing.assert_array_equal(source.labels, source.true_labels)
    basic = SyntheticFaces(100)
    np.testing.assert_array_equal(basic.true_mixtures, np.eye(8)[basic.true_labels])


def test_labels_are_drawn_from_the_mixtures():
    source = faces(60_000, 0.8, seed=2, frames_per_video=1)
    mixtures, labels = source.true_mixtures.astype(float), source.labels
    expected, spread = mixtures.sum(axis=0), np.sqrt((mixtures * (1 - mixtures)).sum(axis=0))
    # Of each class as many labels as its weights add up to, within 4 standard deviations.
    assert np.all(np.abs(np.bincount(labels, minlength=33) - expected) < 4 * spread)
    # And of the labels that a class with a weight of about w could get, about w are drawn.
    drawn = np.eye(33)[labels]
    for low, high in ((0.02, 0.1), (0.1, 0.2), (0.2, 0.35), (0.5, 0.7), (0.7, 0.95)):
        cells = (mixtures > low) & (mixtures < high)
        assert cells.sum() > 3000
        assert drawn[cells].mean() == pytest.approx(mixtures[cells].mean(), abs=0.012)
    # The mean of 1 - 0.6 * 0.8 * sqrt(u) is 0.68.
    assert (labels == source.true_labels).mean() == pytest.approx(0.68, abs=0.01)
    outside = COARSE[labels] != COARSE[source.true_labels]
    assert 0.005 < outside.mean() < 0.03


def test_frames_share_the_mixture_and_draw_their_own_labels():
    source = faces(8000, 1.0, frames_per_video=8)
    videos = source.true_mixtures.reshape(1000, 8, 33)
    assert (videos == videos[:, :1]).all()
    labels = source.labels.reshape(1000, 8)
    assert (labels != labels[:, :1]).any(axis=1).mean() > 0.5


def test_persons_are_disjoint_and_the_persons_of_basic_faces():
    sources = [faces(1600, split=split) for split in SPLITS]
    persons = [set(source.persons) for source in sources]
    assert not (persons[0] & persons[1] or persons[0] & persons[2] or persons[1] & persons[2])
    basic, fine_faces = SyntheticFaces(160), faces(160)
    assert basic.persons == fine_faces.persons
    assert (basic.attributes == fine_faces.attributes).all()
    # The same place and camera: corners that no head reaches.
    one, two = basic[0]["image"][:8, :8], fine_faces[0]["image"][:8, :8]
    assert np.abs(one.astype(int) - two).mean() < 3


def test_ambiguity_changes_weights_and_faces_but_not_the_classes():
    sources = {a: faces(400, a, image_size=64) for a in (0.0, 0.5, 1.0)}
    for a, source in sources.items():
        assert (source.true_labels == sources[0.0].true_labels).all()
        others = 1 - source.true_mixtures.max(axis=1)
        assert others.mean() == pytest.approx(0.4 * a, abs=0.03)
    clear, half, full = (s[3]["landmarks"] for s in sources.values())
    np.testing.assert_allclose(half, (clear + full) / 2, atol=0.5)
    assert np.abs(full - clear).max() > 0.2


def test_label_noise_and_imbalance():
    symmetric = faces(60_000, 0.0, symmetric_noise=0.3)
    wrong = symmetric.labels != symmetric.true_labels
    assert abs(wrong.mean() - 0.3) < 0.01
    pairs = np.zeros((33, 33), bool)
    pairs[symmetric.true_labels, symmetric.labels] = True
    assert pairs.all()
    confused = faces(10_000, 0.0, confusable_noise=0.2)
    wrong = confused.labels != confused.true_labels
    assert abs(wrong.mean() - 0.2) < 0.015
    nearest = fine.neighbours()[confused.true_labels, 0]
    assert (confused.labels[wrong] == nearest[wrong]).all()
    assert (COARSE[confused.labels] == COARSE[confused.true_labels]).all()
    # Noise leaves the mixture alone.
    np.testing.assert_array_equal(confused.true_mixtures, np.eye(33)[confused.true_labels])
    counts = np.bincount(faces(60_000, imbalance=20.0).true_labels, minlength=33)
    assert 14 < counts[0] / counts[32] < 28 and counts[:11].sum() > 2 * counts[22:].sum()


def test_splits_of_a_config():
    section = {"classes": "fg_emotions", "ambiguity": 1.0, "symmetric_noise": 0.5}
    section |= {"num_train": 400, "num_validation": 400, "num_test": 400, "frames_per_video": 1}
    sources = make_sources({"source": "synthetic", "synthetic": section})
    agreement = {k: (s.labels == s.true_labels).mean() for k, s in sources.items()}
    # Faces of all splits are ambiguous; other noise is for training alone.
    assert agreement["train"] < 0.4 < 0.5 < agreement["test"] < 0.75
    assert all(s.hierarchy == "fg_emotions" for s in sources.values())


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"ambiguity": 0.5}, "ambiguity = 0.5 has no effect with .* 'basic'"),
        ({"classes": "fg_emotions", "ambiguity": 1.5}, "ambiguity = 1.5; .* from 0 to 1"),
        ({"classes": "fine"}, "classes is 'fine'; known: basic, fg_emotions"),
    ],
)
def test_impossible_arguments_are_named(arguments, words):
    with pytest.raises(DataError, match=words):
        SyntheticFaces(10, **arguments)


def test_fingerprints_differ():
    made = {
        "basic": SyntheticFaces(40),
        "0": faces(40, 0.0),
        "0.3": faces(40, 0.3),
        "0.31": faces(40, 0.31),
    }
    found = {name: fingerprint.of_sources({"train": source}) for name, source in made.items()}
    assert len({f.digest for f in found.values()}) == 4
    classes = differences.first_difference(found["basic"], found["0"])
    assert classes is not None and "there 'neutral', now 'anxiety'" in classes.text
    facts = differences.first_difference(found["0.3"], found["0.31"])
    assert facts is not None and "'ambiguity': 0.31" in facts.text
    assert facts.text.count("'label_version': 2") == 2


# The frozen labels of version 2: if one of these changes, `LABEL_VERSIONS` must too.


def test_labels_of_version_2_are_frozen():
    source = faces(5000, 0.6, seed=1234, imbalance=5.0, symmetric_noise=0.1)
    table = np.column_stack([source.labels, source.true_labels])
    assert zlib.crc32(table.astype("<i4").tobytes()) == LABEL_CHECKSUM
    weights = source.true_mixtures
    np.testing.assert_allclose(weights[::500].max(axis=1), LARGEST_WEIGHTS, atol=1e-4)


def test_faces_of_version_2_are_frozen():
    records = [render(1234, i, classes="fg_emotions", ambiguity=0.6) for i in (0, 21, 42, 63)]
    values = np.concatenate([r["valence_arousal"] for r in records])
    np.testing.assert_allclose(values, FROZEN_VALUES, atol=1e-4)
    marks = np.concatenate([r["landmarks"][[8, 30, 36, 45, 48, 54]] for r in records])
    np.testing.assert_allclose(marks.sum(1), FROZEN_MARKS, atol=0.02)


LABEL_CHECKSUM = 1757021657
# fmt: off
LARGEST_WEIGHTS = [
    0.6976, 0.7603, 0.8281, 0.6876, 0.6875, 0.6593, 0.8149, 0.6889, 0.8365, 0.6941,
]
FROZEN_VALUES = [-0.5497, 0.7743, -0.6950, -0.3899, -0.5612, 0.0409, 0.6892, 0.2627]
FROZEN_MARKS = [
    185.07, 147.83, 93.02, 148.66, 148.76, 185.04,
    175.35, 128.75, 84.36, 127.28, 143.51, 171.39,
    178.25, 150.91, 105.67, 148.79, 149.43, 177.25,
    190.78, 124.61, 85.33, 111.08, 143.82, 160.76,
]
# fmt: on
