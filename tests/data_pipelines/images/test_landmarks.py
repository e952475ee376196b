import json
import re

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import landmarks as landmarks_lib
from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.schema import DataError, TooManyBadRecords
from tests.data_pipelines.made_images import Listed, encode, manifest_source, smooth, write_csv

RNG = np.random.default_rng(3)
FACE = RNG.uniform((20, 15), (44, 50), (68, 2)).astype(np.float32)
MISSING = FACE.copy()
MISSING[5:8] = 0


def ring(x, y, across, down, count):
    angles = np.linspace(-np.pi, np.pi, count, endpoint=False)
    return np.column_stack([x + across * np.cos(angles), y + down * np.sin(angles)])


def line(start, end, count):
    return np.linspace(start, end, count)


# Jaw, brows, nose, eyes, mouth of a face in an image of 64 x 64.
FACE68 = np.concatenate(
    [
        ring(32, 30, 22, 28, 32)[:17] * (1, -1) + (0, 60),
        *(line((14, 22), (28, 22), 5), line((36, 22), (50, 22), 5)),
        *(line((32, 28), (32, 38), 4), line((27, 41), (37, 41), 5)),
        *(ring(22, 30, 4, 2, 6), ring(42, 30, 4, 2, 6), ring(32, 49, 8, 4, 20)),
    ]
).astype(np.float32)
CODED = np.where(np.arange(68)[:, None] < 27, -1, FACE)
POINTS = {
    "fractions": (FACE / 64, r"landmarks lie in 0\.\.1; give pixels"),
    "fractions around the centre": ((FACE - 32) / 64, r"landmarks lie in 0\.\.1; give pixels"),
    "zero": (FACE * 0, r"all landmarks are \(0, 0\)"),
    "equal": (FACE * 0 + 7, r"all landmarks are \(7, 7\)"),
    "minus one": (FACE * 0 - 1, r"all landmarks are \(-1, -1\)"),
    "tiny": (FACE / 30 + 9, r"landmarks span only 0\.\d+ x 1\.\d+ pixels"),
    "flat": (FACE * (1, 0.01), r"landmarks span only \d+\.\d x 0\.3\d* pixels"),
    "some missing": (MISSING, r"3 of the landmarks are \(0, 0\)"),
    "x and y exchanged": (FACE68[:, ::-1], r"mirrored, or x and y are exchanged; give x0 y0"),
    "mirrored": (FACE68 * (-1, 1) + (64, 0), r"mirrored, or x and y are exchanged"),
    "x first": (np.concatenate([FACE68[:, 0], FACE68[:, 1]]).reshape(68, 2), "all x, then all y"),
    "some minus one": (CODED, r"27 of the landmarks are \(-1, -1\)"),
}
BOXES = {
    "fractions": ("0.2 0.1 0.7 0.9", r"lies in 0\.\.1; give pixels"),
    "the whole as fractions": ("0 0 1 1", r"lies in 0\.\.1; give pixels"),
    "no area": ("10 10 10 30", "has no area"),
    "turned": ("30 30 10 10", "has no area"),
    "x, y, width, height": ("30 30 20 25", "has no area; it is x0, y0, x1, y1, not width"),
    "zero": ("0 0 0 0", "has no area; leave the cell empty where unknown"),
    "minus one": ("-1 -1 -1 -1", "has no area; leave the cell empty where unknown"),
    "tiny": ("10 10 10.5 30", r"is only 0\.5 x 20 pixels"),
}


@pytest.fixture
def read(tmp_path):
    def source(header, cell):
        for k in range(20):
            (tmp_path / f"{k}.jpg").write_bytes(encode(smooth(64, 64)))
        rows = [[f"{k}.jpg", ("sad", "happy")[k % 2], cell if k == 19 else ""] for k in range(20)]
        write_csv(tmp_path / "m.csv", header, rows)
        return manifest_source(tmp_path / "m.csv")

    return source


@pytest.mark.parametrize("name", POINTS)
def test_landmarks_of_no_face_are_bad_rows(read, name):
    points, reason = POINTS[name]
    source = read(("path", "expression", "landmarks"), " ".join(map(str, points.ravel())))
    ((row, path, found),) = source.bad_rows
    assert (row, path) == (21, "19.jpg") and re.search(reason, found), found


