"""Turn expression labels as written, names or numbers, into class names and class ids.

A number must be an id in a known order: RAF-DB counts from 1, AffectNet from 0, and a guess would
shift every label by one unnoticed. With `classes` a list of names, ids are positions in it and
count from 0. With a known order they are that order's own:

| order        | ids                                                                           |
|--------------|-------------------------------------------------------------------------------|
| `rafdb`      | 1 to 7 as in RAF-DB's files, or 0 to 6                                          |
| `ckplus7`    | 1 to 7 as in CK+'s files (2, contempt, is left out), or 0 to 6                  |
| `affectnet7` | AffectNet's 0 to 7 (7, contempt, is left out)                                   |
| `affectnet5` | AffectNet's 0 to 7 (4, 5, 7 are left out), or 0 to 4 where both mean the same   |
| the others   | positions in the order, from 0                                                  |

Ids with two possible meanings are refused too.
"""

import difflib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from data_pipelines.protocols.persons import SPLIT_NAMES, TRAIN
from data_pipelines.schema import (
    LABEL_ORDERS,
    MISSING_ID,
    DataError,
    canonical_name,
    infer_order,
    known_names,
    order_name,
    resolve_classes,
)
from data_pipelines.sources.manifest_rows import LeftOut, Row, expression_token, is_id

log = logging.getLogger(__name__)

FEW_ROWS = 3  # a label in more rows than this is not a typing error
_MOSTLY_KNOWN = 0.9
_RARE = 0.1  # fraction of the rows
_ALIKE = 0.75  # similarity of a misspelt name
_REMEDY = "write class names instead of numbers"

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


def assign_classes(
    rows: list[Row],
    bad: list[LeftOut],
    classes: str | tuple[str, ...],
    name: str,
    few: int = FEW_ROWS,
) -> tuple[tuple[str, ...], list[Row], np.ndarray]:
    """Return class names, the rows whose class is known or missing, and their class ids.

    Args:
      rows: checked rows.
      bad: rows of unknown classes are added.
      classes: class names, or the name of a known label order; empty = inferred.
      name: of the data, for messages.
      few: without `classes`, an unexpected label in more rows than this is refused.

    Raises:
      DataError: ids of an unknown order, a label that is not a typing error, or two splits that
        spell a class differently.
    """
    tokens = Counter(r.expression for r in rows if r.expression is not None)
    if classes:
        class_names = resolve_classes(classes)
        ids = _configured(tokens, class_names, order_name(classes), name)
    else:
        class_names, ids = _inferred(tokens, name, few)
    kept, expression = [], []
    for row in rows:
        found = MISSING_ID if row.expression is None else ids[row.expression]
        if isinstance(found, str):
            bad.append(LeftOut(row.number, row.path, found))
        else:
            kept.append(row)
            expression.append(found)
    bad.sort(key=lambda b: b[0])
    if not classes:
        _check_splits(kept, expression, class_names, name)
    absent = set(range(len(class_names))) - set(expression)
    if absent and tokens:
        log.warning(
            "%s: no image of class %s", name, ", ".join(class_names[i] for i in sorted(absent))
        )
    if len(class_names) == 1:
        log.warning("%s: every label is %s; there is nothing to classify", name, class_names[0])
    return class_names, kept, np.array(expression, np.int32)


def _check_splits(
    rows: list[Row], expression: list[int], class_names: tuple[str, ...], name: str
) -> None:
    """Refuse two classes of nearly the same name if no split has both: `happy` and `hapy`."""
    places: dict[int, set[int]] = {}
    for row, k in zip(rows, expression, strict=True):
        places.setdefault(k, set()).add(max(row.split, TRAIN))
    named = [k for k in sorted(places) if k != MISSING_ID and not is_id(class_names[k])]
    for a, b in itertools.combinations(named, 2):
        one, other = class_names[a], class_names[b]
        # `level 1` and `level 2` are different on purpose.
        if places[a] & places[b] or re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
            continue
        if difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio() >= _ALIKE:
            where = [", ".join(SPLIT_NAMES[s] for s in sorted(places[k])) for k in (a, b)]
            raise DataError(
                f"{name}: {one!r} is only in {where[0]} and {other!r} only in {where[1]}. If they "
                "are one class, spell it the same; if not, list the classes: "
                f"data.classes={','.join(class_names)}"
            )


