"""Splits by person and the search for pictures in more than one split."""

import csv
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import prepare, splits
from data_pipelines.protocols import folds as folds_lib
from data_pipelines.protocols import leakage
from data_pipelines.schema import DataError
from data_pipelines.sources import prepared as prepared_lib
from data_pipelines.sources.make import make_sources
from tests.data_pipelines.datasets import official_trees as trees
from tests.data_pipelines.made_images import Listed

people = st.lists(
    st.tuples(st.sampled_from([f"p{k}" for k in range(12)]), st.integers(-1, 3)),
    min_size=1,
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(people, st.integers(2, 6), st.integers(0, 3))
def test_no_person_stands_in_two_folds(rows, folds, seed):
    persons, labels = [p for p, _ in rows], np.array([k for _, k in rows])
    if len(set(persons)) < folds:
        with pytest.raises(DataError, match="folds need"):
            folds_lib.kfold(persons, folds, labels=labels, seed=seed)
        return
    fold = folds_lib.kfold(persons, folds, labels=labels, seed=seed)
    by_person = {p: set(fold[np.array(persons) == p]) for p in persons}
    assert all(len(f) == 1 for f in by_person.values())
    assert set(fold.tolist()) == set(range(folds))  # none is empty
    # The order of the records does not matter.
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = folds_lib.kfold([persons[i] for i in order], folds, labels=labels[order], seed=seed)
    np.testing.assert_array_equal(shuffled, fold[order])


def test_folds_are_balanced_and_fixed():
    rng = np.random.default_rng(0)
    persons = [f"S{k:03d}" for k in rng.integers(0, 100, 3000)]
    labels = rng.choice(7, 3000, p=[0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02])
    fold = folds_lib.kfold(persons, 10, labels=labels)
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 30
    for k in range(7):
        counts = np.bincount(fold[labels == k], minlength=10)
        assert counts.max() <= counts.mean() * 1.25 + 2
    np.testing.assert_array_equal(fold, folds_lib.kfold(persons, 10, labels=labels))
    assert (fold != folds_lib.kfold(persons, 10, labels=labels, seed=1)).any()
    # Written down once, so that a change of the rule does not pass unnoticed.
    assert folds_lib.kfold(list("aabbccddee"), 2).tolist() == PINNED


PINNED = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]


