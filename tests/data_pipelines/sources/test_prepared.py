"""Prepared data sets as sources: subsets, classes, workers, damage, splits for training."""

import dataclasses
import json
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest

from data_pipelines import prepare
from data_pipelines.schema import DataError, DecodeError
from data_pipelines.sources import make as make_lib
from data_pipelines.sources.prepared import find_prepared
from tests.data_pipelines.datasets import official_trees as trees
from tests.data_pipelines.datasets.prepared_sets import load_source


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """AffectNet, FER+, JAFFE and CK+ prepared once."""
    root = tmp_path_factory.mktemp("sources")
    for name, make in (
        ("affectnet", trees.affectnet_2017),
        ("ferplus/votes", trees.ferplus),
        ("jaffe", trees.jaffe),
        ("ck_plus/seven_peak", trees.ck_plus),
        ("ck_plus/eight", trees.ck_plus),
    ):
        place = root / "in" / name.replace("/", "_")
        prepare.prepare(name, make(place), root / "out")
    return root / "out"


def config(data_dir, dataset, **fields):
    return {"source": "tfds", "dataset": dataset, "data_dir": str(data_dir), **fields}


def _first(source):
    return source[1]["image"]


def test_pickles_and_reads_in_another_process(data_dir):
    source = load_source("affectnet", data_dir, "train")
    image = source[1]["image"]
    copy = pickle.loads(pickle.dumps(source))
    assert copy[1]["image"] == image
    assert len(pickle.dumps(source)) < 10_000  # no records, no open files
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first, (source,)) == image


def test_labels_are_those_of_the_records(data_dir):
    source = load_source("ck_plus/seven_peak", data_dir, "full")
    assert source.labels.dtype == source.groups.dtype == np.int32
    for i in range(len(source)):
        record = source[i]
        assert record["expression"] == source.labels[i] and record["group"] == source.groups[i]
    assert source.has == {"expression", "landmarks"}


def test_subset_of_a_subset(data_dir):
    source = load_source("jaffe", data_dir, "full")
    part = source.subset([5, 3, 9]).subset([2, 0])
    assert len(part) == 2
    assert part.labels.tolist() == source.labels[[9, 5]].tolist()
    assert part[0]["image"] == source[9]["image"]
    assert part.describe(1) == source.describe(5)
    assert part.persons == [source.persons[9], source.persons[5]]


def test_classes_are_renumbered(data_dir):
    full = load_source("affectnet", data_dir, "train")
    five = full.with_classes("affectnet5")
    # Source labels 0, 1, 2, 3 and 6; anger becomes class 4.
    assert five.class_names == ("neutral", "happy", "sad", "surprise", "anger")
    assert five.labels.tolist() == [0, 1, 2, 3, 4, 1, 2]
    assert five[4]["image"] == full[6]["image"] and five[4]["expression"] == 4
    # Synonyms are understood, and the order is the one asked for.
    two = full.with_classes("anger,happiness")
    assert two.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="has no class bored; it has neutral, happy"):
        full.with_classes("happy,bored")


def test_votes_follow_the_classes(data_dir):
    source = load_source("ferplus", data_dir, "train").with_classes("anger,neutral")
    assert source.labels.tolist() == [1, 1, -1, 1]
    np.testing.assert_allclose(source[0]["expression_probs"], [3 / 7, 4 / 7], rtol=1e-6)
    # The tie between sadness and anger: only anger is left.
    np.testing.assert_allclose(source[2]["expression_probs"], [1, 0])
    again = source.with_classes("neutral,anger")
    np.testing.assert_allclose(again[0]["expression_probs"], [4 / 7, 3 / 7], rtol=1e-6)


def test_cleaning_keeps_what_agrees(data_dir):
    fields = config(data_dir, "affectnet", validation_fraction=0)
    clean = make_lib.make_sources(fields | {"clean": True})["train"]
    # valence 0.1 k and arousal -0.1 k: only a neutral face near 0 and a happy one could agree.
    assert clean.class_names[clean.labels[0]] == "neutral"
    assert len(clean) < len(make_lib.make_sources(fields)["train"])
    assert set(clean.labels.tolist()) <= {0}


def test_errors_say_what_to_do(data_dir, tmp_path):
    with pytest.raises(DataError, match=r"prepare --dataset raf_db --manual_dir"):
        load_source("raf_db", data_dir, "train")
    with pytest.raises(DataError, match="known data sets: afew_va"):
        load_source("rafdb", data_dir, "train")
    with pytest.raises(DataError, match="ck_plus/eight, ck_plus/seven_peak"):
        load_source("ck_plus", data_dir, "full")
    with pytest.raises(DataError, match="it has train, validation"):
        load_source("affectnet", data_dir, "test")
    with pytest.raises(DataError, match=r"needs data\.dataset"):
        make_lib.make_sources({"source": "tfds"})
    # A folder that a killed run left is not taken for a data set.
    shutil.copytree(data_dir / "jaffe/1.0.0", tmp_path / "jaffe/incomplete.ABCDEF_1.0.0")
    with pytest.raises(DataError, match="not prepared"):
        find_prepared("jaffe", tmp_path)


