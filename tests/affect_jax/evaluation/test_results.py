import pytest

from affect_jax.evaluation import results
from affect_jax.metrics.classification import ClassificationStatistics


@pytest.mark.parametrize(
    ("min_count", "said"),
    [(1, None), (2, "over 2 of the 3 classes"), (4, "over 0 of the 3 classes")],
)
def test_classes_that_are_left_out_are_said(capsys, min_count, said):
    scores = ClassificationStatistics(4, ("happy", "sad", "fear", "anger"), min_count)
    labels = [0, 0, 0, 1, 1, 2]  # no anger at all
    scores.update([[1.0, 0, 0, 0]] * 6, labels)
    results.show({"test": scores.compute(), "test_flip": {"valence_ccc": 0.5}}, "test split")
    printed = capsys.readouterr().out
    if said is None:
        assert "Macro scores are" not in printed
    else:
        assert printed.count(said) == 1 and "config.eval.min_count" in printed
