import json

import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.inference.boxes import BoxFile
from affect_jax.inference.inputs import item


@pytest.mark.parametrize(
    "text",
    [
        "path,left,top,right,bottom\na.jpg,1,2,11,22\na.jpg,30,2,41,22.5\n",
        "path;x0;y0;x1;y1\na.jpg;1;2;11;22\na.jpg;30;2;41;22.5\n",
        'path,box\na.jpg,1 2 11 22\na.jpg,"[30, 2, 41, 22.5]"\n',
    ],
)
def test_forms(tmp_path, text):
    (tmp_path / "boxes.csv").write_text(text)
    file = BoxFile(tmp_path / "boxes.csv")
    faces = file.faces(tmp_path / "a.jpg")
    np.testing.assert_array_equal(faces.boxes, [[1, 2, 11, 22], [30, 2, 41, 22.5]])
    assert np.isnan(faces.scores).all()  # an empty cell in the table; the order is the file's
    assert faces.points.shape == (2, 0, 2)
    np.testing.assert_array_equal(faces.rolls, [0, 0])
    assert file.count == 2
    assert len(file.faces(tmp_path / "b.jpg").scores) == 0
    assert tmp_path / "a.jpg" in file
    assert tmp_path / "b.jpg" not in file


def test_scores_order_the_faces_and_frames_are_kept_apart(tmp_path):
    rows = [
        {"path": "v.mp4", "box": [0, 0, 5, 5], "frame": 0, "score": 0.2},
        {"path": "v.mp4", "box": [1, 0, 5, 5], "frame": 0, "score": 0.9},
        {"path": "v.mp4", "box": [2, 0, 5, 5], "frame": 7},
        {"path": "v.mp4", "box": None, "frame": 8},
    ]
    (tmp_path / "boxes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = BoxFile(tmp_path / "boxes.jsonl")
    first = file.faces(tmp_path / "v.mp4", 0)
    np.testing.assert_allclose(first.scores, [0.9, 0.2])
    assert first.boxes[:, 0].tolist() == [1, 0]
    assert file.faces(tmp_path / "v.mp4", 7).boxes[:, 0].tolist() == [2]
    assert len(file.faces(tmp_path / "v.mp4", 8).scores) == 0
    assert file.count == 3


def test_paths_that_are_no_inputs(tmp_path):
    text = "path,box\na.jpg,1 2 11 22\nb.jpg,\nc.jpg,1 2 11 22\nc.jpg,2 2 11 22\n"
    (tmp_path / "boxes.csv").write_text(text)
    file = BoxFile(tmp_path / "boxes.csv")
    a, b, d = (item(str(tmp_path / name)) for name in ("a.jpg", "b.jpg", "d.jpg"))
    assert file.unused([a]) == ["b.jpg", "c.jpg"]
    assert file.unused([b, d]) == ["a.jpg", "c.jpg"]
    with pytest.raises(UserError, match=r"no path in it, such as 'a\.jpg', is an input"):
        file.unused([d])


def test_a_photo_has_its_faces_with_any_number_of_its_frame(tmp_path):
    text = "path,frame,box\na.jpg,0,1 2 11 22\na.jpg,,2 2 11 22\nclip/7.jpg,7,3 2 11 22\n"
    (tmp_path / "boxes.csv").write_text(text)
    file = BoxFile(tmp_path / "boxes.csv")
    assert file.faces(tmp_path / "a.jpg").boxes[:, 0].tolist() == [1, 2]
    assert file.faces(tmp_path / "clip" / "7.jpg").boxes[:, 0].tolist() == [3]
    assert file.count == 3


def test_a_box_of_a_video_needs_a_frame(tmp_path):
    text = "path,frame,box\nv.mp4,0,1 2 11 22\nv.mp4,,2 2 11 22\nw.mp4,,\n"
    (tmp_path / "boxes.csv").write_text(text)
    file = BoxFile(tmp_path / "boxes.csv")
    assert file.unused([item(str(tmp_path / "w.mp4"))]) == ["v.mp4"]  # a video without faces
    with pytest.raises(UserError, match=r"'v\.mp4' is a video, and a box of it has no frame"):
        file.unused([item(str(tmp_path / "v.mp4"))])


@pytest.mark.parametrize("frame", ["-1", "1.5"])
def test_a_frame_that_no_video_has(tmp_path, frame):
    (tmp_path / "boxes.csv").write_text(f"path,box,frame\nv.mp4,1 2 11 22,{frame}\n")
    with pytest.raises(UserError, match=f"2: frame = {frame}; it must be 0, 1, 2"):
        BoxFile(tmp_path / "boxes.csv")


def test_paths_may_be_relative_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "lists").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "lists" / "boxes.csv").write_text("path,x0,y0,x1,y1\nphotos/a.jpg,1,2,11,22\n")
    monkeypatch.chdir(tmp_path)
    file = BoxFile("lists/boxes.csv")
    assert len(file.faces(tmp_path / "photos" / "a.jpg").scores) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,x0,y0,x1\na.jpg,1,2,3\n", "2: no columns left,top,right,bottom or x0"),
        ("path,x0,y0,x1,y1\na.jpg,1,2,three,4\n", "2: box 'three' is not a number"),
        ("path,x0,y0,x1,y1\na.jpg,1,2,nan,4\n", "2: box is nan; leave the cell empty"),
        ("path,x0,y0,x1,y1\na.jpg,10,10,5,5\n", "2: box \\[10.0, 10.0, 5.0, 5.0\\] has no area"),
        ("path,x0,y0,x1,y1,score\na.jpg,1,2,3,4,7\n", "2: score = 7; it must lie between 0 and 1"),
        ("path,x0,y0,x1,y1\n,1,2,3,4\n", "2: the path is empty"),
        ("path,box\na.jpg,1 2 3\n", "2: box holds 3 numbers instead of 4"),
        ("path,left,top,right,bottom\na.jpg,0,0,0.5,1\n", r"2: box .* lies in 0\.\.1; give pixels"),
        ("file,x0,y0,x1,y1\na.jpg,1,2,3,4\n", "has no column `path`"),
        ("path,x0,y0,x1,y1\na.jpg,1\n", "2: 2 cells where the header has 5"),
    ],
)
def test_faults_name_the_line(tmp_path, text, message):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        BoxFile(tmp_path / "boxes.csv")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        BoxFile(tmp_path / "none.csv")
