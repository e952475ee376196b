import dataclasses
import logging

import cv2
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.exporting import face_crop
from affect_jax.exporting.face_crop import measured, with_face_crop
from affect_jax.inference.detection import crop
from affect_jax.inference.faces import faces_of_boxes
from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.schema import DecodeError
from tests.affect_jax import tiny

WHOLE = Preprocessing(16, fit="cover", margin=0.28, crop="whole")


class Photos:
    """Encoded photos of 100 x 80 pixels; every fourth is damaged."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        if not i % 4:
            raise DecodeError("damaged")
        image = np.full((80, 100, 3), 110, np.uint8)
        image[20:60, 40:70] = np.arange(40, dtype=np.uint8)[:, None, None] * 5
        return {"image": cv2.imencode(".png", image)[1].tobytes(), "box": np.full(4, np.nan)}


def find(image):
    return faces_of_boxes(np.array([[40, 20, 70, 60]]))


def test_a_face_in_a_larger_picture_is_cropped_as_training_showed_it():
    seen = measured(WHOLE, Photos(), find)
    # Training shows the square of 80 pixels in the middle, 35 is the mean side of the box.
    assert seen.face_scale == pytest.approx(80 / 35, abs=1e-4)
    assert seen.face_shift == pytest.approx(((50 - 55) / 35, 0), abs=1e-4)
    photo = cv2.imdecode(np.frombuffer(Photos()[1]["image"], np.uint8), cv2.IMREAD_COLOR)
    large = np.full((300, 400, 3), 110, np.uint8)
    large[150:230, 200:300] = photo
    pixels, _ = crop(large, faces_of_boxes(np.array([[240, 170, 270, 210]])), 0, seen)
    np.testing.assert_allclose(pixels.astype(int), WHOLE.pixels(photo), atol=1)


def test_images_without_faces_are_not_measured(caplog):
    caplog.set_level(logging.INFO)
    assert measured(WHOLE, Photos(), lambda image: faces_of_boxes(np.zeros((0, 4)))) is WHOLE
    assert "0 of 48 training images show a face, too few" in caplog.text


def test_images_that_training_crops_are_not_looked_at():
    def never(image):
        raise AssertionError("asked")

    class Boxed(Photos):
        def __getitem__(self, i):
            return {**Photos()[1], "box": np.array([40.0, 20, 70, 60])}

    by_box = Preprocessing(16, fit="cover", crop="box", crop_scale=1.2)
    assert measured(by_box, Boxed(), never) == by_box
    assert measured(by_box, Photos(), find).face_scale > 0


@pytest.mark.parametrize("known", ["box", "landmarks"])
def test_auto_becomes_the_crop_that_training_made(known):
    inner = np.random.default_rng(0).uniform([40, 27], [70, 60], (68, 2))
    inner[:2] = [[40, 20 + 40 / 6], [70, 60]]  # below the forehead, a sixth of the box
    labels = {"box": np.array([40.0, 20, 70, 60])} | (
        {"landmarks": inner - 0.5} if known == "landmarks" else {}
    )

    class Labelled(Photos):
        def __getitem__(self, i):
            return {**Photos()[1 + i % 3], **labels}

    auto = Preprocessing(16, fit="cover", crop="auto", crop_scale=1.2)
    seen = measured(auto, Labelled(), find)
    assert seen == dataclasses.replace(auto, crop=known)
    trained = auto.framing.frame(80, 100, labels.get("landmarks"), labels["box"])
    used = seen.face_frame(labels["box"], 80, 100)
    np.testing.assert_allclose(used, trained, atol=1e-6)


def test_boxes_without_their_forehead_stay_so():
    class Boxed(Photos):
        def __getitem__(self, i):
            return {**Photos()[1 + i % 3], "box": np.array([40.0, 20, 70, 60])}

    face = Preprocessing(16, fit="cover", crop="face", crop_scale=1.2)
    assert measured(face, Boxed(), find) is face


def test_grey_images_are_measured_too():
    class Grey(Photos):
        def __getitem__(self, i):
            return {"image": np.zeros((80, 100), np.uint8), "box": np.full(4, np.nan)}

    def find_in_colour(image):
        assert image.shape == (80, 100, 3)
        return find(image)

    assert measured(WHOLE, Grey(), find_in_colour).face_scale == pytest.approx(80 / 35, abs=1e-4)


def test_a_detector_that_cannot_run_is_an_error(monkeypatch):
    def broken():
        raise UserError("the detector is damaged")

    monkeypatch.setattr(face_crop, "default_detector", broken)
    with pytest.raises(UserError, match="the detector is damaged"):
        with_face_crop(WHOLE, tiny.config(data__crop="whole"))


def test_missing_images_are_said_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = tiny.config(data__source="manifest", data__manifest=str(tmp_path / "none.csv"))
    assert with_face_crop(WHOLE, config) is WHOLE
    assert caplog.records[-1].levelno == logging.WARNING
    assert "is not measured" in caplog.text and "none.csv" in caplog.text