@pytest.mark.parametrize("form", [str, lambda points: json.dumps(points).replace(" ", "")])
def test_a_list_of_x_and_a_list_of_y_are_a_bad_row(read, form):
    source = read(("path", "expression", "landmarks"), form(FACE68.T.tolist()))
    ((_, _, found),) = source.bad_rows
    assert found == "landmarks are two lists; give 68 pairs of x and y, or 136 numbers"


@pytest.mark.parametrize("angle", range(0, 360, 45))
def test_a_turned_face_has_sound_landmarks(angle):
    turn = np.radians(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    assert landmarks_lib.landmark_fault(FACE68 @ matrix.T) == ""
    assert "mirrored" in landmarks_lib.landmark_fault(FACE68[:, ::-1] @ matrix.T)


@pytest.mark.parametrize("side", [40, 160, 700])
@pytest.mark.parametrize("place", [(0, 0), (300, 100), (1500, 300), (200, 900), (3500, 2000)])
@pytest.mark.parametrize("roll", [-40, -15, 0, 15, 40])
def test_all_x_then_all_y_is_found_at_any_place_and_size(side, place, roll):
    turn = np.radians(roll)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for wide in (0.6, 1.0):  # turned aside, and frontal
        centred = (FACE68 - 32) * (wide, 1) @ matrix.T
        points = (centred * side / 64 + side / 2 + place).astype(np.float32)
        assert landmarks_lib.landmark_fault(points) == ""
        exchanged = points.T.reshape(68, 2)
        assert "all x, then all y" in landmarks_lib.landmark_fault(exchanged)


@pytest.mark.parametrize("wide", [0.05, 0.1, 0.2, 0.3])
def test_a_profile_is_not_taken_for_two_halves(wide):
    points = (FACE68 * (wide, 1) * 5 + (900, 200)).astype(np.float32)
    assert landmarks_lib.landmark_fault(points) == ""


@pytest.mark.parametrize("column", ["landmarks", "box"])
def test_percent_of_the_images_is_refused_where_it_is_sure(tmp_path, caplog, column):
    values = FACE68 / 64 * 100 if column == "landmarks" else np.array([20.0, 10.0, 80.0, 95.0])
    rows = [(f"{k}.jpg", " ".join(map(str, values.ravel())), 0, 0) for k in range(12)]
    write_csv(tmp_path / "m.csv", ("path", column, "valence", "arousal"), rows)
    what = f"column {column} holds no number above 100, and the images are larger"

    def read(sides):
        for side, (path, *_) in zip(sides, rows, strict=True):
            (tmp_path / path).write_bytes(encode(smooth(side, side)))
        return manifest_source(tmp_path / "m.csv")

    assert len(read([120] * 12)) == 12 and what not in caplog.text
    # A camera's frames with a face in their corner look the same.
    assert len(read([300] * 12)) == 12 and what in caplog.text
    with pytest.raises(DataError, match=what):
        read(range(300, 312))


@pytest.mark.parametrize("name", BOXES)
def test_boxes_of_no_face_are_bad_rows(read, name):
    text, reason = BOXES[name]
    ((row, path, found),) = read(("path", "expression", "box"), text).bad_rows
    assert (row, path) == (21, "19.jpg") and re.search(reason, found), found


def test_sound_marks_are_none_of_these():
    assert landmarks_lib.landmark_fault(FACE) == landmarks_lib.landmark_fault(FACE - 30) == ""
    assert landmarks_lib.landmark_fault(np.full((68, 2), np.nan)) == ""
    assert (
        landmarks_lib.box_fault(np.float32([0, 1, 2, 3]))
        == landmarks_lib.box_fault(np.full(4, np.nan))
        == ""
    )
    # A face at the border, and a box that reaches over it, are cut there.
    assert landmarks_lib.fault(FACE - (25, 0), None, 64, 64) == ""
    assert landmarks_lib.fault(None, np.float32([-10, -10, 70, 70]), 64, 64) == ""
    # Generous boxes: of a face that fills the picture, and of one in its corner.
    assert landmarks_lib.fault(None, np.float32([-20, -20, 84, 84]), 64, 64) == ""
    assert landmarks_lib.fault(None, np.float32([-18, -18, 40, 40]), 64, 64) == ""
    assert (
        landmarks_lib.fault(FACE / 30, None, 3, 3) == ""
    )  # of a picture of 3 pixels, all is small


class Marked(Listed):
    """Twenty pictures of which number 7 has the given landmarks or box."""

    def __init__(self, picture, points=None, box=None):
        landmarks = np.tile(FACE, (20, 1, 1)) if points is not None else None
        super().__init__([picture] * 20, landmarks=landmarks)
        self.points, self.box = points, box

    def __getitem__(self, i):
        record = super().__getitem__(i)
        if i == 7 and self.points is not None:
            record["landmarks"] = np.asarray(self.points, np.float32)
        if self.box is not None:
            record["box"] = np.float32(self.box if i == 7 else [20, 15, 44, 50])
        return record


def evaluate(source, size=32, **options):
    data = {"image_size": size, "augment": "none"} | options
    with make_pipeline(data, source, train=False, batch_size=20) as pipeline:
        return next(iter(pipeline)), pipeline.bad_records.names


@pytest.mark.parametrize("side", [64, 512])
@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (FACE + 64, "68 of 68 landmarks lie outside the image, which is 64x64 pixels"),
        (FACE * 2.2, "landmarks lie outside the image"),
        (FACE - (40, 0), "landmarks lie outside the image"),
        (FACE / 64, "landmarks lie in 0..1"),
        (FACE * 0, "all landmarks are (0, 0)"),
    ],
)
def test_landmarks_that_do_not_fit_the_picture_are_bad_records(side, points, reason):
    scale = side / 64  # the large picture is shrunk while it is decoded
    if reason.startswith(("68", "landmarks lie outside")):
        points = points * scale
    source = Marked(encode(smooth(side, side)), points)
    source.landmarks *= scale
    batch, bad = evaluate(source)
    assert np.flatnonzero(~batch["mask"]).tolist() == [7]
    assert reason.replace("64x64", f"{side}x{side}") in bad["image 7"]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([70, 10, 90, 30], "most of the face's box [70.0, 10.0, 90.0, 30.0] lies outside"),
        ([-60, 0, 20, 64], "lies outside the image, which is 64x64 pixels"),
        ([0, 0, 128, 128], "lies outside"),
        ([0.2, 0.2, 0.8, 0.8], "lies in 0..1"),
    ],
)
def test_boxes_that_do_not_fit_the_picture_are_bad_records(box, reason):
    picture = encode(smooth(64, 64))
    batch, bad = evaluate(Marked(picture, box=box))
    assert np.flatnonzero(~batch["mask"]).tolist() == [7] and reason in bad["image 7"]
    # Where the box is not used, it does not matter.
    assert evaluate(Marked(picture, box=box), crop="whole")[0]["mask"].all()
    assert evaluate(Marked(picture, FACE, box))[0]["mask"].all()
    assert not evaluate(Marked(picture, FACE, box), crop="box")[0]["mask"][7]


def test_too_many_of_them_stop_the_run():
    source = Marked(encode(smooth(64, 64)), FACE)
    source.landmarks += 64
    with pytest.raises(TooManyBadRecords, match="lie outside the image"):
        evaluate(source)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [32, 8])
def test_marks_are_pixels_of_the_upright_picture(orientation, size):
    upright = smooth(61, 91, 1)
    stored = Image.fromarray(upright)
    if orientation > 1:
        # `transpose` with the inverse of what the tag asks for.
        inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
        stored = stored.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = Marked(encode(stored, quality=98, exif=exif.tobytes()), FACE)
    straight = Marked(encode(upright, "PNG"), FACE)
    turned, expected = (evaluate(s, size=size)[0] for s in (source, straight))
    np.testing.assert_allclose(turned["landmarks"], expected["landmarks"], atol=1e-4)
    difference = turned["image"].astype(int) - expected["image"]
    assert np.abs(difference).mean() < 3
    with_box = [Marked(s.images[0], box=[20, 15, 44, 50]) for s in (source, straight)]
    turned, expected = (evaluate(s, size=size)[0]["image"].astype(int) for s in with_box)
    assert np.abs(turned - expected).mean() < 3
