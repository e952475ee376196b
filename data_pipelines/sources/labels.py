"""Turn expression labels, names or numbers, into class names and class ids.

Numbers are ids of a known order (`label_numbers`). Names may be misspelt: a few rows with an
unknown name are left out, many such rows are an error.
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
    MISSING_ID,
    DataError,
    canonical_name,
    infer_order,
    known_names,
    order_name,
    resolve_classes,
)
from data_pipelines.sources import label_numbers
from data_pipelines.sources.label_numbers import FEW_ROWS, RARE
from data_pipelines.sources.manifest_rows import LeftOut, Row, is_id

log = logging.getLogger(__name__)

_MOSTLY_KNOWN = 0.9
_ALIKE = 0.75  # similarity of a misspelt name


def assign_classes(
    rows: list[Row],
    bad: list[LeftOut],
    classes: str | tuple[str, ...],
    name: str,
    few: int = FEW_ROWS,
    doubtful: str = "",
) -> tuple[tuple[str, ...], list[Row], np.ndarray]:
    """Return class names, the rows with a known or missing class, and class ids.

    Args:
      rows: checked rows.
      bad: rows of unknown classes are added.
      classes: class names, or the name of a known label order; empty = inferred.
      name: of the data, for messages.
      few: without `classes`, an unexpected label in more rows than this is refused.
      doubtful: see `label_numbers.numbering`.

    Raises:
      DataError: ids of an unknown order, a label that is not a typing error, or two splits that
        spell a class differently.
    """
    tokens = Counter(r.expression for r in rows if r.expression is not None)
    if classes:
        class_names = resolve_classes(classes)
        ids = _configured(tokens, class_names, order_name(classes), name, doubtful)
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
    return class_names, kept, np.array(expression, np.int32)


def numbers_of(rows: list[Row], classes: str | tuple[str, ...]) -> str:
    """Return where numbers among the labels come from; see `label_numbers.certain`."""
    class_names = resolve_classes(classes)
    tokens = Counter(r.expression for r in rows if r.expression is not None)
    positions = _positions(class_names)
    numbers = Counter(
        {int(t): n for t, n in tokens.items() if is_id(t) and label_numbers.key(t) not in positions}
    )
    return label_numbers.certain(numbers, tokens.total(), class_names, order_name(classes))


def warn_of_classes(
    rows: list[Row], expression: np.ndarray, class_names: tuple[str, ...], name: str
) -> None:
    """Warn of classes without an image, and of a single class."""
    absent = sorted(set(range(len(class_names))) - set(expression.tolist()))
    if absent and any(r.expression is not None for r in rows):
        log.warning("%s: no image of class %s", name, ", ".join(class_names[i] for i in absent))
    if len(class_names) == 1:
        log.warning("%s: every label is %s; there is nothing to classify", name, class_names[0])


def _check_splits(
    rows: list[Row], expression: list[int], class_names: tuple[str, ...], name: str
) -> None:
    """Refuse two classes of similar names (`happy`, `hapy`) in different splits."""
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
    tokens: Counter, class_names: tuple[str, ...], order: str, name: str, doubtful: str
) -> dict[str, int | str]:
    """Return label -> class id, or the reason why it is not in `class_names`."""
    positions = _positions(class_names)
    ids: dict[str, int | str] = {}
    numbers: Counter[int] = Counter()
    for token, count in tokens.items():
        if label_numbers.key(token) in positions:
            ids[token] = positions[label_numbers.key(token)]
        elif is_id(token) and not all(is_id(n) for n in class_names):
            numbers[int(token)] += count
        else:
            ids[token] = _unknown(token, class_names)
    if numbers:
        title, numbering = label_numbers.numbering(
            numbers, tokens.total(), class_names, order, name, doubtful
        )
        read = ", ".join(f"{k} {numbering[k]}" for k in sorted(numbers.keys() & numbering.keys()))
        log.info("%s: numbers among the labels are ids of %s: %s", name, title, read)
        for number in numbers:
            if number not in numbering:
                ids[str(number)] = _unknown(str(number), class_names)
            elif label_numbers.key(numbering[number]) in positions:
                ids[str(number)] = positions[label_numbers.key(numbering[number])]
            else:
                what = f"class id {number} is {numbering[number]} in {title}"
                ids[str(number)] = f"{what}, which is not one of {', '.join(class_names)}"
    return ids


def _positions(class_names: Collection[str]) -> dict[str, int]:
    return {label_numbers.key(n): i for i, n in enumerate(class_names)}


def _unknown(token: str, class_names: Collection[str], alike: str = "") -> str:
    what = "class id" if is_id(token) else "unknown class name"
    hint = f" (did you mean {alike!r}?)" if alike else ""
    return f"{what} {token!r}{hint}; the classes are {', '.join(class_names) or 'none'}"


def _inferred(tokens: Counter, name: str, few: int) -> tuple[tuple[str, ...], dict[str, int | str]]:
    """Return class names chosen by how often each label occurs; and as `_configured`."""
    numbers = Counter({int(t): n for t, n in tokens.items() if is_id(t)})
    names = Counter({t: n for t, n in tokens.items() if not is_id(t)})
    if numbers.total() > names.total():
        class_names = label_numbers.unnamed_classes(numbers, name)
    else:
        class_names = _named(names, name, few)
    positions = _positions(class_names)
    alike = {t: _alike(t, class_names) for t in tokens if label_numbers.key(t) not in positions}
    ids = {
        t: _unknown(t, class_names, alike[t]) if t in alike else positions[label_numbers.key(t)]
        for t in tokens
    }
    counts: Counter[str] = Counter()
    for token in alike:
        counts[label_numbers.key(token)] += tokens[token]
    frequent = [t for t in alike if counts[label_numbers.key(t)] > few]
    if frequent:
        _refuse(frequent, tokens, class_names, alike, name)
    return class_names, ids


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
        rare = {k for k, n in counts.items() if n <= min(few, RARE * counts.total())}
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
    if is_id(class_names[0]) or any(is_id(t) for t in labels):
        most = "names"
        if is_id(class_names[0]):
            most = f"the numbers {label_numbers.listed([*map(int, class_names)])}"
        raise DataError(
            f"{name}: most labels are {most}, but {shown} are not. Write names everywhere, or set "
            "data.classes to the order that the numbers are ids of"
        )
    raise DataError(
        f"{name}: nearly all labels are basic expressions, but {shown} are not. Correct them; or "
        f"list the classes: data.classes={known},{','.join(labels[:8])} learns them, and "
        f"data.classes={known} leaves their rows out, up to data.max_bad_fraction"
    )
