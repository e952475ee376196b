import pickle
import threading

import cv2
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.inference.blazeface import detector as detector_lib
from affect_jax.inference.blazeface.detector import BlazeFace
from tests.affect_jax.inference.made_faces import drawn, iou, placed


@pytest.fixture(scope="module")
def faces():
    return drawn(6)


@pytest.fixture(scope="module")
def detector():
    return BlazeFace()


def test_a_face_is_found_where_it_was_drawn(faces, detector):
    for record in faces:
        found = detector(record["image"])
        assert found.boxes.shape == (1, 4)
        assert found.points.shape == (1, 6, 2)
        assert found.scores[0] > 0.8
        assert iou(found.boxes[0], record["box"]) > 0.72
        eyes = record["landmarks"][[range(36, 42), range(42, 48)]].mean(1)
        between = np.linalg.norm(eyes[0] - eyes[1])
        np.testing.assert_allclose(found.points[0, :2], eyes, atol=0.2 * between)
        across = eyes[1] - eyes[0]
        assert found.rolls[0] == pytest.approx(np.degrees(np.arctan2(across[1], across[0])), abs=10)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_faces_on_their_side_and_upside_down(faces, detector, quarters):
    for record in faces[:3]:
        upright = detector(record["image"])
        found = detector(np.rot90(record["image"], quarters))
        assert len(found.scores) == 1
        turn = (found.rolls[0] - upright.rolls[0] + 90 * quarters + 180) % 360 - 180
        assert abs(turn) < 12
        x0, y0, x1, y1 = upright.boxes[0]
        for _ in range(quarters):  # counterclockwise, in a square of 256
            x0, y0, x1, y1 = y0, 256 - x1, y1, 256 - x0
        assert iou(found.boxes[0], np.array([x0, y0, x1, y1])) > 0.75


@pytest.mark.parametrize(
    ("width", "shape"), [(150, (340, 400)), (80, (480, 640)), (34, (600, 800))]
)
def test_large_and_small_faces(faces, detector, width, shape):
    for k, record in enumerate(faces[:3]):
        picture, box = placed(record["image"], record["box"], width, shape, 13 + 5 * k, 7)
        found = detector(picture)
        assert len(found.scores) == 1
        assert iou(found.boxes[0], box) > 0.65


def test_twelve_faces(faces, detector):
    cells = [cv2.resize(record["image"], (160, 160)) for record in (*faces, *faces)]
    picture = np.vstack([np.hstack(cells[k : k + 4]) for k in (0, 4, 8)])
    found = detector(picture)
    assert len(found.scores) == 12
    assert (np.diff(found.scores) <= 0).all()
    assert (found.best(5).scores == found.scores[:5]).all()


def test_a_face_cut_by_the_border(faces, detector):
    record = faces[0]
    x0, _, x1, _ = record["box"].astype(int)
    cut = np.ascontiguousarray(record["image"][:, (3 * x0 + x1) // 4 :])
    found = detector(cut)
    assert len(found.scores) == 1
    assert found.boxes[0, 0] < 3  # the box goes on to the left of the picture, or to its edge


@pytest.mark.parametrize("kind", ["noise", "black", "white", "stripes", "tiny"])
def test_no_face(detector, kind):
    rng = np.random.default_rng(0)
    pictures = {
        "noise": rng.integers(0, 256, (240, 320, 3)),
        "black": np.zeros((240, 320, 3)),
        "white": np.full((240, 320, 3), 255),
        "stripes": np.tile(np.arange(320) // 8 % 2 * 255, (240, 1))[..., None].repeat(3, -1),
        "tiny": rng.integers(0, 256, (1, 1, 3)),
    }
    found = detector(pictures[kind].astype(np.uint8))
    assert [values.shape for values in found] == [(0, 4), (0,), (0, 6, 2), (0,)]


def test_without_turning_a_face_upside_down_is_not_turned(faces):
    found = BlazeFace(turned=False)(np.rot90(faces[0]["image"], 2))
    assert (np.abs(found.rolls) < 90).all()


def test_tiles_cover_the_image_and_overlap():
    for tiling in detector_lib._TILINGS:
        covered = np.zeros((300, 500), int)
        for left, top, side in detector_lib._tiles(500, 300, tiling):
            rows = slice(max(round(top), 0), round(top + side))
            covered[rows, round(left) : round(left + side)] += 1
        assert covered.min() >= 1
        assert covered.max() >= 2


def test_threads_share_one(faces, detector):
    expected = [detector(record["image"]).boxes for record in faces]
    found: list = [None] * len(faces)

    def work(i):
        found[i] = detector(faces[i]["image"]).boxes

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(faces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_can_be_pickled(faces):
    detector = BlazeFace(0.7, small=False, turned=False)
    again = pickle.loads(pickle.dumps(detector))
    assert (again.threshold, again.small, again.turned) == (0.7, False, False)
    image = faces[0]["image"]
    np.testing.assert_array_equal(again(image).boxes, detector(image).boxes)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, float("nan")])
def test_a_wrong_threshold(threshold):
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        BlazeFace(threshold)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_a_wrong_image(detector, image):
    with pytest.raises(UserError, match=r"image must be uint8 \[H, W, 3\] RGB"):
        detector(image)