def test_leave_one_out():
    fold = folds_lib.leave_one_out(["KL", "KA", "KL", "YM"])
    assert fold.tolist() == [1, 0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(people, st.floats(0, 0.9), st.integers(0, 3))
def test_validation_is_cut_by_person(rows, fraction, seed):
    persons = [p for p, _ in rows]
    held_out = folds_lib.validation(persons, fraction, seed=seed)
    mine = {p for p, h in zip(persons, held_out, strict=True) if h}
    others = {p for p, h in zip(persons, held_out, strict=True) if not h}
    assert not mine & others
    assert others  # never everybody


def test_official_roles(tmp_path):
    from data_pipelines.sources.prepared import find_prepared

    prepare.prepare("sfew/aligned", trees.sfew(tmp_path / "in"), tmp_path / "out")
    parts = prepared_lib.official(find_prepared("sfew", tmp_path / "out"))
    # SFEW's test labels are not public: its Val plays that part.
    assert set(parts) == {"train", "test"} and parts["test"].split == "validation"


def leaks(sources):
    return leakage.find_duplicates({k: leakage.hash_images(s) for k, s in sources.items()})


def photo(seed: int) -> np.ndarray:
    """Something as rich in detail as a face: blobs of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.integers(0, 256, (n, n, 3), dtype=np.uint8),
            (160, 160),
            interpolation=cv2.INTER_CUBIC,
        ).astype(np.float32)
        for n in (4, 9, 20)
    ]
    mix = 0.5 * layers[0] + 0.35 * layers[1] + 0.15 * layers[2]
    return mix.astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int = 90) -> bytes:
    bgr = np.ascontiguousarray(picture[..., ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


CHANGES = {
    "re-encoded": lambda p: jpeg(p, 25),
    "halved": lambda p: jpeg(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "brighter": lambda p: jpeg(np.clip(p.astype(np.int16) + 25, 0, 255).astype(np.uint8)),
    "grey": lambda p: jpeg(np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)),
    "blurred": lambda p: jpeg(cv2.GaussianBlur(p, (0, 0), 1.5)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(change):
    train = Listed([jpeg(photo(k)) for k in range(40)])
    copies = {3: 0, 17: 2, 30: 4}
    test = [jpeg(photo(100 + k)) for k in range(6)]
    for original, place in copies.items():
        test[place] = CHANGES[change](photo(original))
    pairs = leaks({"train": train, "test": Listed(test)})
    assert {(p.a, p.b) for p in pairs} == {(("train", a), ("test", b)) for a, b in copies.items()}
    assert {p.kind for p in pairs} == {"near"}


def test_exact_mirrored_and_flat_pictures(tmp_path):
    data = jpeg(photo(1))
    flat = jpeg(np.full((60, 60, 3), 90, np.uint8))
    sources = {
        "train": Listed([data, jpeg(photo(2)), flat, data]),
        "validation": Listed([jpeg(photo(5)), jpeg(np.full((60, 60, 3), 120, np.uint8))]),
        "test": Listed([data, photo(2)[:, ::-1], b"no picture"]),
    }
    pairs = leaks(sources)
    found = [(p.kind, p.a, p.b) for p in pairs]
    # Flat pictures look alike and are not compared; equal ones within a split are no leak.
    assert found == [
        ("exact", ("train", 0), ("test", 0)),
        ("exact", ("train", 3), ("test", 0)),
        ("mirrored", ("train", 1), ("test", 1)),
    ]
    leakage.write_report(tmp_path / "r.csv", pairs, sources)
    with open(tmp_path / "r.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert rows[0] == {
        "kind": "exact",
        "distance": "0",
        "split_a": "train",
        "picture_a": "image 0",
        "split_b": "test",
        "picture_b": "image 0",
    }


def test_blocks_miss_nothing(monkeypatch):
    left = Listed([jpeg(photo(k)) for k in range(9)])
    right = Listed([jpeg(photo(k), 40) for k in range(9)])
    whole = leaks({"a": left, "b": right})
    monkeypatch.setattr(leakage, "_BLOCK", 4)
    assert leaks({"a": left, "b": right}) == whole
    assert len(whole) == 9


def test_commands(tmp_path, capsys):
    prepare.prepare("ck_plus/seven_peak", trees.ck_plus(tmp_path / "in"), tmp_path / "out")
    place = ["--dataset", "ck_plus", "--data_dir", str(tmp_path / "out")]
    assert splits.main(["folds", *place, "--folds", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "anger" in lines[0]
    assert sum(int(line.split()[1]) for line in lines[1:]) == 7
    assert splits.main(["folds", *place, "--folds", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert splits.main(["folds", *place, "--folds", "50"]) == 2
    assert splits.main(["leakage"]) == 2
    report = tmp_path / "report.csv"
    assert splits.main(["leakage", *place, "--output", str(report), "--stride", "2"]) == 0
    out = capsys.readouterr().out
    # Of 14 pictures in three splits, every second one.
    assert sum(int(n) for n in re.findall(r"(\d+) images", out)) in (7, 8)
    assert "exact: 0 pairs" in out
    assert report.read_text().startswith("kind,distance")


def test_command_finds_a_copy_in_a_manifest(tmp_path, capsys):
    rows = ["path,expression,person,split"]
    for k in range(6):
        trees.write(tmp_path / f"{k}.jpg", jpeg(photo(0 if k == 5 else k)))
        rows.append(f"{k}.jpg,happy,p{k},{('train', 'test')[k > 3]}")
    path = trees.write(tmp_path / "own.csv", "\n".join(rows))
    assert splits.main(["leakage", "--manifest", str(path)]) == 1
    out = capsys.readouterr().out
    assert "exact: 1 pairs" in out and "0.jpg" in out and "5.jpg" in out


def own(folder, header, cells, name="own.csv"):
    """A manifest of different pictures with these cells."""
    rows = [f"path,expression,{header}"]
    for k, row in enumerate(cells):
        trees.write(folder / f"{k}.jpg", jpeg(photo(k)))
        rows.append(f"{k}.jpg,happy,{row}")
    return trees.write(folder / name, "\n".join(rows))


SHARED = {
    "person": (["ann,1,train", "bob,2,train", "bob,2,test"], ["bob", "2"]),
    # The person is known in one of the two splits only.
    "video": (["ann,1,train", "bob,2,train", ",2,test"], ["bob", "2"]),
    "video of none": (["ann,1,train", ",2,train", ",2,test"], ["2"]),
    "by steps": (["ann,1,train", ",1,train", ",2,train", "ann,2,train", ",2,test"], ["ann", "2"]),
}


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("case", SHARED)
def test_command_names_persons_and_videos_in_two_splits(tmp_path, capsys, case, prepared):
    cells, names = SHARED[case]
    path = own(tmp_path, "person,video,split", [*cells, "dan,9,validation"])
    where = ["--manifest", str(path)]
    if prepared:
        prepare.prepare("manifest", path, tmp_path / "out")
        where = ["--dataset", "manifest/own", "--data_dir", str(tmp_path / "out")]
    report = tmp_path / "report.csv"
    assert splits.main(["leakage", *where, "--output", str(report)]) == 1
    out = capsys.readouterr().out
    assert "persons: 1 in more than one split" in out and "exact: 0 pairs" in out
    for name in names:
        assert re.search(rf"^  {name}: train \d+, test 1$", out, re.MULTILINE)
    with open(report, newline="") as f:
        rows = list(csv.DictReader(f))
    assert [r["kind"].split()[-1] for r in rows] == names
    assert {(r["split_a"], r["split_b"]) for r in rows} == {("train", "test")}
    assert all(f"({len(cells) - 1}.jpg)" in r["picture_b"] for r in rows)


@pytest.mark.parametrize(
    "cells",
    [
        # Every person has a video "1".
        ["ann,1,train", "bob,1,test", "dan,1,validation"],
        ["ann,1,train", "ann,2,train", "bob,3,test", ",3,test", ",4,validation"],
    ],
)
def test_command_is_content_with_persons_apart(tmp_path, capsys, cells):
    path = own(tmp_path, "person,video,split", cells)
    assert splits.main(["leakage", "--manifest", str(path)]) == 0
    out = capsys.readouterr().out
    assert "persons: 0 in" in out and "groups: 0 in" in out


def test_many_shared_persons_are_cut_short(tmp_path, capsys):
    cells = [f"p{k % 30:02d},{('train', 'test')[k // 30]}" for k in range(60)]
    path = own(tmp_path, "person,split", cells)
    assert splits.main(["leakage", "--manifest", str(path), "--stride", "7"]) == 1
    out = capsys.readouterr().out
    assert "persons: 30 in more than one split" in out and "... and 10 more" in out


def test_command_tells_what_it_could_not_read(tmp_path, capsys):
    rows = ["path,expression,person,split"]
    for k, split in enumerate(("train", "train", "test", "test", "validation")):
        trees.write(tmp_path / f"{k}.jpg", jpeg(photo(k)) if k != 1 else b"no picture")
        rows.append(f"{k}.jpg,happy,p{k},{split}")
    path = trees.write(tmp_path / "own.csv", "\n".join(rows))
    assert splits.main(["leakage", "--manifest", str(path)]) == 0
    assert "2 images, 1 of them unreadable and left out" in capsys.readouterr().out
    for k in (2, 3):
        trees.write(tmp_path / f"{k}.jpg", b"no picture")
    assert splits.main(["leakage", "--manifest", str(path)]) == 2
    assert "none of the 2 images of test can be read" in capsys.readouterr().err


def test_folds_of_own_pictures_are_those_of_training(tmp_path, capsys):
    rows = ["path,expression,person"]
    for k in range(20):
        trees.write(tmp_path / f"{k}.jpg", b"x")
        rows.append(f"{k}.jpg,happy,p{k // 2}")
    path = trees.write(tmp_path / "own.csv", "\n".join(rows))
    output = tmp_path / "folds.csv"
    command = ["folds", "--manifest", str(path), "--folds", "3", "--output", str(output)]
    assert splits.main(command) == 0
    with open(output, newline="") as f:
        listed = list(csv.DictReader(f))
    assert len(listed) == 20
    for k in range(3):
        config = {"source": "manifest", "manifest": str(path), "folds": 3, "test_fold": k}
        mine = {row["person"] for row in listed if row["fold"] == str(k)}
        assert mine == set(make_sources(config)["test"].persons)
    assert splits.main(["folds", "--manifest", str(path), "--folds", "1"]) == 2
    assert splits.main([*command[:-1], str(tmp_path / "nowhere/folds.csv")]) == 2
    assert "there is no folder" in capsys.readouterr().err
