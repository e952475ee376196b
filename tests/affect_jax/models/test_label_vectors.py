"""Label vectors: the stand-in's similarities follow the tree, and depend on names alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affect_jax.models.label_vectors import stand_in, with_coarse
from data_pipelines.hierarchies.tree import Hierarchy

TWO = Hierarchy(
    name="small",
    fine=("worry", "anger", "panic", "wrath", "pride"),
    coarse=("fear", "anger", "joy"),
    coarse_of=(0, 1, 0, 1, 2),
)
THREE = dataclasses.replace(TWO, poles=("unpleasant", "pleasant"), pole_of=(0, 0, 1))


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_similarities_are_as_documented():
    # With many features the random parts are orthogonal.
    two = cosines(stand_in(TWO, TWO.fine, length=100_000)[:5])
    three = cosines(stand_in(THREE, THREE.fine, length=100_000)[:5])
    none = cosines(stand_in(None, TWO.fine, length=100_000))
    worry, anger, panic, wrath, pride = range(5)
    for first, second, expected in [
        (worry, panic, (0.6, 0.6, 0)),
        (anger, wrath, (0.6, 0.6, 0)),
        (worry, anger, (0.2, 0.3, 0)),
        (panic, pride, (0.2, 0.1, 0)),
    ]:
        measured = [table[first, second] for table in (two, three, none)]
        np.testing.assert_allclose(measured, expected, atol=0.015)


def test_classes_have_length_one_and_coarse_classes_are_their_means():
    vectors = stand_in(THREE, THREE.fine, length=300)
    assert vectors.shape == (8, 300) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(vectors[5], (vectors[0] + vectors[2]) / 2, atol=1e-7)
    np.testing.assert_array_equal(vectors[7], vectors[4])
    assert np.linalg.matrix_rank(vectors[:5]) == 5


@given(order=st.permutations(range(5)), features=st.integers(1, 40), seed=st.integers(-5, 5))
def test_a_vector_depends_on_names_and_seed_alone(order, features, seed):
    whole = stand_in(THREE, THREE.fine, length=features, seed=seed)
    mixed = dataclasses.replace(
        THREE,
        fine=tuple(THREE.fine[i] for i in order),
        coarse_of=tuple(THREE.coarse_of[i] for i in order),
    )
    np.testing.assert_array_equal(
        stand_in(mixed, mixed.fine, length=features, seed=seed)[:5], whole[order]
    )
    alone = Hierarchy("one", ("pride",), ("joy",), (0,), ("pleasant",), (0,))
    np.testing.assert_array_equal(
        stand_in(alone, ("pride",), length=features, seed=seed)[0], whole[4]
    )


def test_the_numbers_never_change():
    # A model's label vectors must be the same with any release of NumPy, on any machine.
    first = stand_in(TWO, TWO.fine, length=300)[0, :3]
    np.testing.assert_allclose(first, [0.091978, 0.143077, 0.083139], atol=1e-6)
    assert not np.allclose(
        stand_in(TWO, TWO.fine, length=300, seed=1)[0], stand_in(TWO, TWO.fine, length=300)[0]
    )


def test_spellings_of_a_class_share_a_vector_and_levels_do_not():
    happy, other = (
        stand_in(None, ("happy", "anger"), length=50),
        stand_in(None, ("Happiness", "x"), length=50),
    )
    np.testing.assert_array_equal(happy[0], other[0])
    fine_and_coarse = Hierarchy("one", ("anger",), ("anger",), (0,))
    assert (
        cosines(np.stack([stand_in(fine_and_coarse, ("anger",), length=50)[0], happy[1]]))[0, 1]
        < 0.9
    )


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        stand_in(None, ("a",), length=0)
    with pytest.raises(ValueError, match="the tree has 5 classes, not 2"):
        stand_in(TWO, ("anger", "worry"), length=5)


def test_means_of_classes():
    vectors = np.array([[1.0, 0], [3, 0], [3, 4], [0, 8], [7, 7]])
    expected = [[2, 2], [1.5, 4], [7, 7]]
    np.testing.assert_array_equal(with_coarse(vectors, TWO)[5:], expected)
    np.testing.assert_array_equal(with_coarse(vectors, None), vectors)
