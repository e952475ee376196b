import importlib.util
import pathlib

import cv2
import numpy as np
import pytest

from data_pipelines.schema import FLIP_INDEX
from tests.data_pipelines.images.official_crop import crop_matrix, landmark_box, official_crop

GOLDEN = pathlib.Path(__file__).parents[2] / "data" / "golden"
# OpenCV 4 rounds source coordinates to 1/32 pixel, OpenCV 5 does not: both are recorded.
PIXELS = "" if int(cv2.__version__.split(".")[0]) >= 5 else "cv4_"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "crops.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights():
    spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flip_index(golden):
    np.testing.assert_array_equal(FLIP_INDEX, golden["flip_index"])


def test_matrices_with_and_without_rotation(golden):
    for i, box in enumerate(golden["boxes"]):
        np.testing.assert_allclose(crop_matrix(box), golden["matrix"][i], atol=1e-9)
        for j, angle in enumerate((10, -25)):
            expected = golden["matrix_rot_10_and_-25"][i, j]
            np.testing.assert_allclose(crop_matrix(box, rotation=angle), expected, atol=1e-9)


def test_boxes_around_landmarks(golden):
    for i, landmarks in enumerate(golden["landmarks"]):
        box = landmark_box(landmarks)
        np.testing.assert_allclose(box, golden["landmark_boxes"][i], atol=1e-9)
        np.testing.assert_allclose(crop_matrix(box), golden["landmark_box_matrix"][i], atol=1e-9)


def test_pixels_and_landmarks(golden, weights):
    image = weights.image_u8("crop", 1, 300, 320)[0]
    for i, (box, landmarks) in enumerate(zip(golden["boxes"], golden["landmarks"], strict=True)):
        crop, points = official_crop(image, landmarks, box)
        np.testing.assert_array_equal(crop[::16, ::16], golden[PIXELS + "pixels_every_16"][i])
        np.testing.assert_allclose(points, golden["warped_landmarks"][i], atol=1e-9)
        crop, points = official_crop(image, landmarks, box, mirror=True)
        np.testing.assert_array_equal(
            crop[::16, ::16], golden[PIXELS + "flipped_pixels_every_16"][i]
        )
        np.testing.assert_allclose(points, golden["flipped_landmarks"][i], atol=1e-9)


def test_without_a_box_the_picture_is_resized(golden, weights):
    image = weights.image_u8("crop_square", 1, 200, 200)[0]
    # Recorded for the first landmarks, moved to a picture of 200 pixels.
    crop, points = official_crop(image, 0.6 * golden["landmarks"][0])
    np.testing.assert_array_equal(crop[::16, ::16], golden[PIXELS + "nobox_pixels_every_16"])
    np.testing.assert_allclose(points, golden["nobox_landmarks"], atol=1e-9)
