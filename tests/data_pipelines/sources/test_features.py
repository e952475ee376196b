"""Files of stored features, and the sources made of them."""

import copy
import logging
import pathlib
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.defaults import DataConfig
from data_pipelines.schema import DataError, Source
from data_pipelines.sources import differences, features, fingerprint
from data_pipelines.sources.cache import DataCache
from data_pipelines.sources.make import evaluation_source, make_sources
from tests.data_pipelines import made_features
from tests.data_pipelines.made_images import check_record


def sources_of(path, **options):
    return make_sources(DataConfig(source="features", features=str(path), **options))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return made_features.save(tmp_path_factory.mktemp("features") / "f.npz")


def test_a_file_is_three_sources_of_all_its_columns(path):
    stored, sources = made_features.arrays(), sources_of(path)
    assert tuple(sources) == ("train", "validation", "test")
    for split, source in sources.items():
        assert isinstance(source, Source)
        assert len(source) == made_features.SIZES[split] and source.n_features == 8
        assert source.class_names == made_features.CLASSES
        assert source.attribute_names == ("gender",) and source.attribute_values == (("m", "f"),)
        assert source.has == {"expression", "valence_arousal", "expression_probs", "attributes"}
        record = source[5]
        check_record({**record, "image": np.zeros((1, 1, 3), np.uint8)}, 3)
        for name, column in {
            "image": "features",
            "expression": "expression",
            "valence_arousal": "valence_arousal",
            "expression_probs": "expression_probs",
            "group": "group",
            "attributes": "attributes",
        }.items():
            np.testing.assert_array_equal(record[name], stored[f"{split}/{column}"][5])
        assert record["image"].dtype == np.float32
        np.testing.assert_array_equal(source.tracks, stored[f"{split}/track"])
        assert source.persons[9] == f"{split} 1" and source.has_persons
        assert source.describe(5) == f"{path}: {split} 5 ({split}/5.png)"


def test_features_and_classes_are_enough(tmp_path):
    content = made_features.plain()
    content["train/features"] = content["train/features"].astype(np.float64)
    source = sources_of(made_features.save(tmp_path / "f.npz", content))["train"]
    assert source.has == {"expression"} and not source.has_persons and source.hierarchy == ""
    assert source[3]["image"].dtype == np.float32
    assert len(set(source.persons)) == len(source)
    np.testing.assert_array_equal(source.true_labels, source.labels)
    assert (source.groups == -1).all() and (source.tracks == -1).all()
    assert source.describe(3).endswith("f.npz: train 3")
    assert np.isnan(source[3]["valence_arousal"]).all()


def test_what_a_file_says_of_itself_comes_back(tmp_path):
    made_from = {"model": "m", "checkpoint": 3}
    about = {"hierarchy": "fg_emotions", "made_from": made_from, "learns_votes": False}
    path = made_features.save(tmp_path / "f.npz", made_features.arrays(**about))
    file = features.read(path)
    assert file.hierarchy == "fg_emotions" and file.made_from == made_from
    source = sources_of(path)["test"]
    assert source.hierarchy == "fg_emotions"
    learns = {v: source.learns_votes(DataConfig(votes=v)) for v in ("auto", "learn", "ignore")}
    assert learns == {"auto": False, "learn": True, "ignore": False}


def test_some_records_are_a_source(path):
    whole = sources_of(path, features_noise=0.5)["train"]
    whole.record_columns()  # hashes of all records are kept
    rows = np.array([7, 2, 30])
    part = whole.take(rows)
    assert isinstance(part, Source) and len(part) == 3
    for k, row in enumerate(rows.tolist()):
        one, other = part[k], whole[row]
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        assert part.persons[k] == whole.persons[row]
        assert part.describe(k).endswith(f"(train/{row}.png)")
    for name in ("labels", "true_labels", "groups", "tracks"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
    columns, before = part.record_columns(), whole.record_columns()
    np.testing.assert_array_equal(columns["features"], before["features"][rows])


def test_a_source_can_be_pickled(path):
    source = sources_of(path, features_noise=0.5)["train"]
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.labels, source.labels)
    np.testing.assert_array_equal(again[1]["image"], source[1]["image"])


# ------------------------------------------------------------------------- label noise


