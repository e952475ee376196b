import os

import numpy as np
import pytest

from tests.data_pipelines.made_images import encode, manifest_source, smooth, write_csv

PICTURE = encode(smooth(8, 8))
HEADER = ("path", "expression", "person", "split", "valence", "arousal", "box")
FIRST = ["0.jpg", "sad", "ann", "train", 0.1, "", ""]
FACE = np.random.default_rng(0).uniform(10, 60, 136)


@pytest.fixture
def read(tmp_path):
    """A function that reads a manifest of 40 sound rows and the given ones."""
    for k in range(41):
        (tmp_path / f"{k}.jpg").write_bytes(PICTURE)
    sound = [
        [f"{k}.jpg", ("sad", "happy")[k % 2], f"p{k}", "train", 0, 0, ""] for k in range(1, 41)
    ]

    def source(*rows, header=HEADER):
        known = [[*r[:2], *[""] * (len(header) - 2)] if header != HEADER else r for r in sound]
        write_csv(tmp_path / "m.csv", header, [*known, *rows])
        return manifest_source(tmp_path / "m.csv")

    return source


@pytest.mark.parametrize(
    "path", ["0.jpg", "./0.jpg", ".//0.jpg", "../{folder}/0.jpg", "{root}/0.jpg"]
)
def test_a_row_that_repeats_another_is_kept_once(read, tmp_path, caplog, path):
    path = path.format(folder=tmp_path.name, root=tmp_path)
    source = read(FIRST, [path, "sadness", *FIRST[2:]])
    assert len(source) == 41 and not source.bad_rows
    assert "1 rows repeat another row and are left out (row 43)" in caplog.text


CONTRADICTIONS = {
    "expression": ([1], ["happy"], "expression sad, not happy"),
    "no expression": ([1], [""], "expression sad, not empty"),
    "person": ([2], ["bob"], "person ann, not bob"),
    "split": ([3], ["test"], "split train, not test"),
    "no split": ([3], [""], "split train, not empty"),
    "valence": ([4], [0.2], "valence 0.1, not 0.2"),
    "arousal": ([5], [0.2], "arousal empty, not 0.2"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_rows_that_contradict_each_other_are_bad(read, name):
    places, values, message = CONTRADICTIONS[name]
    other = list(FIRST)
    for place, value in zip(places, values, strict=True):
        other[place] = value
    source = read(FIRST, FIRST, ["./0.jpg", *other[1:]])
    assert len(source) == 40
    assert [row for row, _, _ in source.bad_rows] == [42, 43, 44]
    remedy = "keep one, or put both into one row" if "empty" in message else "keep one"
    assert source.bad_rows[2][2] == f"row 42 is the same image with {message}; {remedy}"
    assert all("row 44 is the same image" in reason for _, _, reason in source.bad_rows[:2])


def test_faces_that_lie_apart_are_kept(read):
    left, right = [*FIRST[:6], "0 0 3 4"], ["0.jpg", "happy", "bob", "train", 0, 0, "4 0 8 4"]
    assert len(read(left, right)) == 42
    same = ["0.jpg", "happy", "bob", "train", 0, 0, "0 0 3 5"]
    assert [row for row, _, _ in read(left, right, same).bad_rows] == [42, 44]
    moved = [*FIRST[:6], "0 0 3 5"]
    assert "the same face with another box" in read(left, moved).bad_rows[0][2]


def test_faces_are_told_apart_by_landmarks(read):
    header = ("path", "expression", "landmarks")
    here, there = (" ".join(map(str, points)) for points in (FACE, FACE + 80))
    rows = [["0.jpg", "sad", here], ["0.jpg", "happy", there]]
    assert len(read(*rows, header=header)) == 42
    assert len(read(*rows, ["0.jpg", "happy", here], header=header).bad_rows) == 2


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="makes links")
def test_links_lead_to_the_same_picture(read, tmp_path):
    (tmp_path / "link.jpg").symlink_to("0.jpg")
    (tmp_path / "here").symlink_to(tmp_path, target_is_directory=True)
    for path in ("link.jpg", "here/0.jpg", "here/here/link.jpg"):
        source = read(FIRST, [path, "happy", *FIRST[2:]])
        assert [row for row, _, _ in source.bad_rows] == [42, 43]


def test_capitals_count_where_they_do_on_disk(read, tmp_path):
    (tmp_path / "0.JPG").write_bytes(PICTURE)
    source = read(FIRST, ["0.JPG", "happy", *FIRST[2:]])
    same_file = os.path.samefile(tmp_path / "0.JPG", tmp_path / "0.jpg")
    assert len(source) == (40 if same_file else 42)


def test_one_file_under_two_names_is_one_picture(read, tmp_path):
    """As a file system that does not tell capitals apart would have it."""
    os.link(tmp_path / "0.jpg", tmp_path / "0.JPG")
    assert len(read(FIRST, ["0.JPG", "happy", *FIRST[2:]]).bad_rows) == 2
