import hashlib

import numpy as np

from data_pipelines import persons

NAMES = [f"person {k // 3}" for k in range(600)]


def test_the_test_fold_is_the_hash_of_the_name():
    for name in ("Aaron_Sorkin", "x", "Ω"):
        number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
        assert persons.in_test_fold(name) == (number % 4 == 1)
        assert persons.in_test_fold(name, folds=7, test_fold=3) == (number % 7 == 3)


def test_no_person_stands_on_two_sides():
    split = persons.assign(NAMES)
    assert persons.shared_persons(NAMES, split) == []
    sizes = np.bincount(split, minlength=3) / len(NAMES)
    assert abs(sizes[2] - 0.25) < 0.1 and abs(sizes[1] - 0.75 * 0.15) < 0.05
    np.testing.assert_array_equal(split == 2, [persons.in_test_fold(n) for n in NAMES])


def test_the_cut_does_not_depend_on_the_order_of_rows():
    order = np.random.default_rng(0).permutation(len(NAMES))
    shuffled = persons.assign([NAMES[i] for i in order])
    np.testing.assert_array_equal(shuffled, persons.assign(NAMES)[order])


def test_seed_and_fraction_of_the_validation_cut():
    one, two = (persons.choose_validation(NAMES, 0.2, seed) for seed in (0, 1))
    assert len(one) == len(two) == 40 and one != two
    assert persons.choose_validation(NAMES, 0.0) == set()
    assert persons.choose_validation(["only"], 0.5) == set()
    assert len(persons.choose_validation(["a", "b"], 0.01)) == 1
    assert len(persons.choose_validation(["a", "b"], 0.99)) == 1


def test_given_splits_are_followed():
    given = np.array([0, 0, 1, 2, -1] * 120)
    split = persons.assign(NAMES, given=given)
    np.testing.assert_array_equal(split[given > 0], given[given > 0])
    assert (split[given == 0] == 0).all()  # both sides are given: nothing more is cut
    only_test = persons.assign(NAMES, given=np.where(given == 2, 2, 0))
    assert (only_test == 1).any()
    only_validation = persons.assign(NAMES, given=np.where(given == 1, 1, 0))
    assert (only_validation == 2).any() and (only_validation[given == 1] == 1).all()


def test_rows_without_a_given_split_follow_their_person():
    names = ["a", "a", "b", "b", "c", "c", "d", "d", "d", "e"]
    given = np.array([2, -1, 1, -1, 0, -1, 0, 2, -1, -1])
    split = persons.assign(names, given=given)
    np.testing.assert_array_equal(split, [2, 2, 1, 1, 0, 0, 0, 2, 2, 0])


def test_test_persons_are_not_drawn_from_given_validation_persons():
    # Every second picture of every third person is for validation; no test row is given.
    number = np.array([int(n.split()[-1]) for n in NAMES])
    given = np.where((number % 3 == 0) & (np.arange(len(NAMES)) % 2 == 0), 1, -1)
    split = persons.assign(NAMES, given=given)
    assert (split == 2).any() and (split == 1).any()
    assert persons.shared_persons(NAMES, split) == []


def test_shared_persons_are_named():
    assert persons.shared_persons(["b", "a", "a", "b", "c"], np.array([0, 0, 1, 2, 0])) == [
        "a",
        "b",
    ]
