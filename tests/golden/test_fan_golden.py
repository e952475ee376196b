"""The stand-alone FAN, its decoding and our face windows against the released detector."""

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax.models.landmarks import decode_heatmaps
from affect_jax.weights.released import convert
from data_pipelines.landmarker import WINDOW_SIDE, face_window
from tests.golden import golden_data as golden

ARRAYS = golden.arrays("fan_decode")
PEAKS = [(0, 0), (0, 63), (63, 0), (63, 63), (0, 30), (30, 0), (63, 30), (30, 63), (1, 1),
         (62, 62), (5, 41)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_heatmaps_of_every_stack_are_those_of_fan(dtype):
    with golden.precision(dtype):
        model = golden.build("fan", "fan4", dtype)
        images = golden.network_input("fan4", convert.release("fan").preprocessing)
        graphdef, state = nnx.split(model)
        run = jax.jit(lambda state, x: nnx.merge(graphdef, state, copy=True)(x))
        outputs = jax.device_get(run(state, images))
    assert len(outputs["stack_heatmaps"]) == 4
    for i, heatmaps in enumerate(outputs["stack_heatmaps"]):
        golden.assert_recorded("fan4", f"heatmap{i}", heatmaps, dtype)
    np.testing.assert_array_equal(outputs["heatmaps"], outputs["stack_heatmaps"][-1])
    if dtype == "float32":
        points, scores = decode_heatmaps(outputs["heatmaps"])
        # A quarter step may turn where two neighbours differ by less than float32 rounding.
        assert np.mean(np.all(points == ARRAYS["network/points"], axis=-1)) > 0.99
        np.testing.assert_allclose(points, ARRAYS["network/points"], atol=0.5)
        np.testing.assert_allclose(scores, ARRAYS["network/scores"], atol=3e-4)


def recorded_maps():
    maps = golden.weights.small("fan:decode_maps", (2, 68, 64, 64)).astype(np.float32)
    for i, (row, column) in enumerate(PEAKS):
        maps[:, i, row, column] = 50
    maps[:, 11:13] = 0
    maps[:, 12, 20, [20, 40]] = 7
    return maps.transpose(0, 2, 3, 1)


def test_decoding_borders_ties_and_flat_maps():
    points, scores = decode_heatmaps(recorded_maps())
    np.testing.assert_array_equal(points, ARRAYS["maps/points"])
    np.testing.assert_array_equal(scores, ARRAYS["maps/scores"])


def window_to_photo(points, centre, scale, size):
    """Photo pixels of points in a window of `size` cells, truncated as the detector does."""
    side = np.float32(WINDOW_SIDE * scale)
    relative = np.asarray(points, np.float32) / np.float32(size) - np.float32(0.5)
    return (relative * side + np.asarray(centre, np.float32)).astype(np.int32)


def test_crop_windows():
    for i, box in enumerate(ARRAYS["crop/boxes"]):
        # Ours counts from the edge of the first pixel, the detector from its centre.
        centre, side = face_window(box)
        centre, scale = centre - 0.5, side / WINDOW_SIDE
        np.testing.assert_allclose(centre, ARRAYS["crop/center"][i], rtol=1e-12)
        np.testing.assert_allclose(scale, ARRAYS["crop/scale"][i], rtol=1e-12)
        corners = window_to_photo(np.array([[1, 1], [256, 256]]), centre, scale, 256)
        np.testing.assert_array_equal(corners[0], ARRAYS["crop/upper_left"][i])
        np.testing.assert_array_equal(corners[1], ARRAYS["crop/bottom_right"][i])
