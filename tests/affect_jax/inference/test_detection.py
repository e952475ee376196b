import cv2
import numpy as np
import pytest

from affect_jax.inference import detection
from affect_jax.inference.detection import crop, default_detector
from affect_jax.inference.faces import Faces, faces_of_boxes
from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.schema import DecodeError
from tests.affect_jax.inference.made_faces import drawn, iou, placed

LANDMARKS = Preprocessing(64, crop="landmarks", crop_scale=20 / 11)


@pytest.fixture(scope="module")
def faces():
    return drawn(8)


def side_by_side(frame):
    return np.array(
        [
            frame.x - frame.width / 2,
            frame.y - frame.height / 2,
            frame.x + frame.width / 2,
            frame.y + frame.height / 2,
        ]
    )


@pytest.mark.parametrize(
    "preprocessing",
    [
        LANDMARKS,
        Preprocessing(64, crop="auto", crop_scale=1.4, margin=0.2),
        Preprocessing(64, crop="box", crop_scale=1.15),
    ],
    ids=["landmarks", "auto", "box"],
)
def test_a_detected_crop_is_the_crop_of_training(faces, preprocessing):
    detector, overlaps, differences = default_detector(), [], []
    for record in faces:
        found = detector(record["image"])
        trained = preprocessing.framing.frame(256, 256, record["landmarks"], record["box"])
        used = preprocessing.face_frame(found.boxes[0], 256, 256)
        overlaps.append(iou(side_by_side(used), side_by_side(trained)))
        seen, _ = crop(record["image"], found, 0, preprocessing)
        expected = preprocessing.pixels(record["image"], record["landmarks"], record["box"])
        differences.append(np.abs(seen.astype(float) - expected).mean())
    assert min(overlaps) > 0.84
    assert np.mean(overlaps) > 0.9
    assert np.mean(differences) < 18


@pytest.mark.parametrize("rule", ["landmarks", "box"])
def test_a_true_box_gives_the_crop_of_training_exactly(faces, rule):
    preprocessing = Preprocessing(64, crop=rule, crop_scale=1.3)
    record = faces[0]
    known = faces_of_boxes(record["box"][None])
    seen, _ = crop(record["image"], known, 0, preprocessing)
    expected = preprocessing.pixels(record["image"], record["landmarks"], record["box"])
    # Landmarks are pixel centres and boxes edges, which moves the crop by half a pixel.
    assert np.abs(seen.astype(float) - expected).mean() < (0.01 if rule == "box" else 6)


