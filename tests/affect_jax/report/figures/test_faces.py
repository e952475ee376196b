"""Faces with landmarks, distributions and maps: many classes, no labels, large images."""

import numpy as np
import pytest

from affect_jax.report.figures import embeddings, faces, style


def test_figures_take_many_classes_and_unlabelled_faces():
    rng = np.random.default_rng(0)
    shown = [faces.Face(i, np.zeros((8, 8, 3), np.uint8), -1, "") for i in range(2)]
    stages = {"final": np.full((2, 30), 1 / 30)}
    names = [f"class {i}" for i in range(30)]
    assert style.png(faces.corrections(shown, {"m": stages}, names), dpi=20)
    places = (rng.normal(size=(60, 2)), np.arange(60) % 30)
    assert style.png(embeddings.embeddings([("m", *places, "")], names), dpi=20)
    with pytest.raises(ValueError, match="no face"):
        faces.corrections([], {}, names)
    with pytest.raises(ValueError, match="no face"):
        faces.overlays([], {})
    with pytest.raises(ValueError, match="no image"):
        faces.landmark_faces(np.zeros((0, 8, 8, 3), np.uint8))


def test_the_true_class_is_named_where_the_prediction_is_wrong():
    names, probabilities = ("a", "b"), np.array([0.25, 0.75])
    assert faces.prediction_text(names, probabilities, 1) == ("b 75%", True)
    assert faces.prediction_text(names, probabilities, 0) == ("b 75%, true: a", False)
    assert faces.prediction_text(names, probabilities, -1) == ("b 75%", None)
    assert faces.prediction_text(names, np.full(2, np.nan), 1) == ("not a number", None)


def test_a_picture_too_large_is_rendered_coarser():
    noise = np.random.default_rng(0).integers(0, 255, (4, 256, 256, 3), dtype=np.uint8)
    content = style.png(faces.landmark_faces(noise))
    assert 200_000 < len(content) < 500_000
