import numpy as np
import pytest

from affect_jax.inference.face_table import FIXED, FaceTable, cell
from data_pipelines.hierarchies.tree import Hierarchy

NAMES = ("calm", "glad", "cross")
TREE = Hierarchy("mine", NAMES, ("low", "high"), (0, 1, 1))


def test_columns_are_the_same_for_all_models_but_classes_and_points():
    assert FaceTable().columns == FIXED
    table = FaceTable(NAMES, TREE, n_landmarks=2)
    assert table.columns == (*FIXED, "p_calm", "p_glad", "p_cross", "x0", "y0", "x1", "y1")
    assert set(table.blank("f", 0, 0.0, "")) == set(table.columns)


def test_scores_of_a_face():
    table = FaceTable(NAMES, TREE, n_landmarks=1)
    row = table.scores(
        {
            "logits": np.log([0.2, 0.5, 0.3]),
            "valence": np.float64(1.5),
            "arousal": np.float64(-0.25),
            "primary": np.array([0.6, 0.3, 0.1]),
            "corrected": np.array([0.1, 0.2, 0.7]),
            "points": np.array([[3.0, 4.5]]),
        }
    )
    texts = {name: row[name] for name in ("expression", "coarse", "primary", "corrected")}
    assert texts == {
        "expression": "glad",
        "coarse": "high",
        "primary": "calm",
        "corrected": "cross",
    }
    numbers = {k: float(v) for k, v in row.items() if k not in texts}
    assert numbers == pytest.approx(
        {
            "confidence": 0.5,
            "coarse_probability": 0.8,
            "valence": 1.5,
            "arousal": -0.25,
            "primary_confidence": 0.6,
            "corrected_confidence": 0.7,
            "p_calm": 0.2,
            "p_glad": 0.5,
            "p_cross": 0.3,
            "x0": 3.0,
            "y0": 4.5,
        }
    )


def test_valence_and_arousal_are_bounded_on_request():
    row = FaceTable(clip_va=True).scores({"valence": np.float64(1.5), "arousal": np.float64(-3)})
    assert (row["valence"], row["arousal"]) == (1, -1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (-1, "-1"),
        (np.int64(7), "7"),
        (float("nan"), ""),
        (np.float32("nan"), ""),
        (np.float32(0.1), "0.1"),
        (1 / 3, "0.333333"),
        (np.float32(1e-9), "1e-09"),
    ],
)
def test_cells(value, text):
    assert cell(value) == text