def test_a_set_of_another_version_is_to_be_prepared_again(data_dir, tmp_path):
    shutil.copytree(data_dir / "jaffe", tmp_path / "jaffe")
    path = tmp_path / "jaffe/1.0.0/affect.json"
    meta = json.loads(path.read_text())
    del meta["group_names"], meta["has_persons"]
    path.write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"lacks group_names, has_persons; remove .* again"):
        find_prepared("jaffe", tmp_path)


def test_damaged_records_and_vanished_files(data_dir, tmp_path):
    shutil.copytree(data_dir / "jaffe", tmp_path / "jaffe")
    source = load_source("jaffe", tmp_path, "full")
    (shard,) = (tmp_path / "jaffe/1.0.0").glob("*.array_record-*")
    data = bytearray(shard.read_bytes())
    place = data.find(source[6]["image"])
    data[place : place + 40] = bytes(40)
    shard.write_bytes(data)
    damaged = load_source("jaffe", tmp_path, "full")
    with pytest.raises((DecodeError, OSError)):
        record = damaged[6]
        if record["image"][:40] == bytes(40):  # a reader without checksums passes it on
            raise DecodeError("passed on")
    assert "jaffe full 6" in damaged.describe(6)
    shutil.rmtree(tmp_path / "jaffe")
    gone = pickle.loads(pickle.dumps(damaged))
    with pytest.raises(OSError, match="no records"):
        gone[0]


def test_training_on_official_splits(data_dir):
    parts = make_lib.make_sources(config(data_dir, "affectnet", validation_fraction=0.3))
    # Papers test on the official validation set, so another one is cut from the training set.
    assert parts["test"].labels.tolist() == [3]
    assert len(parts["train"]) == 7 and len(parts["validation"]) == 3
    names = [parts[s].describe(i) for s in parts for i in range(len(parts[s]))]
    assert len(set(names)) == 11
    votes = make_lib.make_sources(config(data_dir, "ferplus"))
    assert [len(votes[s]) for s in ("train", "validation", "test")] == [5, 1, 1]


def test_training_on_a_set_without_splits(data_dir):
    seen = []
    for fold in range(3):
        fields = config(data_dir, "ck_plus/eight", folds=3, test_fold=fold)
        parts = make_lib.make_sources(fields | {"validation_fraction": 0.25})
        persons = {s: set(parts[s].persons) for s in parts}
        assert not persons["train"] & persons["test"]
        assert not persons["train"] & persons["validation"]
        assert not persons["validation"] & persons["test"]
        assert persons["validation"]
        seen += sorted(persons["test"])
    assert sorted(seen) == [f"S{k:03d}" for k in range(1, 8)]


@pytest.mark.parametrize("given", ["", "validation", "test"])
def test_a_prepared_manifest_is_cut_as_the_manifest_itself(tmp_path, given):
    """Without a split column, or with one that names one split for some pictures of 4 persons."""
    rows = ["path,expression,person" + (",split" if given else "")]
    for k in range(40):
        trees.write(tmp_path / "in" / f"{k}.png", trees.encoded(k, "png", side=8))
        split = f",{given if k % 13 < 4 and k < 26 else ''}" if given else ""
        rows.append(f"{k}.png,{('happy', 'sad')[k % 2]},person {k % 13}{split}")
    path = trees.write(tmp_path / "in/own.csv", "\n".join(rows))
    prepare.prepare("manifest", path, tmp_path / "out")
    prepared = make_lib.make_sources(config(tmp_path / "out", "manifest/own"))
    plain = make_lib.make_sources({"source": "manifest", "manifest": str(path)})
    sides = [set(source.persons) for source in plain.values()]
    assert all(sides) and sum(map(len, sides)) == 13
    for side in plain:
        assert prepared[side].persons == plain[side].persons
        np.testing.assert_array_equal(prepared[side].labels, plain[side].labels)
        for i in range(len(plain[side])):
            assert prepared[side][i]["image"] == plain[side][i]["image"]


def _partial(k):
    """Every other picture names its person, all of them a video; four videos to a person."""
    return ("" if k % 2 else f"person {k % 13}", f"video {k % 39}")


TABLES = {
    "full": lambda k: (f"person {k % 13}", f"{k % 3}"),
    "partial": _partial,
    "videos": lambda k: ("", f"video {k % 17}"),
    "none": lambda k: ("", ""),
}


