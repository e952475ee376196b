"""Batches: votes and true mixtures, for training and for evaluation."""

import numpy as np
import pytest

from data_pipelines.loading.pipeline import make_pipeline
from data_pipelines.schema import DataError
from data_pipelines.sources.synthetic import SyntheticFaces
from tests.data_pipelines.made_images import Listed, encode, smooth


class Voted(Listed):
    """Images with votes for the classes."""

    def __init__(self, count):
        super().__init__([encode(smooth(16, 16, k)) for k in range(count)])
        self.has |= {"expression_probs"}

    def __getitem__(self, i):
        votes = np.array([0.5, 0.5, 0.0], np.float32)
        return {**super().__getitem__(i), "expression_probs": votes}


def first_batch(records, train, **data):
    data = {"image_size": 16, "augment": "none", **data}
    with make_pipeline(data, records, train=train, batch_size=4) as batches:
        return next(batches)


@pytest.mark.parametrize(
    ("kind", "votes", "learnt"),
    [
        ("synthetic", "auto", False),
        ("synthetic", "learn", True),
        ("tfds", "auto", True),
        ("tfds", "ignore", False),
    ],
)
def test_votes_are_learnt_and_the_mixtures_of_synthetic_faces_are_not(kind, votes, learnt):
    source = Voted(8)
    batch = first_batch(source, True, source=kind, votes=votes)
    assert ("expression_probs" in batch) == learnt
    # Evaluation measures by them in any case.
    batch = first_batch(source, False, source=kind, votes=votes)
    np.testing.assert_array_equal(batch["expression_probs"], [[0.5, 0.5, 0.0]] * 4)


def test_synthetic_mixtures_arrive_in_an_evaluation():
    faces = SyntheticFaces(6, classes="fg_emotions", ambiguity=0.7, image_size=32)
    batch = first_batch(faces, False, source="synthetic")
    np.testing.assert_array_equal(batch["expression_probs"], faces.true_mixtures[:4])
    np.testing.assert_array_equal(batch["expression"], faces.labels[:4])
    assert "expression_probs" not in first_batch(faces, True, source="synthetic")


def test_other_values_are_refused():
    with pytest.raises(DataError, match=r"data\.votes is 'no'; known: auto, learn, ignore"):
        first_batch(Voted(4), True, votes="no")
