"""Inputs that can never be images are refused with what to do."""

import io
import pathlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from affect_jax.errors import UserError
from affect_jax.inference import image_inputs


class Capture:
    """As OpenCV's VideoCapture: frames one by one, and no file."""

    def read(self):
        return True, np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "images is None; give a path"),
        (3, "images is a int; give a path"),
        ({"a": "b"}, "images is a dict; give a path"),
        (pd.DataFrame({"path": ["a.png"]}), r"images is a DataFrame; .*table\[\"path\"\]"),
        ([None], "image 0 is None, not an array or a path"),
        ([3], "image 0 is a int, not an array or a path"),
        (pd.Series(["a.png", np.nan]), r"image 1 is a float \(nan\), not"),
        ([["a.png"]], "image 0 is a list"),
        (io.BytesIO(b"GIF89a"), r"images is a BytesIO, an open file: give its content, \.read\(\)"),
        ([io.BytesIO(b"GIF89a")], r"image 0 is a BytesIO, an open file: give its content"),
        (Capture(), "images is a Capture; give a path"),
        ("", "image 0 is an empty path"),
        (".", "image 0 is a folder, '.'; list the images in it"),
        (["a.png", pathlib.Path("tests")], "image 1 is a folder, 'tests'"),
        (np.zeros((8, 8, 3), np.float32), r"got float32 \(8, 8, 3\); for values from 0 to 1"),
        (np.zeros((2, 8, 8, 3)), r"image 0 must be a uint8 RGB array.*got float64"),
        (np.zeros((8, 8), bool), "got bool .*convert it to 8 bits"),
        (np.zeros((8, 8, 3), np.uint16), "got uint16"),
        (np.zeros((3, 8, 9), np.uint8), "channels come last"),
        (np.zeros((6, 8, 9), np.uint8), r"many grey images are \[B, H, W, 1\]"),
        (np.zeros((8, 8, 2), np.uint8), "image 0 must be"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \(0, 8, 3\); it has no pixels"),
        (np.zeros((8, 0), np.uint8), "it has no pixels: leave out empty crops"),
        (np.uint8(3), "images is a uint8"),
        (np.zeros(5), "image 0 must be"),
        ([Image.new("F", (8, 8))], "Pillow image of floats"),
    ],
)
def test_what_is_not_an_image_is_the_callers_error(images, message):
    with pytest.raises(UserError, match=message):
        list(image_inputs.each(images))
