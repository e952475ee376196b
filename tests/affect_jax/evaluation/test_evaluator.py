"""The figure that chooses a checkpoint, and what is measured where a split has it."""

import numpy as np
import pytest

from affect_jax.evaluation import evaluator as evaluator_lib
from tests.affect_jax.evaluation.test_validity import LOGITS, OneBatch, evaluator

ALL = frozenset({"expression", "valence_arousal", "landmarks"})
FACES = frozenset({"expression", "valence_arousal"})
METRICS = {"nll": 1.5, "valence_ccc": 0.5, "arousal_ccc": 0.3, "nme": 0.25, "accuracy": 0.4}


@pytest.mark.parametrize(
    ("supervised", "loss"),
    [
        (ALL, 1.5 + 0.6 + 0.25),
        (FACES, 1.5 + 0.6),
        ({"valence_arousal"}, 0.6),
        ({"landmarks"}, 0.25),
        ({"expression"}, 1.5),
    ],
)
def test_the_loss_is_of_what_is_supervised(supervised, loss):
    assert evaluator_lib.with_loss(METRICS, supervised) == {"loss": pytest.approx(loss), **METRICS}


def test_the_loss_covers_the_labels_that_a_split_has():
    assert evaluator_lib.with_loss({"valence_ccc": 0.4}, ALL)["loss"] == pytest.approx(0.6)
    assert evaluator_lib.with_loss({"nll": 2.0}, ALL)["loss"] == 2.0
    # Nothing to measure is no loss of 0.
    assert evaluator_lib.with_loss({}, ALL) == {}
    assert "loss" not in evaluator_lib.with_loss({"nme": 0.1}, FACES)
    assert np.isnan(evaluator_lib.with_loss({"nll": float("nan"), "nme": 0.1}, ALL)["loss"])


def test_mixtures_are_measured_where_a_split_has_them():
    """The system was made for data without them."""
    batch = next(iter(OneBatch()))
    assert "mixture_kl" not in evaluator({"logits": LOGITS}).run({}, [batch]).metrics
    batch["expression_probs"] = np.float32([[0.5, 0.5, 0]] * 3 + [[0, 1, 0]] * 2)
    made = evaluator({"logits": np.zeros((5, 3), np.float32)})
    result = made.run({}, [batch], keep_predictions=True)
    expected = (3 * np.log(1.5) + np.log(3)) / 4  # the fifth record is padding
    assert result.metrics["mixture_kl"] == pytest.approx(expected)
    np.testing.assert_array_equal(
        result.predictions["expression_probs"], batch["expression_probs"][:4]
    )
