"""Several manifests as one table: own folders, shared persons, own numbers of classes."""

import numpy as np
import pytest

from data_pipelines.schema import DataError
from data_pipelines.sources.make import make_sources
from data_pipelines.sources.table import read_manifest
from tests.data_pipelines.made_images import encode, manifest_source, smooth, write_csv

NAMES = ("happy", "sad")


@pytest.fixture
def written(tmp_path):
    """A function that writes a manifest in a folder of its own, and the images it names."""

    def write(folder, header, rows, name="set.csv"):
        place = tmp_path / folder
        for row in rows:
            path = place / row[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(encode(smooth(8, 8, len(list(tmp_path.rglob("*"))))))
        write_csv(place / name, header.split(","), rows)
        return place / name

    return write


@pytest.fixture
def two(written):
    one = written(
        "one",
        "path,expression,person,video",
        [[f"i/{k}.jpg", NAMES[k % 2], "ann", "1"] for k in range(3)],
    )
    other = written(
        "deep/two",
        "path,expression,subject,video,valence,arousal",
        [[f"i/{k}.jpg", NAMES[k % 2], "Ann " if k else "bob", "1", 0.5, -0.5] for k in range(3)],
    )
    return f"{one},{other}"


def test_paths_are_relative_to_their_own_manifest(two, tmp_path):
    source = manifest_source(two)
    assert source.paths[2:4] == ["one/i/2.jpg", "deep/two/i/0.jpg"]
    for k, path in enumerate(source.paths):
        assert source[k]["image"] == (tmp_path / path).read_bytes()
    assert source.describe(0) == f"{tmp_path}/one/set.csv:2 (one/i/0.jpg)"
    assert source.describe(5) == f"{tmp_path}/deep/two/set.csv:4 (deep/two/i/2.jpg)"
    np.testing.assert_array_equal(source[0]["valence_arousal"], [np.nan, np.nan])
    np.testing.assert_array_equal(source[3]["valence_arousal"], np.float32([0.5, -0.5]))


def test_persons_are_shared_and_videos_are_not(two):
    source = manifest_source(two)
    assert source.persons == ["ann"] * 3 + ["bob"] + ["ann"] * 2
    assert source.tracks.tolist() == [0, 0, 0, 1, 2, 2]


def test_an_image_in_both_is_one_or_contradictory(written, caplog):
    one = written("one", "path,expression", [["a.jpg", "happy"], ["b.jpg", "sad"]])
    same = written("two", "path,expression", [["../one/a.jpg", "happy"], ["c.jpg", "sad"]])
    assert manifest_source(f"{one},{same}").paths == ["one/a.jpg", "one/b.jpg", "two/c.jpg"]
    assert f"1 rows repeat another row and are left out ({same}:2)" in caplog.text
    other = written("three", "path,expression", [["../one/a.jpg", "sad"], ["c.jpg", "sad"]])
    bad = manifest_source(f"{one},{other}", max_bad_fraction=1.0).bad_rows
    assert [b.reason for b in bad] == [
        f"{other}:2 is the same image with expression sad, not happy; keep one",
        f"{one}:2 is the same image with expression happy, not sad; keep one",
    ]
    assert f"left out: {other}:2: ../one/a.jpg" not in caplog.text
    assert f"left out: {other}:2: three/../one/a.jpg" in caplog.text


def test_each_manifest_numbers_the_classes_in_its_own_way(written):
    from_0 = written("zero", "path,expression", [[f"{k}.jpg", k] for k in range(7)])
    from_1 = written("one", "path,expression", [[f"{k}.jpg", k + 1] for k in range(7)])
    table = read_manifest(f"{from_0},{from_1}", classes="rafdb")
    assert table.expression.tolist() == [*range(7), *range(7)]
    with pytest.raises(DataError, match=rf"{from_1}: the labels are the numbers 1 to 7"):
        read_manifest(f"{from_0},{from_1}", classes="fer2013")
    with pytest.raises(DataError, match=rf"{from_0}:2: the label 0 is a number, which may be"):
        read_manifest(f"{from_0},{from_1}")


@pytest.mark.parametrize(
    ("classes", "sure", "doubtful", "ids"),
    [
        ("rafdb", range(1, 8), range(1, 7), range(6)),
        ("rafdb", range(7), range(1, 7), range(1, 7)),
        ("affectnet7", range(7), range(1, 7), range(1, 7)),
        (("a", "b", "c", "d", "e"), range(5), range(1, 5), range(1, 5)),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_numbers_in_doubt_are_read_as_in_the_other_manifest(
    written, caplog, classes, sure, doubtful, ids, backwards
):
    caplog.set_level("INFO", "data_pipelines")
    one = written("one", "path,expression", [[f"{k}.jpg", k] for k in sure])
    other = written("two", "path,expression", [[f"{k}.jpg", k] for k in doubtful])
    with pytest.raises(DataError, match=r"ids count from 0|may mean two things"):
        read_manifest(other, classes)
    paths = [other, one] if backwards else [one, other]
    table = read_manifest(",".join(map(str, paths)), classes)
    found = [k for k, p in zip(table.expression, table.paths, strict=True) if "two" in p]
    assert found == list(ids)
    assert f"{other}: the numbers {doubtful[0]} to {doubtful[-1]} alone may mean" in caplog.text
    assert "no image of class" not in caplog.text


def test_numbers_in_doubt_stay_so_where_the_others_disagree_or_are_in_doubt(written):
    def write(folder, numbers):
        return str(written(folder, "path,expression", [[f"{k}.jpg", k] for k in numbers]))

    doubtful = write("two", range(1, 7))
    for others in (
        [write("zero", range(7)), write("one", range(1, 8))],
        [write("few", [2, 3])],
    ):
        with pytest.raises(DataError, match=r"ids count from 0|may mean two things"):
            read_manifest(",".join([doubtful, *others]), "rafdb")
    own = ("a", "b", "c", "d", "e")
    with pytest.raises(DataError, match="ids count from 0"):
        read_manifest(",".join([write("few", [2, 3]), write("four", range(1, 5))]), own)
    with pytest.raises(DataError, match="ids count from 0"):
        read_manifest(",".join([write("from0", range(5)), write("from1", range(1, 6))]), own)


def test_absent_classes_are_told_once(written, caplog):
    one = written("one", "path,expression", [["a.jpg", "happy"], ["b.jpg", "sad"]])
    other = written("two", "path,expression", [["a.jpg", "sad"], ["b.jpg", "angry"]])
    read_manifest(f"{one},{other}", ("happy", "sad", "angry", "fear"))
    assert caplog.text.count("no image of class") == 1
    assert f"{one}, {other}: no image of class fear" in caplog.text


def test_a_manifest_without_a_split_column_among_others_is_warned_of(written, caplog):
    rows = [[f"{k}.jpg", NAMES[k % 2], f"p{k}", "test" if k < 2 else "train"] for k in range(8)]
    one = written("one", "path,expression,person,split", rows)
    other = written("two", "path,expression,person", [[f"{k}.jpg", "sad", "p1"] for k in range(2)])
    made = make_sources({"source": "manifest", "manifest": f"{one},{other}"})
    assert f"{other} has no column `split`: its rows go to the split of their person" in caplog.text
    assert made["test"].paths == ["one/0.jpg", "one/1.jpg", "two/0.jpg", "two/1.jpg"]


def test_a_file_whose_name_has_a_comma_is_one_manifest(written):
    path = written("one", "path,expression", [["a.jpg", "happy"], ["b.jpg", "sad"]], "a,b.csv")
    assert manifest_source(path).paths == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{0},{0}", r"set\.csv is one file, given twice; give different files"),
        ("{0},", r"a path is missing before or after a comma; remove the comma"),
        ("{0},,{0}", r"a path is missing before or after a comma"),
        ("{0},none.csv", r"there is no file \S*none\.csv"),
    ],
)
def test_several_are_different_files(written, text, message):
    path = written("one", "path,expression", [["a.jpg", "happy"], ["b.jpg", "sad"]])
    with pytest.raises(DataError, match=message) as raised:
        read_manifest(text.format(path))
    assert "data.manifest" not in str(raised.value)


def test_many_manifests_are_longer_than_a_name_of_a_file(written, tmp_path, monkeypatch):
    names = [f"{'recordings_of_day'}_{k:03d}.csv" for k in range(20)]
    for k, name in enumerate(names):
        written("d", "path,expression", [[f"{k}.jpg", NAMES[k % 2]]], name)
    monkeypatch.chdir(tmp_path / "d")
    assert len(",".join(names)) > 255
    assert read_manifest(",".join(names)).paths == [f"{k}.jpg" for k in range(20)]