@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=60),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_noise_replaces_known_labels_by_other_classes(labels, low, high, seed):
    low, high = sorted((low, high))
    labels = np.array(labels, np.int32)
    some, more = (features.symmetric_noise(labels, 5, p, seed) for p in (low, high))
    assert some.dtype == np.int32
    assert ((some >= 0) == (labels >= 0)).all() and (some < 5).all()
    replaced = some != labels
    np.testing.assert_array_equal(more[replaced], some[replaced])
    shorter = features.symmetric_noise(labels[: len(labels) // 2], 5, low, seed)
    np.testing.assert_array_equal(shorter, some[: len(shorter)])


def test_noise_of_a_fraction_is_even_over_the_other_classes():
    labels = np.repeat(np.arange(4), 5000)
    noisy = features.symmetric_noise(labels, 4, 0.3, seed=1)
    counts = np.zeros((4, 4))
    np.add.at(counts, (labels, noisy), 1)
    np.testing.assert_allclose(np.diag(counts) / 5000, 0.7, atol=0.03)
    np.testing.assert_allclose(counts[~np.eye(4, dtype=bool)] / 5000, 0.1, atol=0.02)
    assert (features.symmetric_noise(labels, 4, 1.0) != labels).all()
    assert (features.symmetric_noise(labels, 4, 0.3, seed=2) != noisy).any()
    np.testing.assert_array_equal(features.symmetric_noise(labels, 4, 0.0), labels)


def test_only_training_labels_get_noise_and_lose_their_votes(path):
    clean, noisy = sources_of(path), sources_of(path, features_noise=0.5, features_noise_seed=3)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(noisy[split].labels, clean[split].labels)
    train, before = noisy["train"], clean["train"]
    replaced = train.labels != before.labels
    assert 10 < replaced.sum() < 38
    np.testing.assert_array_equal(train.true_labels, before.labels)
    np.testing.assert_array_equal(train.columns["expression"], train.labels)
    votes = train.columns["expression_probs"]
    assert np.isnan(votes[replaced]).all()
    np.testing.assert_array_equal(votes[~replaced], before.columns["expression_probs"][~replaced])


def test_noise_needs_features_and_another_class(path, tmp_path):
    with pytest.raises(DataError, match=r"features_noise = 0\.1 has no effect with data"):
        DataConfig(source="synthetic", features_noise=0.1)
    content = made_features.plain()
    content["class_names"] = np.array(["a"])
    for split in made_features.SIZES:
        content[f"{split}/expression"] = content[f"{split}/expression"] * 0
    with pytest.raises(DataError, match="at least two classes"):
        sources_of(made_features.save(tmp_path / "f.npz", content), features_noise=0.1)


# ------------------------------------------------------------------------- bad files


def changed(name, value):
    return {**made_features.arrays(), name: value}


def without(name):
    return {k: v for k, v in made_features.arrays().items() if k != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("test/features"), "has no test/features; every split needs it"),
        (without("validation/expression"), "has no validation/expression"),
        (without("class_names"), "class_names must be different names"),
        (changed("class_names", np.array(["a", "b", "A"])), "class_names must be different names"),
        (changed("train/features", np.zeros(48, np.float32)), r"has the shape \(48,\)"),
        (
            changed("test/features", np.zeros((24, 7), np.float32)),
            r"test/features is float32 \[24, 7\]; it must be float32 \[24, 8\]",
        ),
        (
            changed("train/expression", np.zeros(47, np.int32)),
            r"train/expression is int32 \[47\]; it must be int32 \[48\]",
        ),
        (changed("train/expression", np.zeros(48, np.float32)), "is float32"),
        (changed("train/expression", np.full(48, 3, np.int32)), "ids from 3 to 3.* -1 .*to 2"),
        (changed("train/true_expression", np.full(48, -2, np.int32)), "ids from -2 to -2"),
        (
            changed("test/expression_probs", np.zeros((24, 2), np.float32)),
            r"must be float32 \[24, 3\]",
        ),
        (changed("test/attributes", np.zeros((24, 2), np.int32)), r"must be int32 \[24, 1\]"),
        (changed("test/person", np.zeros(24, np.int32)), "must be str_"),
        (changed("test/features", np.full((24, 8), np.nan, "f4")), "row 0 holds a value that is"),
        (changed("test/features", np.full((24, 8), 1e300)), "row 0 holds a value that is"),
        (changed("train/labels", np.zeros(48)), "'train/labels' is not known; there are"),
        (changed("train/features", np.array([{}])), "is damaged"),
        (changed("about", np.array("{")), "is damaged"),
    ],
)
def test_bad_content_is_refused(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        sources_of(made_features.save(tmp_path / "f.npz", content))


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"data\.features is empty"):
        sources_of("")
    with pytest.raises(DataError, match=r"there is no file .*--config\.eval\.features="):
        sources_of(tmp_path / "f.npz")
    (tmp_path / "f.npz").write_bytes(b"features")
    with pytest.raises(DataError, match=r"is not a whole \.npz file"):
        sources_of(tmp_path / "f.npz")


