import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.images.resampling import resample
from tests.data_pipelines.made_images import smooth

NOISE = np.random.default_rng(0).integers(0, 256, (77, 131, 3), np.uint8)


def blob(size, x, y):
    """A soft dot at (x, y) in parts of the side, 6 % of it wide."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    squares = (columns - x * size) ** 2 + (rows - y * size) ** 2
    return (255 * np.exp(-squares / 2 / (0.06 * size) ** 2)).round().astype(np.uint8)


def centre(image):
    """Centre of mass in parts of the side."""
    rows, columns = (np.mgrid[: len(image), : len(image)] + 0.5) / len(image)
    mass = image[..., 0].astype(float)
    return np.array([(mass * columns).sum(), (mass * rows).sum()]) / mass.sum()


def test_a_picture_of_the_output_size_stays_as_it_is():
    image = NOISE[:64, :64]
    np.testing.assert_array_equal(resample(image, 0, 0, 64, 64, 64), image)
    np.testing.assert_array_equal(resample(NOISE, 40, 10, 64, 64, 64), NOISE[10:74, 40:104])


@pytest.mark.parametrize("output", [32, 96, 224])
def test_nothing_moves_at_any_size(output):
    for size in range(60, 601, 9):
        for x, y in ((0.5, 0.5), (0.31, 0.62)):
            image = blob(size, x, y)
            shift = centre(resample(image, 0, 0, size, size, output)) - centre(image[..., None])
            assert np.abs(shift).max() * output < 0.05, (size, shift * output)


def test_one_pixel_more_changes_next_to_nothing():
    # No size at which another way of resampling begins.
    scene = smooth(600, 600, 3)
    for size, output in ((128, 64), (256, 64), (64, 64), (192, 96), (512, 64)):
        one, two = (
            resample(resample(scene, 0, 0, 600, 600, n), 0, 0, n, n, output).astype(int)
            for n in (size, size + 1)
        )
        assert np.abs(one - two).max() <= 3


@given(
    st.floats(-150, 150), st.floats(-150, 150), st.floats(0.3, 400), st.floats(0.3, 400),
    st.integers(1, 70),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_grey_picture_gives_what_its_rgb_copy_gives(left, top, width, height, size):
    grey = np.ascontiguousarray(NOISE[..., 1])
    of_grey = resample(grey, left, top, width, height, size)
    of_colour = resample(np.dstack([grey] * 3), left, top, width, height, size)
    np.testing.assert_array_equal(of_grey, of_colour)


@given(
    st.integers(0, 60), st.integers(0, 30), st.integers(1, 70), st.integers(1, 47),
    st.integers(1, 70), st.sampled_from([0.0, 0.1, 0.28, 32 / 224]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_rectangle_gives_what_a_picture_cropped_to_it_gives(x, y, width, height, size, margin):
    # As framing computes it: from the centre and the sides with a margin.
    wide, high = width * (1 + margin) / (1 + margin), height * (1 + margin) / (1 + margin)
    inside = resample(NOISE, x + width / 2 - wide / 2, y + height / 2 - high / 2, wide, high, size)
    cropped = np.ascontiguousarray(NOISE[y : y + height, x : x + width])
    np.testing.assert_array_equal(inside, resample(cropped, 0, 0, width, height, size))


def test_outside_is_black_in_proportion():
    white = np.full((50, 40), 200, np.uint8)
    out = resample(white, -10, -5, 60, 60, 60)[..., 0]
    np.testing.assert_array_equal(out[5:55, 10:50], 200)
    assert out.sum() == 200 * 50 * 40
    half = resample(white, -10.5, -5, 60, 60, 60)[..., 0]
    assert (half[5:55, 10] == 100).all() and (half[5:55, 50] == 100).all()
    for left, top in ((41, 0), (-20, 0), (0, 50), (1e9, 1e9)):
        assert not resample(white, left, top, 20, 20, 8).any()
    # A picture that is less than a pixel of the output needs no more memory than another.
    for side in (1e4, 1e8, 1e15):
        out = resample(white, -side / 3, -side / 3, side, side, 32)[..., 0].astype(float)
        assert out.sum() <= 200 * 2000 * (32 / side) ** 2 + 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (5000, 3), (1500, 2100)])
def test_any_shape_can_be_stretched(shape):
    image = np.full(shape, 90, np.uint8)
    for size in (1, 7, 64):
        out = resample(image, 0, 0, shape[1], shape[0], size)
        assert out.shape == (size, size, 3) and (out == 90).all()


def test_fine_patterns_are_averaged():
    checks = np.tile(np.uint8([[0, 255], [255, 0]]), (400, 400))
    for side in (800, 799, 401, 163):
        out = resample(checks[:side, :side], 0, 0, side, side, 24)[2:-2, 2:-2].astype(int)
        assert np.abs(out - 127.5).max() < 6, side


def test_the_filter_is_the_linear_one_at_every_ratio():
    # A step edge seen through a triangle as wide as two output pixels.
    for n, size in ((640, 64), (96, 64), (1300, 64)):
        edge = np.where(np.arange(n) < n / 2, 0, 255).astype(np.uint8)
        out = resample(np.tile(edge, (n, 1)), 0, 0, n, n, size)[size // 2, :, 0].astype(float)
        share = 255 * (1 - 0.5 * 0.5**2)  # half an output pixel from the edge
        assert math.isclose(out[size // 2], share, abs_tol=8)
        assert out[size // 2 - 2] == 0 and out[size // 2 + 1] == 255
