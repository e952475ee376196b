import pathlib

import numpy as np
import pytest

from affect_jax.inference import overlay_files
from affect_jax.inference.face_table import NO_FACE, FaceTable
from affect_jax.inference.overlay import draw, enlargement
from affect_jax.inference.video import read_video

TABLE = FaceTable(("calm", "glad"))
LIGHT_BLUE, ORANGE = (86, 180, 233), (230, 159, 0)


def row(box, track=-1, face=0, valence=0.5, arousal=-0.5, expression="glad"):
    found = TABLE.blank("a", 0, 0.0, "")
    found |= dict(zip(("left", "top", "right", "bottom"), box, strict=True))
    found |= {"face": face, "track": track, "valence": valence, "arousal": arousal}
    return found | {"expression": expression, "confidence": np.float32(0.9)}


def grey(height=480, width=640):
    return np.full((height, width, 3), 110, np.uint8)


def test_without_a_face_the_picture_is_the_frame():
    image = np.random.default_rng(0).integers(0, 256, (480, 500, 3), np.uint8)
    blank = TABLE.blank("a", 0, 0.0, NO_FACE)
    np.testing.assert_array_equal(draw(image, [blank], [None]), image)
    np.testing.assert_array_equal(draw(image, [], []), image)


def test_small_pictures_are_enlarged_by_a_whole_factor():
    assert [enlargement(*size) for size in ((480, 10), (479, 9), (100, 200), (1, 1))] == [
        1, 2, 3, 480,
    ]  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    large = draw(image, [], [])
    assert large.shape == (300, 500, 3)
    np.testing.assert_array_equal(large[2::5, 2::5], image)


def test_box_points_and_circumplex_lie_where_they_should():
    image = grey()
    before = image.copy()
    points = np.array([[150.0, 200.0], [9999.0, -9999.0]])
    picture = draw(image, [row((100, 150, 300, 350))], [points])
    np.testing.assert_array_equal(image, before)  # the frame itself stays as it was
    for y, x in ((250, 100), (250, 300), (350, 200)):
        assert tuple(picture[y, x]) == LIGHT_BLUE
    assert (picture[200, 150] > 200).all()
    assert (picture[250, 200] == 110).all()
    # Right of the box: a dark disc of radius 35, its point right and below of the middle.
    changed = np.argwhere((picture[:, 304:] != 110).any(axis=-1))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert (bottom - top) // 2 == pytest.approx(35, abs=2)
    middle_y, middle_x = (top + bottom) // 2, 304 + (left + right) // 2
    assert tuple(picture[middle_y + 17, middle_x + 17]) == LIGHT_BLUE
    assert picture[middle_y - 17, middle_x - 17].max() < 80


def test_tracks_have_colours_of_their_own():
    picture = draw(grey(), [row((100, 150, 300, 350), track=8)], [None])
    assert tuple(picture[250, 100]) == ORANGE


def test_no_circumplex_without_valence_and_no_label_without_expression():
    bare = row((100, 150, 300, 350), valence=np.nan, arousal=np.nan, expression="")
    picture = draw(grey(), [bare], [None])
    changed = np.argwhere((picture != 110).any(axis=-1))
    assert changed.min(axis=0).tolist() == [149, 99]
    assert changed.max(axis=0).tolist() == [351, 301]


def test_circumplexes_of_neighbours_do_not_overlap():
    alone = draw(grey(), [row((60, 100, 260, 300))], [None])
    boxes = [(60, 100, 260, 300), (350, 100, 550, 300)]
    both = draw(grey(), [row(box, face=i) for i, box in enumerate(boxes)], [None, None])
    # Right of the first, between the two, at the bottom; of the second at its right.
    np.testing.assert_array_equal(both[220:310, 262:348], alone[220:310, 262:348])
    assert (both[220:310, 552:640] != 110).any()
    # Where the second reaches the border, its own goes between the two as well, at the top.
    boxes[1] = (350, 100, 630, 300)
    both = draw(grey(), [row(box, face=i) for i, box in enumerate(boxes)], [None, None])
    assert (both[110:150, 270:340] != 110).any()


@pytest.mark.parametrize(
    "box",
    [(-1e9, -1e9, 1e9, 1e9), (-300, -300, -200, -200), (630, 470, 700, 700), (0, 0, 640, 480)],
)
@pytest.mark.parametrize("size", [(480, 640), (3, 2000), (1, 1)])
def test_faces_that_leave_the_picture(box, size):
    faces = [row(box), row(box, face=1, expression="très long " * 20, valence=9.0)]
    factor = enlargement(*size)
    assert draw(grey(*size), faces, [None, None]).shape == (factor * size[0], factor * size[1], 3)


def test_a_video_whose_relative_name_has_colons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = overlay_files._VideoFile(pathlib.Path("12:30:00.mp4"), (48, 64, 3))
    file.add(np.full((48, 64, 3), 90, np.uint8), 0.0)
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["12:30:00.mp4"]
    assert len(list(read_video("12:30:00.mp4"))) == 1
