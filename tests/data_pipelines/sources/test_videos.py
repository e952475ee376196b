"""Which rows are frames of one video, and their order."""

import numpy as np
import pytest

from tests.data_pipelines.made_images import encode, manifest_source, smooth, write_csv


def read(tmp_path, header, rows):
    for k, row in enumerate(rows):
        (tmp_path / row[0]).write_bytes(encode(smooth(8, 8, k)))
    write_csv(tmp_path / "m.csv", header.split(","), rows)
    return manifest_source(tmp_path / "m.csv")


@pytest.mark.parametrize("people", [("1", "01", "1.0", ""), ("Ann", "ann", "ANN ", "")])
def test_spellings_of_a_person_do_not_cut_a_video(tmp_path, people):
    rows = [[f"{k}.jpg", "happy", people[k % 4], ("7", "07")[k % 2], k] for k in range(8)]
    source = read(tmp_path, "path,expression,person,video,frame", [*rows[4:], *rows[:4]])
    assert source.paths == [f"{k}.jpg" for k in range(8)]
    assert source.tracks.tolist() == [0] * 8
    assert len(set(source.persons)) == 1


def test_other_persons_have_other_videos_of_one_name(tmp_path):
    rows = [[f"{k}.jpg", "happy", ("1", "2", "01")[k % 3], "v", k] for k in range(6)]
    source = read(tmp_path, "path,expression,person,video,frame", rows)
    assert source.paths == [f"{k}.jpg" for k in (0, 2, 3, 5, 1, 4)]
    np.testing.assert_array_equal(source.tracks, [0, 0, 0, 0, 1, 1])


def test_spellings_of_a_group_are_one_group(tmp_path):
    rows = [[f"{k}.jpg", "happy", ("1", "01", "1.0", "2", "")[k]] for k in range(5)]
    source = read(tmp_path, "path,expression,group", rows)
    assert source.groups.tolist() == [0, 0, 0, 1, -1]
    assert source.group_names == ("01", "2")


def test_spellings_of_a_person_do_not_contradict(tmp_path, caplog):
    rows = [["a.jpg", "happy", "1"], ["a.jpg", "happy", "01"], ["b.jpg", "sad", "2"]]
    assert read(tmp_path, "path,expression,person", rows).paths == ["a.jpg", "b.jpg"]
    assert "1 rows repeat another row" in caplog.text
