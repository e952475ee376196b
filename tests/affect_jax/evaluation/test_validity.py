"""Predictions that are no numbers, in an evaluation and in the choice of a checkpoint."""

import contextlib
import types

import numpy as np
import pytest

from affect_jax import systems
from affect_jax.evaluation import evaluator as evaluator_lib
from affect_jax.evaluation import validity
from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.reliability import ReliabilityStatistics
from affect_jax.report import model_runner
from tests.affect_jax import tiny

LOGITS = np.float32([[2, 1, 0], [np.nan, 1, 0], [0, np.inf, 1], [-np.inf, 3, 0], [0, 0, 3]])
LABELS = np.array([0, 0, 1, 1, 2])
HAS = frozenset({"expression", "valence_arousal", "landmarks"})


class OneBatch:
    """A pass of one batch of five records, the last of them padding."""

    def __iter__(self):
        mask = np.arange(5) < 4
        yield {
            "expression": LABELS,
            "valence_arousal": np.linspace(-0.5, 0.5, 10).reshape(5, 2),
            "landmarks": np.random.default_rng(0).uniform(0, 30, (5, 68, 2)),
            "mask": mask,
            "index": np.where(mask, np.arange(5) + 10, -1),
        }

    def describe(self, index):
        return f"set.csv:{index}"


class Mapper:
    """Gives these outputs for every batch instead of running a model."""

    def __init__(self, outputs):
        self.outputs = outputs

    def map(self, step, **options):
        return lambda view, batch: self.outputs

    def prefetch(self, batches):
        return ((batch, batch) for batch in batches)

    def local_rows(self, outputs):
        return outputs


def evaluator(outputs):
    """An `Evaluator` whose model gives `outputs`; nothing is compiled."""
    system = systems.create(
        tiny.config(), class_names=("a", "b", "c"), has=HAS, class_counts=(2, 2, 1)
    )
    return evaluator_lib.Evaluator(system, Mapper(outputs), None)


def test_what_is_a_number():
    assert validity.is_number("logits", LOGITS).tolist() == [True, False, False, True, True]
    assert validity.is_number("valence", LOGITS[:, 0]).tolist() == [True, False, True, False, True]
    assert validity.is_number("logits", np.full((1, 3), -np.inf)).tolist() == [False]
    assert validity.is_number("landmarks", np.zeros((2, 68, 2))).all()


def test_they_count_as_wrong_and_are_named(caplog):
    made = evaluator({"logits": LOGITS})
    metrics = made.run({}, OneBatch()).metrics
    assert metrics["invalid_predictions"] == 2
    assert metrics["accuracy"] == 0.5  # NaN and infinity are right for no class
    assert (
        "2 predictions are not finite; they count as wrong: set.csv:11, set.csv:12" in caplog.text
    )
    whole = evaluator({"logits": np.nan_to_num(LOGITS)})
    assert "invalid_predictions" not in whole.run({}, OneBatch()).metrics


def test_without_names_and_with_landmarks_alone(caplog):
    points = np.zeros((5, 68, 2))
    points[3, 7] = np.nan
    made = evaluator({"landmarks": points})
    assert made.run({}, list(OneBatch())).metrics["invalid_predictions"] == 1
    assert "example 13" in caplog.text


def test_reliability_takes_them_for_no_class():
    probabilities = np.full((4, 3), 1 / 3)
    probabilities[:, 0] = np.nan
    outputs = {
        "primary": probabilities,
        "corrected": probabilities,
        "logits": np.full((4, 3), np.nan),
        "nearest_anchor": np.zeros(4, int),
    }
    labels = {"expression": np.zeros(4, int), "mask": np.ones(4, bool)}
    figures = ReliabilityStatistics(3, 2).update(outputs, labels).compute()
    assert figures["accuracy_corrected"] == figures["correction_better"] == 0
    assert figures["anchors_never_win"] == 1


def test_metrics_count_them_as_wrong():
    metrics = MetricSet({"expression"}, 3).update({"logits": LOGITS}, {"expression": LABELS})
    assert metrics.compute()["accuracy"] == 3 / 5
    assert metrics.classification.confusion.sum() == 3


def test_pictures_of_an_analysis_leave_them_out(caplog):
    pictures = np.zeros((5, 4, 4, 3), np.uint8)
    batch = {"expression": LABELS, "mask": np.ones(5, bool), "index": np.arange(5)}
    looked_at = types.SimpleNamespace(
        path="run",
        source=lambda split: OneBatch(),
        batches=lambda source: contextlib.nullcontext([batch | {"image": pictures}]),
    )
    found, _ = model_runner.run_over(looked_at, lambda images: {"logits": LOGITS}, "test")
    assert found["expression"].tolist() == [0, -1, -1, 1, 2]
    assert "2 of 5 predictions are not finite and left out; the first belongs to set.csv:1" in (
        caplog.text
    )


@pytest.mark.parametrize("name", ["valence", "arousal"])
def test_numbers_that_are_none_are_counted_too(name):
    values = {"valence": np.zeros(5), "arousal": np.zeros(5)}
    values[name][2] = np.nan
    made = evaluator({**values})
    assert made.run({}, OneBatch()).metrics["invalid_predictions"] == 1
