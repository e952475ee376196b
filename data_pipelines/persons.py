"""Splits by person: no person's pictures stand on two sides. Pure functions of the names."""

import hashlib
from collections.abc import Sequence

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")


def fold_of(person: str, folds: int) -> int:
    """SHA-256 of the name modulo `folds`."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % folds


def in_test_fold(person: str, *, folds: int = 4, test_fold: int = 1) -> bool:
    """Whether the fold of a person is the one that is tested on."""
    return fold_of(person, folds) == test_fold


def _rank(person: str, seed: int) -> int:
    # Salted, so that the validation cut says nothing about the test fold.
    return int(hashlib.sha256(f"validation/{seed}/{person}".encode()).hexdigest(), 16)


def choose_validation(persons: Sequence[str], fraction: float, seed: int = 0) -> set[str]:
    """About `fraction` of the distinct persons, at least one and never all where there are two.

    Args:
      persons: names of the training side, repeats allowed.
      fraction: share in [0, 1); 0 = none.
      seed: another seed gives another cut.
    """
    distinct = sorted(set(persons), key=lambda p: _rank(p, seed))
    if fraction <= 0 or len(distinct) < 2:
        return set()
    count = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
    return set(distinct[:count])


def assign(
    persons: Sequence[str],
    *,
    folds: int = 4,
    test_fold: int = 1,
    validation_fraction: float = 0.15,
    seed: int = 0,
    given: np.ndarray | None = None,
) -> np.ndarray:
    """Split of every row: 0 train, 1 validation, 2 test.

    Args:
      persons: who is on each picture [n].
      folds, test_fold: the rule of `in_test_fold`; `folds=0` makes no test split.
      validation_fraction, seed: see `choose_validation`.
      given: int [n] splits that are already known, -1 where not. Test persons are only drawn
        when no row is given to test, validation persons only when none is given to validation.
        A row without a given split follows the other rows of its person.

    Returns:
      int8 [n].
    """
    split = np.full(len(persons), TRAIN, np.int8)
    if given is not None:
        split[:] = follow_persons(persons, np.asarray(given))
    if folds and not (split == TEST).any():
        # Persons of a given validation split stay there.
        free = set(persons) - {p for p, s in zip(persons, split, strict=True) if s == VALIDATION}
        test = {p for p in free if in_test_fold(p, folds=folds, test_fold=test_fold)}
        split[np.fromiter((p in test for p in persons), bool, len(persons))] = TEST
    if not (split == VALIDATION).any():
        train = [p for p, s in zip(persons, split, strict=True) if s == TRAIN]
        chosen = choose_validation(train, validation_fraction, seed)
        mine = np.fromiter((p in chosen for p in persons), bool, len(persons))
        split[mine & (split == TRAIN)] = VALIDATION
    return split


def follow_persons(persons: Sequence[str], given: np.ndarray) -> np.ndarray:
    """Given splits, with rows that lack one (-1) put where their person is; train where nowhere."""
    known = given >= 0
    # Of a person given to several, test wins over validation over train.
    place: dict[str, int] = {}
    for row in np.flatnonzero(known).tolist():
        place[persons[row]] = max(place.get(persons[row], TRAIN), int(given[row]))
    split = given.copy()
    for row in np.flatnonzero(~known).tolist():
        split[row] = place.get(persons[row], TRAIN)
    return split


def shared_persons(persons: Sequence[str], split: np.ndarray) -> list[str]:
    """Persons that stand in more than one split, sorted."""
    seen: dict[str, int] = {}
    shared = set()
    for person, s in zip(persons, split.tolist(), strict=True):
        if seen.setdefault(person, s) != s:
            shared.add(person)
    return sorted(shared)
