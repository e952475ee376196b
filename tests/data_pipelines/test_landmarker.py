"""Windows around faces, and landmarks carried back from them; the model itself is a stub."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import landmarker


def test_landmarks_are_found_where_they_are():
    """A finder that sees 68 bright dots; the pictures differ in size, place and brightness."""
    rng = np.random.default_rng(0)
    pictures, boxes, truth = [], [], []
    for size in (90, 240, 500):
        low, high = 0.3 * size, 0.7 * size
        points = rng.uniform(low, high, (68, 2)).astype(np.float32)
        pictures.append(np.zeros((size, size, 3), np.uint8))
        boxes.append([low, low, high, high])
        truth.append(points)

    def finder(batch):
        assert batch.shape == (16, 64, 64, 3)
        # The window of each face is known from its box; undo it with plain arithmetic.
        found = np.zeros((len(batch), 68, 2))
        for k, (box, points) in enumerate(zip(boxes, truth, strict=True)):
            side = 200 / 195 * (box[2] - box[0] + box[3] - box[1])
            centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
            centre[1] -= 0.12 * (box[3] - box[1])
            found[k] = (points - centre) / side + 0.5
        return found

    found = landmarker.find_landmarks(finder, pictures, np.array(boxes, np.float32), size=64)
    np.testing.assert_allclose(found, truth, atol=0.02)


def test_landmark_windows_show_what_the_coordinates_say():
    """A bright dot is found in the window at the part of it that maps back to the dot."""
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[120, 140] = 255
    windows = []

    def finder(batch):
        windows.append(batch[0])
        y, x = np.unravel_index(batch[0, ..., 0].argmax(), batch.shape[1:3])
        part = (np.array([x, y]) + 0.5) / batch.shape[1]
        return np.broadcast_to(part, (len(batch), 68, 2))

    box = np.array([[100, 80, 179, 159]], np.float32)
    found = landmarker.find_landmarks(finder, [picture], box, size=256)
    assert windows[0].max() > 100
    np.testing.assert_allclose(found[0], np.broadcast_to([140, 120], (68, 2)), atol=0.5)


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(20, 300), st.floats(20, 300))
@settings(max_examples=30, deadline=None)
def test_windows_move_with_the_box(x, y, width, height):
    box = np.array([x, y, x + width, y + height])
    centre, side = landmarker.face_window(box)
    shifted, same = landmarker.face_window(box + 32)
    np.testing.assert_allclose(shifted - centre, 32, atol=1e-9)
    np.testing.assert_allclose(side, same)
    assert side > max(width, height)
