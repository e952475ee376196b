"""Splits by person: all images of a person are in one split.

The splits depend on the names alone.

Rows of a table belong together by more than one column. The rules of `components`:

* A row that names a person belongs to that person. Its video and group alone join nothing:
  different persons may use the same name for their clips ("video 1"), and several persons may be in
  one photo.
* A row without a person joins all rows of its video, its group and its image, also rows of named
  persons. If this joins several persons, they stay together: the row may show any of them.
* A row that names nothing and whose image is listed once is a person of its own.
* Names are the same if they differ in capitals, spaces, forms of Unicode, or in zeros that programs
  add to numbers or remove: `1`, `01` and Excel's `1.0` are one person.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
import re
import unicodedata
from collections.abc import Container, Hashable, Mapping, Sequence

import numpy as np

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")

# Columns that say who is in an image, and those that say to which images it belongs.
WHO_COLUMNS = ("person", "subject", "identity")
NAME_COLUMNS = (*WHO_COLUMNS, "video", "group", "clip")
_KIND_OF = {"subject": "person", "identity": "person", "clip": "video"}
# A component is named after the first of these that it has.
_CALLED = (*WHO_COLUMNS, "video", "group", "path")
_LAST = (len(_CALLED), "")
_WHOLE_NUMBER = re.compile(r"0*(\d+)(\.0*)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Components:
    """Groups of rows that must stay in one split.

    Attributes:
      names: of the component of each row [n]: its first person, else subject, identity, video,
        group or path, by alphabet. A person who is alone in it keeps the name of the table. Accents
        are composed (NFC), so that a copy on another system has the same splits.
      joined: persons of each component that holds several, sorted.
      unnamed: number of rows that name no person, video or group.
      ambiguous: names of videos or groups that several persons use for their own, sorted.
    """

    names: list[str]
    joined: tuple[tuple[str, ...], ...]
    unnamed: int
    ambiguous: tuple[str, ...]


def components(
    names: Sequence[tuple[str, ...]], paths: Sequence[str], labels: Sequence[str]
) -> Components:
    """Join rows transitively by the rules above.

    Args:
      names: cells of `NAME_COLUMNS` of each row [n], "" where empty.
      paths: of the image of each row, in one spelling for each file [n].
      labels: paths as the table writes them [n]; they name rows that name nothing.
    """
    # Slow to import; only tables need it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Frames of a video name the same things and are treated once.
    cells = list(dict.fromkeys(names))
    own = {row: _own_columns(row) for row in cells}
    # A column's value joins rows only if some row has no better one.
    joining = {(c, folded(row[c])) for row, columns in own.items() for c in columns}
    unknown = [not own[row] or own[row][0] >= len(WHO_COLUMNS) for row in names]
    listed = collections.Counter(paths)
    shared_images = {p for p, u in zip(paths, unknown, strict=True) if u and listed[p] > 1}

    nodes: dict[Hashable, int] = {}
    edges: list[tuple[int, int]] = []

    def node(key: Hashable) -> int:
        return nodes.setdefault(key, len(nodes))

    for row in cells:
        for c, cell in enumerate(row):
            if cell and (c, folded(cell)) in joining:
                edges.append((node(row), node((_kind(c), folded(cell)))))
    place = []
    for row, path in zip(names, paths, strict=True):
        # A row that names nothing is identified by its image.
        place.append(node(row) if own[row] else node(("path", path)))
        if own[row] and path in shared_images:
            edges.append((place[-1], node(("path", path))))
    ends = np.array(edges, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), bool), tuple(ends.T)), (len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=False)
    numbers = component[place].tolist()

    called: dict[int, tuple[int, str]] = {}
    people: dict[int, set[str]] = {}
    for row in cells:
        if own[row]:
            number = int(component[nodes[row]])
            best = called.get(number, _LAST)
            called[number] = min(best, *((_rank_of(c), row[c]) for c in own[row]))
            if own[row][0] < len(WHO_COLUMNS):
                people.setdefault(number, set()).add(folded(row[own[row][0]]))
    for row, number, label in zip(names, numbers, labels, strict=True):
        if not own[row]:
            called[number] = min(called.get(number, _LAST), (_CALLED.index("path"), label))
    return Components(
        names=[unicodedata.normalize("NFC", called[number][1]) for number in numbers],
        joined=tuple(sorted(tuple(sorted(p)) for p in people.values() if len(p) > 1)),
        unnamed=sum(not own[row] for row in names),
        ambiguous=_ambiguous(own, joining),
    )


def _ambiguous(
    own: Mapping[tuple[str, ...], list[int]], joining: Container[tuple[int, str]]
) -> tuple[str, ...]:
    """Return videos and groups that join nothing and are named by several persons."""
    users: dict[tuple[int, str], set[str]] = {}
    spelling: dict[str, str] = {}
    for row, columns in own.items():
        for c in range(len(WHO_COLUMNS), len(row)):
            key = c, folded(row[c])
            if row[c] and key not in joining:
                users.setdefault(key, set()).add(folded(row[columns[0]]))
                spelling[key[1]] = min(spelling.get(key[1], row[c]), row[c])
    return tuple(sorted({spelling[name] for (_, name), who in users.items() if len(who) > 1}))


def report(name: str, found: Components) -> None:
    """Log which persons a table joins, and what it leaves unknown."""
    if 0 < found.unnamed < len(found.names):
        log.warning(
            "%s: %d of %d images name no person, video or group; each counts as a person of its "
            "own",
            name,
            found.unnamed,
            len(found.names),
        )
    if found.joined:
        log.warning(
            "%s: %d persons are kept together as %d, because images without a person share their "
            "video, group or file (%s); name the person in every row, or give each video a name of "
            "its own",
            name,
            sum(map(len, found.joined)),
            len(found.joined),
            _listed([" + ".join(who[:3]) for who in found.joined]),
        )
    if found.ambiguous:
        log.info(
            "%s: %d videos or groups have a name that several persons use; they count as different "
            "ones (%s)",
            name,
            len(found.ambiguous),
            _listed(found.ambiguous),
        )


def warn_of_shared(name: str, persons: Sequence[str], split: np.ndarray) -> None:
    """Warn of persons that are in more than one split."""
    shared = shared_persons(persons, split)
    if shared:
        log.warning(
            "%s: %d persons are in more than one split (%s); `python -m data_pipelines.splits "
            "leakage` lists them",
            name,
            len(shared),
            ", ".join(shared[:5]),
        )


def _listed(names: Sequence[str], count: int = 3) -> str:
    more = len(names) - count
    return ", ".join([*names[:count], *([f"{more} more"] if more > 0 else [])])


def _own_columns(row: tuple[str, ...]) -> list[int]:
    """Return the columns that identify a row: its first person, else all names."""
    filled = [c for c, cell in enumerate(row) if cell]
    return filled[:1] if filled and filled[0] < len(WHO_COLUMNS) else filled


def _kind(column: int) -> str:
    name = NAME_COLUMNS[column]
    return _KIND_OF.get(name, name)


def _rank_of(column: int) -> int:
    name = NAME_COLUMNS[column]
    return _CALLED.index(name if name in WHO_COLUMNS else _kind(column))


@functools.lru_cache(maxsize=2**16)
def folded(name: str) -> str:
    """Return the common form of the spellings of a name; see the rules above."""
    name = name if name.isascii() else unicodedata.normalize("NFKC", name)
    name = " ".join(name.casefold().split())
    number = _WHOLE_NUMBER.fullmatch(name)
    return number[1] if number else name


def _bytes(name: str) -> bytes:
    # Bytes of a file name that are not text come as surrogates.
    return name.encode("utf-8", "surrogatepass")


def fold_of(person: str, folds: int) -> int:
    """Return SHA-256 of the name modulo `folds`."""
    return int(hashlib.sha256(_bytes(person)).hexdigest(), 16) % folds


def _rank(person: str, seed: int) -> int:
    # Salted, so that the validation split does not depend on the test fold.
    return int(hashlib.sha256(_bytes(f"validation/{seed}/{person}")).hexdigest(), 16)


def choose_validation(persons: Sequence[str], fraction: float, seed: int = 0) -> set[str]:
    """Return about `fraction` of the persons: at least one, but not all.

    A single person is not chosen.

    Args:
      persons: names of the training side, with repetitions.
      fraction: in [0, 1); 0 = none.
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
    """Return the split of every row, int8 [n]: 0 train, 1 validation, 2 test.

    Args:
      persons: who is in each image [n].
      folds, test_fold: persons with `fold_of` = `test_fold` are tested on; `folds=0`: none.
      validation_fraction, seed: see `choose_validation`.
      given: int [n] splits that are already known, -1 = unknown. Test persons are only drawn if no
        row is given to test, validation persons only if none is given to validation. A row without
        a given split follows the other rows of its person.
    """
    split = np.full(len(persons), TRAIN, np.int8)
    if given is not None:
        split[:] = follow_persons(persons, np.asarray(given))
    if folds and not (split == TEST).any():
        # Persons of a given validation split stay there.
        free = set(persons) - {p for p, s in zip(persons, split, strict=True) if s == VALIDATION}
        test = {p for p in free if fold_of(p, folds) == test_fold}
        split[np.fromiter((p in test for p in persons), bool, len(persons))] = TEST
    if not (split == VALIDATION).any():
        train = [p for p, s in zip(persons, split, strict=True) if s == TRAIN]
        chosen = choose_validation(train, validation_fraction, seed)
        mine = np.fromiter((p in chosen for p in persons), bool, len(persons))
        split[mine & (split == TRAIN)] = VALIDATION
    return split


def follow_persons(persons: Sequence[str], given: np.ndarray) -> np.ndarray:
    """Return the given splits; rows without one (-1) follow their person.

    If their person has none either, they are for training.
    """
    known = given >= 0
    # For a person given to several, test wins over validation, and validation over train.
    place: dict[str, int] = {}
    for row in np.flatnonzero(known).tolist():
        place[persons[row]] = max(place.get(persons[row], TRAIN), int(given[row]))
    split = given.copy()
    for row in np.flatnonzero(~known).tolist():
        split[row] = place.get(persons[row], TRAIN)
    return split


def shared_persons(persons: Sequence[str], split: np.ndarray) -> list[str]:
    """Return persons that are in more than one split, sorted."""
    seen: dict[str, int] = {}
    shared = set()
    for person, s in zip(persons, split.tolist(), strict=True):
        if seen.setdefault(person, s) != s:
            shared.add(person)
    return sorted(shared)
