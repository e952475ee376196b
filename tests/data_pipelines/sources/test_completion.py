"""Rows of several manifests that describe one image in part."""

import numpy as np
import pytest

from data_pipelines.sources.table import read_manifest
from tests.data_pipelines.made_images import encode, manifest_source, smooth, write_csv

NAMES = ("happy", "sad")


@pytest.fixture
def write(tmp_path):
    for k in range(6):
        (tmp_path / f"{k}.jpg").write_bytes(encode(smooth(8, 8, k)))

    def write(name, header, rows):
        write_csv(tmp_path / name, header.split(","), rows)
        return str(tmp_path / name)

    return write


def test_expressions_and_affect_in_two_manifests_are_one_table(write, caplog):
    caplog.set_level("INFO", "data_pipelines")
    one = write(
        "one.csv", "path,expression,gender", [[f"{k}.jpg", NAMES[k % 2], "f"] for k in range(4)]
    )
    other = write(
        "two.csv",
        "path,valence,arousal,subject,split,box",
        [[f"./{k}.jpg", k / 10, -0.5, f"p{k}", "train", "0 0 8 8"] for k in (3, 2, 1, 5)],
    )
    table = read_manifest(f"{one},{other}", max_bad_fraction=0.0)
    assert table.paths == [f"{k}.jpg" for k in range(4)] + ["./5.jpg"]
    assert table.expression.tolist() == [0, 1, 0, 1, -1]
    np.testing.assert_allclose(table.valence_arousal[:, 0], [np.nan, 0.1, 0.2, 0.3, 0.5])
    assert table.persons == ["0.jpg", "p1", "p2", "p3", "p5"]
    assert [table.group_names[k] if k >= 0 else "" for k in table.groups] == [
        *("", "p1", "p2", "p3", "p5")
    ]
    assert table.split.tolist() == [-1, 0, 0, 0, 0]
    assert table.attributes[:, 0].tolist() == [0, 0, 0, 0, -1]
    np.testing.assert_array_equal(table.box[1], [0, 0, 8, 8])
    assert "3 rows complete the row of the same image" in caplog.text


def test_a_frame_stays_in_its_video(write):
    one = write("one.csv", "path,expression", [[f"{k}.jpg", "happy"] for k in range(3)])
    rows = [[f"{k}.jpg", 0.5, 0.1, "v", -k] for k in range(4)]
    other = write("two.csv", "path,valence,arousal,video,frame", rows)
    source = manifest_source(f"{one},{other}", max_bad_fraction=0.0)
    assert source.paths == ["3.jpg", "2.jpg", "1.jpg", "0.jpg"]
    assert source.tracks.tolist() == [0] * 4 and source.labels.tolist() == [-1, 0, 0, 0]


def test_contradictions_and_several_faces_complete_nothing(write):
    one = write(
        "one.csv", "path,expression,person", [["0.jpg", "happy", "ann"], ["1.jpg", "sad", ""]]
    )
    other = write(
        "two.csv",
        "path,valence,arousal,person",
        [["0.jpg", 0.5, 0.5, "bob"], ["1.jpg", 0.5, 0.5, ""]],
    )
    table = read_manifest(f"{one},{other}", max_bad_fraction=1.0)
    assert table.paths == ["1.jpg"] and len(table.bad) == 2
    faces = write(
        "three.csv",
        "path,valence,arousal,box",
        [["0.jpg", 0, 0, "0 0 3 3"], ["0.jpg", 0, 0, "4 4 8 8"]],
    )
    bad = read_manifest(f"{one},{faces}", max_bad_fraction=1.0).bad
    assert [b.path for b in bad] == ["0.jpg"] * 3
    assert all("keep one, or put both into one row" in b.reason for b in bad)


def test_spellings_of_a_person_are_no_contradiction(write):
    one = write(
        "one.csv", "path,expression,person", [["0.jpg", "happy", "1"], ["1.jpg", "sad", "2"]]
    )
    other = write("two.csv", "path,valence,arousal,subject", [["0.jpg", 0.5, 0.5, "01"]])
    table = read_manifest(f"{one},{other}", max_bad_fraction=0.0)
    assert table.paths == ["0.jpg", "1.jpg"] and len(set(table.persons)) == 2
    assert table.valence_arousal[0].tolist() == [0.5, 0.5]