@given(data=st.data())
def test_damage_is_noticed_or_harmless(data, path, tmp_path_factory):
    content = bytearray(pathlib.Path(path).read_bytes())
    cut = data.draw(st.booleans())
    at = data.draw(st.integers(0, len(content) - 1))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path_factory.getbasetemp() / "damaged.npz"
    damaged.write_bytes(content)
    try:
        found = features.read(damaged)
    except DataError:
        return
    stored = features.read(path)
    assert found.class_names == stored.class_names and not cut
    for split, columns in stored.splits.items():
        assert columns.keys() == found.splits[split].keys()
        for name, column in columns.items():
            np.testing.assert_array_equal(found.splits[split][name], column)


# ------------------------------------------------------------------------- in the config


def test_fields_that_do_not_apply_are_refused(path):
    for name, value in (("clean", True), ("clean_eval", True), ("exclude", "list.txt")):
        with pytest.raises(DataError, match=rf"data\.{name} does not work with stored features"):
            sources_of(path, **{name: value})
    with pytest.raises(DataError, match="cannot be cut into folds"):
        sources_of(path, protocol="folds", folds=2, test_fold=0)
    with pytest.raises(DataError, match=r"does not name the classes of .*: they are neutral, h"):
        sources_of(path, classes="happy,sad")
    assert len(sources_of(path, classes="Neutral,Happiness,Sadness")["train"]) == 48


def test_one_split_is_an_evaluation_source(path):
    data = DataConfig(source="features", features=path)
    assert len(evaluation_source(data, "validation")) == 16
    with pytest.raises(DataError, match="the split 'all' is for manifests"):
        evaluation_source(data, "all")


def test_rows_of_a_sweep_share_the_arrays(path):
    cache = DataCache()
    one, other = (
        make_sources(DataConfig(source="features", features=path, features_noise=p), cache)
        for p in (0.0, 0.4)
    )
    assert one["train"].columns["image"] is other["train"].columns["image"]
    assert (one["train"].labels != other["train"].labels).any()


def test_persons_in_two_splits_are_named(tmp_path, caplog):
    content = made_features.arrays()
    content["test/person"] = content["train/person"][:24]
    with caplog.at_level(logging.WARNING):
        sources_of(made_features.save(tmp_path / "f.npz", content))
    assert "3 persons are in more than one split: train 0, train 1, train 2" in caplog.text


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("features", lambda a: a + (np.arange(24) == 7)[:, None], "test/7.png.*features: has cha"),
        ("expression_probs", lambda a: a[:, ::-1], "votes: has changed"),
        ("valence_arousal", lambda a: a / 2, "valence and arousal: there"),
        ("expression", lambda a: (a + 1) % 3, "expression: there 'neutral', now 'happy'"),
        ("name", lambda a: np.array([*a[1:], "x"]), "'test/0.png' is not there any more"),
    ],
)
def test_changed_features_are_noticed(name, change, message, path, tmp_path):
    content = copy.deepcopy(made_features.arrays())
    key = f"test/{name}"
    content[key] = change(content[key]).astype(content[key].dtype)
    then = fingerprint.of_sources(sources_of(path))
    now = fingerprint.of_sources(sources_of(made_features.save(tmp_path / "f.npz", content)))
    difference = differences.first_difference(then, now)
    assert difference is not None and re.search(message, difference.text), difference
    again = fingerprint.of_sources(sources_of(path))
    assert differences.first_difference(then, again) is None and then.digest == again.digest