@pytest.mark.parametrize("split", ["", "test", "contradicting"])
@pytest.mark.parametrize("table", TABLES)
def test_a_prepared_manifest_keeps_together_what_the_manifest_does(tmp_path, table, split, caplog):
    """Some pictures are listed twice, and of some persons none can be read."""
    rows = ["path,expression,person,video" + (",split" if split else "")]
    listed = [*range(60), 3, 17, 41]
    for place, k in enumerate(listed):
        damaged = k in (20, 46, 59)
        trees.write(
            tmp_path / f"in/{k}.png", b"no picture" if damaged else trees.encoded(k, "png", side=8)
        )
        given = {"": "", "test": ",test" if k % 13 == 4 else ",", "contradicting": ""}[split]
        if split == "contradicting":
            given = "," + ("train", "test")[place > 40]
        # The second listing is in another spelling of the path.
        path = f"{k}.png" if place < 60 else f"./{k}.png"
        rows.append(f"{path},{('happy', 'sad')[k % 2]},{','.join(TABLES[table](k))}{given}")
    path = trees.write(tmp_path / "in/own.csv", "\n".join(rows))
    prepare.prepare("manifest", path, tmp_path / "out")
    prepared = make_lib.make_sources(config(tmp_path / "out", "manifest/own"))
    caplog.clear()
    plain = make_lib.make_sources({"source": "manifest", "manifest": str(path)})
    # Rows that put one picture into two splits are bad, so that only persons are left in two.
    contradicting = split == "contradicting" and table != "none"
    assert ("are in more than one split" in caplog.text) == contradicting
    assert all(len(source) for source in plain.values())
    unreadable = {f"{k}.png" for k in (20, 46, 59)}
    sides: dict[str, set[str]] = {}
    for side in plain:
        left = [i for i in range(len(plain[side])) if plain[side].paths[i] not in unreadable]
        assert [prepared[side].name(i) for i in range(len(prepared[side]))] == [
            plain[side].paths[i] for i in left
        ]
        assert prepared[side].persons == [plain[side].persons[i] for i in left]
        assert prepared[side].has_persons == plain[side].has_persons == (table != "none")
        for i in left:
            sides.setdefault(plain[side].paths[i].removeprefix("./"), set()).add(side)
    if split != "contradicting":
        assert all(len(found) == 1 for found in sides.values())
    meta = find_prepared("manifest/own", tmp_path / "out").meta
    known = sum(s["persons"] for s in meta["splits"].values())
    assert (known > 0) == (table != "none")


@pytest.mark.parametrize("table", TABLES)
def test_folds_of_a_prepared_manifest_are_those_of_the_manifest(tmp_path, table):
    rows = ["path,expression,person,video"]
    for k in range(40):
        trees.write(tmp_path / f"in/{k}.png", trees.encoded(k, "png", side=8))
        rows.append(f"{k}.png,{('happy', 'sad')[k % 2]},{','.join(TABLES[table](k))}")
    path = trees.write(tmp_path / "in/own.csv", "\n".join(rows))
    prepare.prepare("manifest", path, tmp_path / "out")
    fields = {"protocol": "folds", "folds": 3, "test_fold": 1}
    prepared = make_lib.make_sources(config(tmp_path / "out", "manifest/own", **fields))
    plain = make_lib.make_sources({"source": "manifest", "manifest": str(path), **fields})
    seen: dict[str, str] = {}
    for side in plain:
        assert prepared[side].persons == plain[side].persons
        assert prepared[side].has_persons == (table != "none")
        for i, row in enumerate(plain[side].rows.tolist()):
            # No video stands in two parts where it is one person's.
            video = TABLES[table](row)[1] if table in ("partial", "videos") else f"{row}"
            assert seen.setdefault(video, side) == side, i


def test_a_set_without_training_pictures_is_refused(tmp_path):
    trees.write(tmp_path / "in/0.png", trees.encoded(0, "png"))
    path = trees.write(tmp_path / "in/own.csv", "path,expression,split\n0.png,happy,test")
    prepare.prepare("manifest", path, tmp_path / "out")
    with pytest.raises(DataError, match="without a train split"):
        make_lib.make_sources(config(tmp_path / "out", "manifest/own"))


def test_landmarks_by_a_fan_model(tmp_path, capsys):
    """The command with a small untrained FAN: 68 finite points inside each window."""
    from affect_jax import models
    from affect_jax.weights import model_dir

    arguments = {"width": 16, "depth": 1, "stacks": 1}
    model = models.create("fan", seed=0, **arguments)
    model_dir.save_model(
        tmp_path / "fan",
        "fan",
        arguments,
        model,
        preprocessing=model_dir.Preprocessing(image_size=64),
    )
    root = trees.jaffe(tmp_path / "in")
    options = ["--dataset", "jaffe", "--manual_dir", str(root), "--data_dir", str(tmp_path / "out")]
    assert prepare.main([*options, "--landmarks", str(tmp_path / "nowhere")]) == 2
    assert "error: --landmarks" in capsys.readouterr().err
    assert prepare.main([*options, "--landmarks", str(tmp_path / "fan")]) == 0
    source = load_source("jaffe", tmp_path / "out", "full")
    points = np.stack([source[i]["landmarks"] for i in range(len(source))])
    assert np.isfinite(points).all() and "landmarks" in source.has
    # The window of a whole 48-pixel picture is about twice as wide as the picture.
    assert (points > -60).all() and (points < 110).all()
    assert len(np.unique(points[..., 0])) > 10


def test_prepared_is_plain_data(data_dir):
    prepared = find_prepared("jaffe", data_dir)
    assert dataclasses.is_dataclass(prepared) and prepared.splits == ("full",)
