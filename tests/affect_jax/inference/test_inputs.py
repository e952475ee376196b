import json
import os

import pytest

from affect_jax.errors import UserError
from affect_jax.inference import inputs
from tests.affect_jax.inference import media


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names(items):
    return [item.name for item in items]


def test_a_folder_gives_all_files_in_order_but_hidden_ones(tmp_path):
    touch(tmp_path, "b/2.png", "b/10.png", "a.jpg", "c.MP4", "notes.txt", ".hidden", "b/Thumbs.db")
    found = inputs.find([tmp_path])
    assert names(found) == ["a.jpg", "b/10.png", "b/2.png", "c.MP4", "notes.txt"]
    assert [item.is_video for item in found] == [False, False, False, True, False]
    assert found[1].path == str(tmp_path / "b" / "10.png")


def test_links_to_a_folder_above_end(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(inputs.find([tmp_path])) == ["a.jpg"]


def test_a_file_named_twice_is_read_once_where_it_comes_first(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    assert names(inputs.find([tmp_path / "b.jpg", tmp_path])) == ["b.jpg", "a.jpg"]


def test_files_of_one_name_in_two_folders_get_two_names(tmp_path):
    touch(tmp_path, "x/a.mp4", "y/a.mp4", "z/a.mp4")
    found = inputs.find([tmp_path / "x", tmp_path / "y", tmp_path / "z"])
    assert names(found) == ["a.mp4", "a-2.mp4", "a-3.mp4"]


def test_what_the_command_writes_is_not_read(tmp_path):
    touch(tmp_path, "a.jpg", "out.csv", "out.csv.partial", "out.csv.run.json", "drawn/a.jpg")
    found = inputs.find([tmp_path], own=[tmp_path / "out.csv", None, tmp_path / "drawn"])
    assert names(found) == ["a.jpg"]


def test_patterns_are_sorted_and_may_go_deep(tmp_path):
    touch(tmp_path, "b.jpg", "a.jpg", "sub/c.jpg", "d.png")
    assert names(inputs.find([f"{tmp_path}/*.jpg"])) == ["a.jpg", "b.jpg"]
    assert names(inputs.find([f"{tmp_path}/**/*.jpg"])) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_name_with_signs_of_a_pattern_is_a_file_if_it_exists(tmp_path):
    touch(tmp_path, "a[1].jpg")
    assert names(inputs.find([tmp_path / "a[1].jpg"])) == ["a[1].jpg"]


@pytest.mark.parametrize("name", ["*.jpg", "empty"])
def test_no_file_at_all_is_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        inputs.find([tmp_path / name])


def test_a_missing_file_is_an_item_that_will_fail(tmp_path):
    (item,) = inputs.find([tmp_path / "none.jpg"])
    assert item.path.endswith("none.jpg")


def test_a_video_without_an_ending_is_known_by_its_content(tmp_path):
    media.write_video(tmp_path / "clip.mp4", [media.faces()[0]])
    os.rename(tmp_path / "clip.mp4", tmp_path / "clip")
    assert inputs.find([tmp_path / "clip"])[0].is_video


@pytest.mark.parametrize(
    "text",
    [
        'path,box\na.jpg,1 2 3 4\nb/c.jpg,\na.jpg,"5, 6, 7.5, 8"\n',
        "path;x0;y0;x1;y1\na.jpg;1;2;3;4\nb/c.jpg;;;;\na.jpg;5;6;7.5;8\n",
        "path,left,top,right,bottom\na.jpg,1,2,3,4\nb/c.jpg,,,,\na.jpg,5,6,7.5,8\n",
    ],
)
def test_rows_of_a_manifest_are_faces(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    first, second = inputs.find([tmp_path / "m.csv"])
    assert first.path == str(tmp_path / "a.jpg") and first.name == "a.jpg"
    assert first.boxes == ((1, 2, 3, 4), (5, 6, 7.5, 8))
    assert second.path == str(tmp_path / "b/c.jpg") and second.name == "b/c.jpg"
    assert second.boxes is None


def test_bad_rows_of_a_manifest_are_items_with_a_fault(tmp_path):
    rows = [{"path": "a.jpg", "box": [9, 2, 3, 4]}, {"path": ""}, {"path": "b.jpg", "box": "1 2"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inputs.find([tmp_path / "m.jsonl"])
    assert [item.path for item in found] == [f"{tmp_path}/m.jsonl:{n}" for n in (1, 2, 3)]
    assert "has no area; it is x0, y0, x1, y1, not width and height" in found[0].fault
    assert found[1].fault == "the path is empty"
    assert "holds 2 numbers instead of 4" in found[2].fault


def test_spellings_of_one_file_are_one_item_with_all_boxes(tmp_path):
    touch(tmp_path, "in/a.jpg")
    rows = [("in/a.jpg", [1, 2, 3, 4]), ("./in/../in/a.jpg", [5, 6, 7, 8])]
    text = "".join(json.dumps({"path": path, "box": box}) + "\n" for path, box in rows)
    (tmp_path / "m.jsonl").write_text(text)
    (tmp_path / "n.csv").write_text("path,box\nin/a.jpg,5 6 7 8\nin/a.jpg,9 9 10 10\n")
    (one,) = inputs.find([tmp_path / "m.jsonl"])
    assert one.boxes == ((1, 2, 3, 4), (5, 6, 7, 8)) and one.name == "in/a.jpg"
    (one,) = inputs.find([tmp_path / "in", tmp_path / "m.jsonl", tmp_path / "n.csv"])
    assert one.boxes == ((1, 2, 3, 4), (5, 6, 7, 8), (9, 9, 10, 10)) and one.name == "a.jpg"


@pytest.mark.parametrize("path", ["a\0b", "a\0b.mp4", "\ud800.jpg"])
def test_a_row_with_a_path_that_no_file_can_have(tmp_path, path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": path}) + "\n")
    (one,) = inputs.find([tmp_path / "m.jsonl"])
    assert one.fault.startswith("no file can be named 'a\\x00b" if "a" in path[0] else "no file")
    assert one.path == f"{tmp_path}/m.jsonl:1" and not one.is_video
    assert not inputs.item(path.removesuffix(".mp4")).is_video


def test_a_row_that_names_only_a_folder_above(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"path": ".."}\n{"path": "."}\n')
    assert names(inputs.find([tmp_path / "m.jsonl"])) == ["input", "input-2"]


def test_a_pipe_is_not_opened_while_inputs_are_listed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert [item.is_video for item in inputs.find([tmp_path])] == [False]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["clip.avi", "clip.avi.mp4"], {"clip.avi.mp4", "clip.avi-2.mp4"}),
        (["a.webp", "a.webp.png"], {"a.webp.png", "a.webp-2.png"}),
        (["a.jpg", "a.jpg.png"], {"a.jpg", "a.jpg.png"}),
    ],
)
def test_no_two_overlays_have_one_name(tmp_path, files, expected, order):
    touch(tmp_path, *files)
    found = {item.overlay for item in inputs.find([tmp_path / f for f in files][::order])}
    other = {"clip-2.avi.mp4", "a-2.webp.png"} | {f for f in files if f.count(".") == 2}
    assert len(found) == 2 and (found == expected or (order == -1 and found <= other))


def test_a_table_without_paths_is_no_manifest(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column `path`"):
        inputs.find([tmp_path / "m.csv"])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_all_items(count):
    items = [inputs.Item(str(i), str(i)) for i in range(5)]
    parts = [inputs.shard(items, index, count) for index in range(1, count + 1)]
    assert sorted(item.path for part in parts for item in part) == list("01234")
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("index", [0, 3])
def test_a_shard_that_does_not_exist(index):
    with pytest.raises(UserError, match="count from 1/2"):
        inputs.shard([], index, 2)
