import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affect_jax import models
from affect_jax.models.landmarks import (
    decode_heatmaps,
    grid_to_pixels,
    pixels_to_grid,
    render_heatmaps,
)

render = jax.jit(lambda landmarks, sigma: render_heatmaps(landmarks, 32, sigma, image_size=128))
decode_compiled = jax.jit(decode_heatmaps, static_argnums=1)


@given(st.lists(st.tuples(st.floats(8, 119), st.floats(8, 119)), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_decoding_finds_what_was_rendered_within_half_a_cell(points):
    landmarks = np.array([points], np.float32)
    heatmaps, mask = render(landmarks, 1.5)
    found, scores = decode_compiled(heatmaps, "quarter")
    assert mask.all()
    assert np.all(scores > 0.8)
    error = np.abs(grid_to_pixels(found, 32, 128) - landmarks)
    assert error.max() <= 2.01  # half of a cell of four pixels


# Nearer to the border the centroid's 7 x 7 cells are cut off, and it is biased inwards.
@given(st.tuples(st.floats(12, 115), st.floats(12, 115)), st.sampled_from([0.8, 1.0, 1.5]))
@settings(max_examples=20, deadline=None)
def test_a_parabola_finds_the_top_of_a_gaussian_exactly_and_a_centroid_nearly(point, sigma):
    landmarks = np.array([[point]], np.float32)
    heatmaps, _ = render(landmarks, sigma)
    for decode, limit in (("parabola", 0.02), ("centroid", 0.15 * 4)):
        found, _ = decode_compiled(heatmaps, decode)
        assert np.abs(grid_to_pixels(found, 32, 128) - landmarks).max() < limit


@pytest.mark.parametrize("decode", ["quarter", "parabola", "centroid"])
def test_any_map_gives_a_point_near_its_maximum(decode):
    maps = np.random.default_rng(0).normal(size=(3, 6, 7, 40)).astype(np.float32)
    maps[0, ..., :5] -= 10  # nowhere positive
    maps[1, ..., :5] = 0  # flat
    maps[2, 0, 0], maps[2, 5, 6, 7:] = 5, 6  # corners
    points, scores = (np.asarray(x) for x in decode_compiled(maps, decode))
    rows, columns = np.unravel_index(maps.reshape(3, 42, 40).argmax(1), (6, 7))
    reach = {"quarter": 0.25, "parabola": 0.5, "centroid": 3.0}[decode]
    assert np.isfinite(points).all()
    assert np.abs(points[..., 0] - columns - 0.5).max() <= reach
    assert np.abs(points[..., 1] - rows - 0.5).max() <= reach
    np.testing.assert_array_equal(scores, maps.max((1, 2)))
    if decode != "centroid":
        np.testing.assert_array_equal(points[2, 7], [6.5, 5.5])


def test_an_unknown_way_of_decoding_is_refused():
    with pytest.raises(ValueError, match="'quarter', 'parabola', 'centroid', got 'peak'"):
        decode_heatmaps(np.zeros((1, 4, 4, 1), np.float32), "peak")
    with pytest.raises(ValueError, match="decode must be one of"):
        models.create("fan", width=16, depth=1, stacks=1, decode="peak")


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
