"""Folds and validation splits without a person on two sides."""

import hashlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.protocols import persons as person_splits
from data_pipelines.schema import DataError


def kfold(
    persons: Sequence[str],
    folds: int,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Cut records into folds of about equal size, each person in one fold; int32 [n].

    Persons with many images are placed first, each into the fold that it fills most evenly; with
    labels, evenly in every class. Ties are broken by a hash of name and seed, so the order of the
    records does not matter.

    Args:
      persons: who is on each image [n].
      folds: number of folds, at most the number of persons.
      labels: int [n] classes to balance, -1 = unknown.
      seed: another seed gives other folds.

    Raises:
      DataError: fewer persons than folds, or fewer than 2 folds.
    """
    names, person = np.unique(np.asarray(persons, dtype=str), return_inverse=True)
    if not 2 <= folds <= len(names):
        raise DataError(f"{folds} folds need at least 2 and at most {len(names)}, one per person")
    classes = np.zeros(len(person), np.int64) if labels is None else np.asarray(labels) + 1
    counts = np.zeros((len(names), int(classes.max(initial=0)) + 1))
    np.add.at(counts, (person, classes), 1)
    # Fractions, so that a rare class weighs as much as a frequent one; the size counts as well.
    counts = np.column_stack([counts, counts.sum(1)])
    shares = counts / np.maximum(counts.sum(0), 1)
    ranks = [_rank(name, seed) for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda p: (-counts[p, -1], ranks[p]))
    load = np.zeros((folds, counts.shape[1]))
    members = np.zeros(folds, np.int64)
    fold_of = np.empty(len(names), np.int32)
    for place, p in enumerate(order):
        cost = 2 * load @ shares[p] + (shares[p] ** 2).sum()
        # No fold may stay empty: keep enough persons for those that still are.
        empty = members == 0
        if empty.sum() >= len(order) - place:
            cost[~empty] = np.inf
        fold = int(np.lexsort((np.arange(folds), members, np.round(cost, 12)))[0])
        fold_of[p] = fold
        load[fold] += shares[p]
        members[fold] += 1
    return fold_of[person]


def by_name(persons: Sequence[str], folds: int) -> np.ndarray:
    """Return folds by the hash of the name alone, as own images are cut; int32 [n].

    They do not depend on the other persons; `kfold` gives more even ones.

    Raises:
      DataError: fewer than 2 folds.
    """
    if folds < 2:
        raise DataError(f"{folds} folds: at least 2 are needed")
    fold_of = {p: person_splits.fold_of(p, folds) for p in set(persons)}
    return np.fromiter((fold_of[p] for p in persons), np.int32, len(persons))


def leave_one_out(persons: Sequence[str]) -> np.ndarray:
    """Return one fold per person, numbered in the order of the names; int32 [n]."""
    _, person = np.unique(np.asarray(persons, dtype=str), return_inverse=True)
    return person.astype(np.int32)


def validation(persons: Sequence[str], fraction: float, *, seed: int = 0) -> np.ndarray:
    """Mark the records of about `fraction` of the persons; bool [n]."""
    chosen = person_splits.choose_validation(persons, fraction, seed)
    return np.fromiter((p in chosen for p in persons), bool, len(persons))


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"fold/{seed}/{name}".encode("utf-8", "surrogatepass")).hexdigest()
