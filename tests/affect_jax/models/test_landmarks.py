import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax.models.landmarks import (
    crop_window,
    decode_heatmaps,
    grid_to_pixels,
    pixels_to_grid,
    render_heatmaps,
)


@given(st.lists(st.tuples(st.floats(8, 119), st.floats(8, 119)), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_decoding_finds_what_was_rendered_within_half_a_cell(points):
    landmarks = np.array([points], np.float32)
    heatmaps, mask = render_heatmaps(landmarks, 32, 1.5, image_size=128)
    found, scores = decode_heatmaps(heatmaps)
    assert mask.all()
    assert np.all(scores > 0.8)
    error = np.abs(grid_to_pixels(found, 32, 128) - landmarks)
    assert error.max() <= 2.01  # half of a cell of four pixels


def test_heatmaps_are_gaussians_of_height_one_around_cell_centres():
    heatmaps, _ = render_heatmaps(jnp.array([[[2.5, 4.5]]]), 8, 2.0)
    assert heatmaps.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(heatmaps[0, 4, 2, 0], 1.0)
    np.testing.assert_allclose(heatmaps[0, 4, 4, 0], np.exp(-0.5), rtol=1e-6)
    np.testing.assert_allclose(heatmaps[0, 6, 2, 0], np.exp(-0.5), rtol=1e-6)


def test_missing_landmarks_are_masked_and_keep_gradients_finite():
    landmarks = jnp.array([[[3.0, 4.0], [jnp.nan, 2.0], [jnp.nan, jnp.nan]]])
    heatmaps, mask = render_heatmaps(landmarks, 8, 1.0, image_size=32)
    np.testing.assert_array_equal(mask, [[True, False, False]])
    assert np.all(heatmaps[..., 1:] == 0)
    assert heatmaps[..., 0].max() > 0.5
    gradient = jax.grad(lambda x: render_heatmaps(x, 8, 1.0)[0].sum())(landmarks)
    assert np.isfinite(gradient).all()


def test_landmarks_beyond_the_picture_leave_tails_only():
    heatmaps, mask = render_heatmaps(jnp.array([[[-20.0, 4.0]]]), 8, 1.0)
    assert mask.all()
    assert heatmaps.max() < 1e-6


def test_pixels_and_grid_are_inverse_and_corners_coincide():
    points = np.array([[-0.5, -0.5], [255.5, 255.5], [10.0, 20.0]])
    grid = pixels_to_grid(points, 64, 256)
    np.testing.assert_allclose(grid[:2], [[0, 0], [64, 64]])
    np.testing.assert_allclose(grid_to_pixels(grid, 64, 256), points)


def test_maps_need_not_be_square():
    heatmaps = np.zeros((1, 4, 6, 1), np.float32)
    heatmaps[0, 2, 4, 0], heatmaps[0, 2, 3, 0] = 1.0, 0.5
    points, scores = decode_heatmaps(heatmaps)
    np.testing.assert_array_equal(points, [[[4.25, 2.5]]])
    np.testing.assert_array_equal(scores, [[1.0]])


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(20, 300), st.floats(20, 300))
@settings(max_examples=30, deadline=None)
def test_crop_windows_move_with_the_box(x, y, width, height):
    box = np.array([x, y, x + width, y + height])
    centre, scale, *_ = crop_window(box)
    shifted, same, *_ = crop_window(box + 32)
    np.testing.assert_allclose(shifted - centre, 32, atol=1e-9)
    np.testing.assert_allclose(scale, same)
    assert 200 * scale > max(width, height)