def _configured(
    tokens: Counter, class_names: tuple[str, ...], order: str, name: str
) -> dict[str, int | str]:
    """Return label as written -> class id, or the reason why it is not in `class_names`."""
    positions = _positions(class_names)
    ids: dict[str, int | str] = {}
    numbers: Counter[int] = Counter()
    for token, count in tokens.items():
        if _key(token) in positions:
            ids[token] = positions[_key(token)]
        elif is_id(token) and not all(is_id(n) for n in class_names):
            numbers[int(token)] += count
        else:
            ids[token] = _unknown(token, class_names)
    if numbers:
        title, numbering = _numbering(numbers, tokens.total(), class_names, order, name)
        read = ", ".join(f"{k} {numbering[k]}" for k in sorted(numbers.keys() & numbering.keys()))
        log.info("%s: numbers among the labels are ids of %s: %s", name, title, read)
        for number in numbers:
            if number not in numbering:
                ids[str(number)] = _unknown(str(number), class_names)
            elif _key(numbering[number]) in positions:
                ids[str(number)] = positions[_key(numbering[number])]
            else:
                what = f"class id {number} is {numbering[number]} in {title}"
                ids[str(number)] = f"{what}, which is not one of {', '.join(class_names)}"
    return ids


def _positions(class_names: Collection[str]) -> dict[str, int]:
    return {_key(n): i for i, n in enumerate(class_names)}


def _key(label: str) -> str:
    """Return what a label and the name of its class have in common (`01` and `1.0` are `1`)."""
    return expression_token(label) or label if is_id(label) else canonical_name(label)


def _unknown(token: str, class_names: Collection[str], alike: str = "") -> str:
    what = "class id" if is_id(token) else "unknown class name"
    hint = f" (did you mean {alike!r}?)" if alike else ""
    return f"{what} {token!r}{hint}; the classes are {', '.join(class_names) or 'none'}"


def _numbering(
    numbers: Counter, total: int, class_names: tuple[str, ...], order: str, name: str
) -> tuple[str, Mapping[int, str]]:
    """Return where the numbers come from, and number -> class name without strays.

    Raises:
      DataError: they count from 1 where ids count from 0, or fit two orders, or none.
    """
    readings = [("the order of data.classes", dict(enumerate(class_names)))]
    if order in _NUMBERINGS:
        readings.append(_NUMBERINGS[order])
    # The next number after each reading counts as well: it shows that they count from 1.
    within = set().union(*(r.keys() | {max(r) + 1} for _, r in readings))
    seen = Counter({k: n for k, n in numbers.items() if k in within})
    beyond = Counter({k: n for k, n in numbers.items() if k not in within})
    common = _without_strays(beyond, total)
    given = f"data.classes={order or ','.join(class_names)}"
    about = f"{name}: the labels are the numbers {_listed(numbers)} ({numbers.total()} rows)"
    if common:
        raise DataError(
            f"{about}, and {given} has no class for {_listed(common)}. Ids count from 0 "
            f"({_spelled(readings)}). Leave the cells of unknown labels empty, or {_REMEDY}"
        )
    fitting = [(t, r) for t, r in readings if seen.keys() <= r.keys()]
    if not fitting:
        seen = _without_strays(seen, total)
        fitting = [(t, r) for t, r in readings if seen.keys() <= r.keys()]
    size = len(class_names)
    if not fitting or any(_may_count_from_1(seen, r, size) for _, r in fitting):
        raise DataError(
            f"{about}, and ids count from 0 with {given} ({_spelled(readings)}). Numbers that "
            f"count from 1 would be read as the next class: {_REMEDY}, or subtract 1. "
            f"{_other_orders(seen, order)}"
        )
    first = {k: _key(fitting[0][1][k]) for k in seen}
    if any({k: _key(r[k]) for k in seen} != first for _, r in fitting[1:]):
        meanings = "; or ".join(
            f"in {t}: {', '.join(f'{k} {r[k]}' for k in sorted(seen))}" for t, r in fitting
        )
        raise DataError(
            f"{about}, which with {given} may mean two things. {meanings}. To say which, {_REMEDY}"
        )
    return fitting[-1]


def _without_strays(numbers: Counter, total: int) -> Counter:
    """Return the numbers in too many rows for a typing error."""
    return Counter({k: n for k, n in numbers.items() if n > FEW_ROWS or n > _RARE * total})


def _may_count_from_1(seen: Collection[int], reading: Mapping[int, str], classes: int = 0) -> bool:
    """Return whether numbers look as if they counted from 1, while `reading` counts from 0.

    `classes` is the number of classes, if it differs from the reading's.
    """
    if not seen or 0 in seen or min(reading) != 0:
        return False
    sizes = {max(reading) + 1, classes or max(reading) + 1}
    return any(max(seen) == n or (n > 2 and set(seen) == set(range(1, n))) for n in sizes)


def _listed(numbers: Collection[int]) -> str:
    shown = sorted(numbers)
    if len(shown) > 3 and shown == list(range(shown[0], shown[-1] + 1)):
        return f"{shown[0]} to {shown[-1]}"
    return ", ".join(map(str, shown[:12])) + (" ..." if len(shown) > 12 else "")


def _spelled(readings: list[tuple[str, dict[int, str]]]) -> str:
    return "; ".join(f"in {t}: {', '.join(f'{k} {n}' for k, n in r.items())}" for t, r in readings)


