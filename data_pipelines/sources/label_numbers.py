"""Find out what numbers mean as expression labels.

A number must be an id in a known order: RAF-DB counts from 1 and AffectNet from 0, and a guess
could shift every label by one unnoticed. If `data.classes` is a list of names, ids are positions in
the list, from 0. If it is a known order, the ids are:

| order        | ids                                                                           |
|--------------|-------------------------------------------------------------------------------|
| `rafdb`      | 1 to 7 as in RAF-DB's files, or 0 to 6                                          |
| `ckplus7`    | 1 to 7 as in CK+'s files (2, contempt, is left out), or 0 to 6                  |
| `affectnet7` | AffectNet's 0 to 7 (7, contempt, is left out)                                   |
| `affectnet5` | AffectNet's 0 to 7 (4, 5, 7 are left out), or 0 to 4 where both mean the same   |
| the others   | positions in the order, from 0                                                  |

Ids with two possible meanings are refused.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping

from data_pipelines.schema import LABEL_ORDERS, DataError, canonical_name
from data_pipelines.sources.manifest_rows import expression_token, is_id

log = logging.getLogger(__name__)

FEW_ROWS = 3  # a label in more rows than this is not a typing error
RARE = 0.1  # fraction of the rows; the same
REMEDY = "write class names instead of numbers"

_AFFECTNET = dict(enumerate(LABEL_ORDERS["affectnet8"]))
# Known order -> where its numbers come from, and number -> class name.
_NUMBERINGS: dict[str, tuple[str, dict[int, str]]] = {
    "affectnet7": ("AffectNet's files", _AFFECTNET),
    "affectnet5": ("AffectNet's files", _AFFECTNET),
    "rafdb": ("RAF-DB's files", dict(enumerate(LABEL_ORDERS["rafdb"], 1))),
    "ckplus7": (
        "CK+'s files",
        dict(
            enumerate(["anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise"], 1)
        ),
    ),
}


def key(label: str) -> str:
    """Return the common form of a label and a class name (`01` and `1.0` are `1`)."""
    return expression_token(label) or label if is_id(label) else canonical_name(label)


def certain(numbers: Counter, total: int, class_names: tuple[str, ...], order: str) -> str:
    """Return where the numbers come from, "" if they leave a doubt or are not ids.

    There is no doubt if they fit one of several readings, or hold the first number of each that
    they fit (ids that begin at 0 and not at 1).
    """
    readings = _readings(class_names, order)
    seen = without_strays(numbers, total)
    fitting = [(t, r) for t, r in readings if seen.keys() <= r.keys()]
    if not seen or not fitting or _meanings(seen, fitting) > 1:
        return ""
    only = len(fitting) == 1 < len(readings)
    return fitting[-1][0] if only or all(min(r) in seen for _, r in fitting) else ""


def numbering(
    numbers: Counter,
    total: int,
    class_names: tuple[str, ...],
    order: str,
    name: str,
    doubtful: str = "",
) -> tuple[str, Mapping[int, str]]:
    """Return where the numbers come from, and number -> class name without strays.

    Args:
      numbers: how often each occurs.
      total: number of labels, names too.
      class_names, order: the classes, and the name of their order ("" if it has none).
      name: of the data, for messages.
      doubtful: where numbers that may mean two things come from, as `certain` returns.

    Raises:
      DataError: they count from 1 where ids count from 0, or fit two orders, or none.
    """
    readings = _readings(class_names, order)
    # The next number after each reading counts as well: it shows that they count from 1.
    within = set().union(*(r.keys() | {max(r) + 1} for _, r in readings))
    seen = Counter({k: n for k, n in numbers.items() if k in within})
    beyond = Counter({k: n for k, n in numbers.items() if k not in within})
    common = without_strays(beyond, total)
    given = f"data.classes={order or ','.join(class_names)}"
    about = f"{name}: the labels are the numbers {listed(numbers)} ({numbers.total()} rows)"
    if common:
        raise DataError(
            f"{about}, and {given} has no class for {listed(common)}. Ids count from 0 "
            f"({_spelled(readings)}). Leave the cells of unknown labels empty, or {REMEDY}"
        )
    fitting = [(t, r) for t, r in readings if seen.keys() <= r.keys()]
    if not fitting:
        seen = without_strays(seen, total)
        fitting = [(t, r) for t, r in readings if seen.keys() <= r.keys()]
    size = len(class_names)
    from_1 = any(_may_count_from_1(seen, r, size) for _, r in fitting)
    if settled := [(t, r) for t, r in fitting if t == doubtful]:
        if from_1 or _meanings(seen, fitting) > 1:
            log.info(
                "%s: the numbers %s alone may mean two things; they are read as ids of %s, as "
                "those of the other manifests",
                name,
                listed(numbers),
                doubtful,
            )
        return settled[0]
    if not fitting or from_1:
        raise DataError(
            f"{about}, and ids count from 0 with {given} ({_spelled(readings)}). If yours "
            f"count from 1, each would be read as the next class: {REMEDY}, or subtract 1. "
            f"{other_orders(seen, order)}"
        )
    if _meanings(seen, fitting) > 1:
        meanings = "; or ".join(
            f"in {t}: {', '.join(f'{k} {r[k]}' for k in sorted(seen))}" for t, r in fitting
        )
        raise DataError(
            f"{about}, which with {given} may mean two things. {meanings}. To say which, {REMEDY}"
        )
    return fitting[-1]


def _readings(class_names: tuple[str, ...], order: str) -> list[tuple[str, dict[int, str]]]:
    known = [_NUMBERINGS[order]] if order in _NUMBERINGS else []
    return [("the order of data.classes", dict(enumerate(class_names))), *known]


def _meanings(seen: Collection[int], readings: list[tuple[str, dict[int, str]]]) -> int:
    """Return how many different things readings make of the numbers."""
    return len({tuple(key(r[k]) for k in sorted(seen)) for _, r in readings})


def without_strays(numbers: Counter, total: int) -> Counter:
    """Return the numbers in too many rows for a typing error."""
    return Counter({k: n for k, n in numbers.items() if n > FEW_ROWS or n > RARE * total})


def _may_count_from_1(seen: Collection[int], reading: Mapping[int, str], classes: int = 0) -> bool:
    """Return whether numbers seem to count from 1 where `reading` counts from 0.

    `classes` is the number of classes, if it differs from the reading's.
    """
    if not seen or 0 in seen or min(reading) != 0:
        return False
    sizes = {max(reading) + 1, classes or max(reading) + 1}
    return any(max(seen) == n or (n > 2 and set(seen) == set(range(1, n))) for n in sizes)


def listed(numbers: Collection[int]) -> str:
    shown = sorted(numbers)
    if len(shown) > 3 and shown == list(range(shown[0], shown[-1] + 1)):
        return f"{shown[0]} to {shown[-1]}"
    return ", ".join(map(str, shown[:12])) + (" ..." if len(shown) > 12 else "")


def _spelled(readings: list[tuple[str, dict[int, str]]]) -> str:
    return "; ".join(f"in {t}: {', '.join(f'{k} {n}' for k, n in r.items())}" for t, r in readings)


def other_orders(seen: Collection[int], order: str = "") -> str:
    """Return a sentence with the known orders that these numbers fit."""
    known = {o: r for o, (_, r) in _NUMBERINGS.items()}
    known = {o: known.get(o) or dict(enumerate(names)) for o, names in LABEL_ORDERS.items()}
    fits = [
        o
        for o, r in known.items()
        if o != order and set(seen) <= r.keys() and not _may_count_from_1(seen, r)
    ]
    return f"Known orders that these numbers fit: {', '.join(fits) or 'none'} (data.classes)"


def unnamed_classes(numbers: Counter, name: str) -> tuple[str, ...]:
    """Return classes `0`, `1`, ... for labels that are numbers from 0 without a gap."""
    for seen in (numbers, without_strays(numbers, numbers.total())):
        if seen and sorted(seen) == list(range(len(seen))):
            log.warning(
                "%s: the labels are numbers, and the classes are named %s; data.classes gives them "
                "names. %s",
                name,
                ", ".join(map(str, sorted(seen))),
                other_orders(seen),
            )
            return tuple(map(str, sorted(seen)))
    raise DataError(
        f"{name}: the labels are the numbers {listed(numbers)} ({numbers.total()} rows), but "
        f"without data.classes they must be 0, 1, 2 ... without a gap. Set data.classes to their "
        f"order, or {REMEDY}. {other_orders(numbers)}"
    )