def test_a_model_of_whole_images_sees_the_face_as_it_filled_them(faces):
    record = faces[0]
    box = record["box"]
    size = (box[2:] - box[:2]).mean()
    shift = (np.array([128, 128]) - (box[:2] + box[2:]) / 2) / size
    preprocessing = Preprocessing(
        64, crop="whole", face_scale=256 / size, face_shift=tuple(shift.tolist())
    )
    # The same image as a part of a larger one: the crop is the image.
    picture, moved = placed(record["image"], box, box[2] - box[0], (400, 500), 90, 40)
    seen, to_image = crop(picture, faces_of_boxes(moved[None]), 0, preprocessing)
    expected = Preprocessing(64, fit="cover").pixels(record["image"])
    inside = (slice(1, -1), slice(1, -1))  # at its edge the filter sees the picture around it
    np.testing.assert_allclose(seen[inside].astype(float), expected[inside], atol=3)
    corners = to_image(np.array([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(corners, [[89.5, 39.5], [345.5, 295.5]], atol=0.1)


def test_without_a_rule_the_whole_image_is_seen(faces):
    image = faces[0]["image"]
    preprocessing = Preprocessing(64, crop="whole")
    known = faces_of_boxes(np.array([[10, 10, 50, 50]]))._replace(rolls=np.array([90.0]))
    seen, _ = crop(image, known, 0, preprocessing)
    np.testing.assert_array_equal(seen, preprocessing.pixels(image))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_face_is_seen_upright(faces, quarters):
    for record in faces[:2]:
        upright = Faces(
            record["box"][None],
            np.ones(1, np.float32),
            record["landmarks"][None, :6],
            np.zeros(1, np.float32),
        )
        expected, to_image = crop(record["image"], upright, 0, LANDMARKS)
        x0, y0, x1, y1 = record["box"]
        for _ in range(quarters):  # counterclockwise
            x0, y0, x1, y1 = y0, 256 - x1, y1, 256 - x0
        turned = upright._replace(
            boxes=np.array([[x0, y0, x1, y1]], np.float32),
            rolls=np.array([[-90, 180, 90][quarters - 1]], np.float32),
        )
        image = np.ascontiguousarray(np.rot90(record["image"], quarters))
        seen, to_turned = crop(image, turned, 0, LANDMARKS)
        assert np.abs(seen.astype(float) - expected).mean() < 3
        places = to_image(np.array([[0.2, 0.7], [0.5, 0.5]]))
        for _ in range(quarters):
            places = np.stack([places[:, 1], 255 - places[:, 0]], -1)
        np.testing.assert_allclose(to_turned(np.array([[0.2, 0.7], [0.5, 0.5]])), places, atol=0.6)


@pytest.mark.parametrize("roll", [-40.0, 40.0])
def test_a_leaning_face_is_turned_about_its_centre(faces, roll):
    record = faces[0]
    box = record["box"]
    centre = (box[:2] + box[2:]) / 2
    turn = cv2.getRotationMatrix2D((float(centre[0]) - 0.5, float(centre[1]) - 0.5), -roll, 1.0)
    leaning = cv2.warpAffine(record["image"], turn, (256, 256))
    known = faces_of_boxes(box[None])
    expected, _ = crop(record["image"], known, 0, LANDMARKS)
    seen, _ = crop(leaning, known._replace(rolls=np.array([roll], np.float32)), 0, LANDMARKS)
    middle = (slice(20, 44), slice(20, 44))
    assert np.abs(seen[middle].astype(float) - expected[middle]).mean() < 5


@pytest.mark.parametrize("roll", [40.0, 90.0, 180.0])
def test_a_turned_crop_that_shows_much_has_no_black_corners(roll):
    image = np.full((400, 400, 3), 200, np.uint8)
    known = faces_of_boxes(np.array([[180, 180, 220, 220]]))
    known = known._replace(rolls=np.array([roll], np.float32))
    wide = Preprocessing(32, crop="whole", face_scale=4.0, face_shift=(0.5, -0.2))
    assert crop(image, known, 0, wide)[0].min() == 200


def test_a_small_lean_is_left_as_in_training(faces):
    record = faces[0]
    known = faces_of_boxes(record["box"][None])
    leaning = known._replace(rolls=np.array([detection.UPRIGHT - 1], np.float32))
    np.testing.assert_array_equal(
        crop(record["image"], leaning, 0, LANDMARKS)[0],
        crop(record["image"], known, 0, LANDMARKS)[0],
    )


def test_a_large_turned_face_gives_the_same_crop(faces):
    record = faces[0]
    known = faces_of_boxes(record["box"][None])._replace(rolls=np.array([180.0], np.float32))
    large = cv2.resize(record["image"], None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    seen, to_image = crop(record["image"], known, 0, LANDMARKS)
    again, to_large = crop(large, known._replace(boxes=known.boxes * 6), 0, LANDMARKS)
    assert np.abs(seen.astype(float) - again).mean() < 3
    part = np.array([[0.3, 0.6]])
    np.testing.assert_allclose(to_large(part), (to_image(part) + 0.5) * 6 - 0.5, atol=3)


@pytest.mark.parametrize("roll", [90.0, 180.0])
def test_a_large_turned_face_is_seen_where_it_is_in_an_image_of_any_size(roll):
    known = faces_of_boxes(np.array([[800, 800, 1100, 1100]]))
    known = known._replace(rolls=np.array([roll], np.float32))
    model = Preprocessing(32, crop="box", crop_scale=1.2)
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8), (0, 0), 12
    )
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    expected, to_image = crop(image, known, 0, model)
    cut, to_cut = crop(np.ascontiguousarray(image[:-7, :-7]), known, 0, model)
    np.testing.assert_allclose(cut.astype(float), expected, atol=2)
    parts = np.array([[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(to_cut(parts), to_image(parts))


def test_a_face_outside_the_image(faces):
    known = faces_of_boxes(np.array([[900, 900, 950, 950]]))
    with pytest.raises(DecodeError, match="outside the image"):
        crop(faces[0]["image"], known, 0, LANDMARKS)