def _other_orders(seen: Collection[int], order: str = "") -> str:
    """Return a sentence with the known orders that these numbers fit."""
    known = {o: r for o, (_, r) in _NUMBERINGS.items()}
    known = {o: known.get(o) or dict(enumerate(names)) for o, names in LABEL_ORDERS.items()}
    fits = [
        o
        for o, r in known.items()
        if o != order and set(seen) <= r.keys() and not _may_count_from_1(seen, r)
    ]
    return f"Known orders that these numbers fit: {', '.join(fits) or 'none'} (data.classes)"


def _inferred(tokens: Counter, name: str, few: int) -> tuple[tuple[str, ...], dict[str, int | str]]:
    """Return class names chosen by how often each label occurs; and as `_configured`."""
    numbers = Counter({int(t): n for t, n in tokens.items() if is_id(t)})
    names = Counter({t: n for t, n in tokens.items() if not is_id(t)})
    if numbers.total() > names.total():
        class_names = _unnamed(numbers, name)
    else:
        class_names = _named(names, name, few)
    positions = _positions(class_names)
    alike = {t: _alike(t, class_names) for t in tokens if _key(t) not in positions}
    ids = {
        t: _unknown(t, class_names, alike[t]) if t in alike else positions[_key(t)] for t in tokens
    }
    counts: Counter[str] = Counter()
    for token in alike:
        counts[_key(token)] += tokens[token]
    frequent = [t for t in alike if counts[_key(t)] > few]
    if frequent:
        _refuse(frequent, tokens, class_names, alike, name)
    return class_names, ids


def _unnamed(numbers: Counter, name: str) -> tuple[str, ...]:
    """Return classes `0`, `1`, ... for labels that are numbers from 0 without a gap."""
    for seen in (numbers, _without_strays(numbers, numbers.total())):
        if seen and sorted(seen) == list(range(len(seen))):
            log.warning(
                "%s: the labels are numbers, and the classes are named %s; data.classes gives them "
                "names. %s",
                name,
                ", ".join(map(str, sorted(seen))),
                _other_orders(seen),
            )
            return tuple(map(str, sorted(seen)))
    raise DataError(
        f"{name}: the labels are the numbers {_listed(numbers)} ({numbers.total()} rows), and ids "
        f"count from 0 without a gap where data.classes is not set. Set it to the order they are "
        f"ids of, or {_REMEDY}. {_other_orders(numbers)}"
    )


def _named(names: Counter, name: str, few: int) -> tuple[str, ...]:
    """Return the classes of labels that are names, without typing errors."""
    counts: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for token, n in names.most_common():
        spelling.setdefault(canonical_name(token), token)
        counts[canonical_name(token)] += n
    known = {k: n for k, n in counts.items() if k in known_names()}
    if known and sum(known.values()) >= _MOSTLY_KNOWN * counts.total():
        # Nearly all rows name basic expressions: the rest are misspelt, or refused.
        chosen = [spelling[k] for k in known]
    else:
        expressions = [spelling[k] for k in known]
        rare = {k for k, n in counts.items() if n <= min(few, _RARE * counts.total())}
        misspelt = {k for k in rare - known.keys() if _alike(k, expressions)}
        chosen = [spelling[k] for k in counts if k not in misspelt]
    return infer_order(chosen)


def _alike(token: str, class_names: Collection[str]) -> str:
    """Return the basic expression among the classes that a label may misspell, or ""."""
    names = {n.lower(): n for n in class_names if canonical_name(n) in known_names()}
    found = difflib.get_close_matches(token.strip().lower(), names, n=1, cutoff=_ALIKE)
    return names[found[0]] if found else ""


def _refuse(
    labels: list[str],
    tokens: Counter,
    class_names: tuple[str, ...],
    alike: Mapping[str, str],
    name: str,
) -> None:
    """Refuse labels that are not a class and are in too many rows for a typing error."""
    shown = ", ".join(
        f"{t!r} ({tokens[t]} rows" + (f"; {alike[t]!r} misspelt?)" if alike[t] else ")")
        for t in labels[:8]
    )
    known = ",".join(class_names)
    if is_id(class_names[0]):
        raise DataError(
            f"{name}: most labels are the numbers {_listed([*map(int, class_names)])}, but {shown} "
            "are not. Write names everywhere, or set data.classes to the order that the numbers "
            "are ids of"
        )
    if any(is_id(t) for t in labels):
        raise DataError(
            f"{name}: most labels are names, but {shown} are not. Write names everywhere, or set "
            "data.classes to the order that the numbers are ids of"
        )
    raise DataError(
        f"{name}: nearly all labels are basic expressions, but {shown} are not. Correct them; or "
        f"list the classes: data.classes={known},{','.join(labels[:8])} learns them, and "
        f"data.classes={known} leaves their rows out, up to data.max_bad_fraction"
    )
