import pickle

import cv2
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.inference.blazeface import network
from affect_jax.inference.blazeface.network import FULL, SHORT, Network, Square


@pytest.mark.parametrize(("variant", "count"), [(SHORT, 896), (FULL, 2304)])
def test_anchors(variant, count):
    anchors = variant.anchors
    assert anchors.shape == (count, 2)
    cells, repeats = variant.grids[0]
    np.testing.assert_allclose(anchors[0], [0.5 / cells] * 2)
    np.testing.assert_allclose(anchors[repeats], [1.5 / cells, 0.5 / cells])
    np.testing.assert_allclose(anchors.mean(0), 0.5, atol=1e-6)


@pytest.mark.parametrize("variant", [SHORT, FULL])
def test_the_drawn_probe_is_a_face_in_the_middle(variant):
    picture = network._probe(variant.size)
    found = Network(variant).find(picture, Square(0, 0, 100), 0.5)
    best = found.scores.argmax()
    box, points = found.boxes[best], found.points[best]
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, [50, 54], atol=8)
    right_eye, left_eye, nose, mouth = points[:4]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1] < mouth[1]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_search_gives_the_places_in_the_picture_as_it_is(quarters):
    pixels, square, net = network._probe(128), Square(10, 20, 256), Network(SHORT)
    upright = net.find(pixels, square, 0.5)
    # The picture turned the other way looks upright to a search that turns it back.
    turned = net.find(np.rot90(pixels, -quarters), square, 0.5, quarters)
    np.testing.assert_allclose(turned.scores, upright.scores, rtol=1e-5)
    x, y = (upright.points - [138, 148]).transpose(2, 0, 1)
    for _ in range(quarters):  # a quarter clockwise
        x, y = -y, x
    moved = np.stack([x + 138, y + 148], -1)
    np.testing.assert_allclose(turned.points, moved, atol=1e-2)


def test_another_result_is_refused(monkeypatch):
    honest = network._forward
    monkeypatch.setattr(network, "_forward", lambda *a: (honest(*a)[0] * 1.1, honest(*a)[1]))
    with pytest.raises(UserError, match=f"OpenCV {cv2.__version__} does not run the face detector"):
        Network(SHORT).find(network._probe(128), Square(0, 0, 1), 0.5)


def test_an_error_of_opencv_is_one_for_people(monkeypatch):
    def broken(*args):
        raise cv2.error("new engine")

    monkeypatch.setattr(network, "_forward", broken)
    with pytest.raises(UserError, match="install opencv-python-headless"):
        Network(SHORT).find(network._probe(128), Square(0, 0, 1), 0.5)


def test_a_network_can_be_pickled():
    net = Network(SHORT)
    picture = network._probe(128)
    before = net.find(picture, Square(0, 0, 1), 0.5)
    after = pickle.loads(pickle.dumps(net)).find(picture, Square(0, 0, 1), 0.5)
    np.testing.assert_array_equal(after.boxes, before.boxes)
