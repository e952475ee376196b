"""The first difference between the data of a run then and now, by their fingerprints."""

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.protocols import persons
from data_pipelines.schema import same_classes
from data_pipelines.sources import record_order
from data_pipelines.sources.fingerprint import (
    HASHED,
    STRINGS,
    Fingerprint,
    Records,
    decode,
    encode,
    hash_rows,
    renumber,
)

# In the order in which differences are looked for; the first names the record.
_COLUMNS = {
    "path": "name",
    "row": "place in the prepared set",
    "features": "features",
    "expression": "expression",
    "valence_arousal": "valence and arousal",
    "landmarks": "landmarks",
    "box": "box",
    "expression_probs": "votes",
    "attributes": "attributes",
    "person": "person",
    "group": "group",
    "track": "video",
}
# Their numbers follow the order of the records.
_RENUMBERED = ("group", "track")
# What tells records of one name apart, as several faces of an image; the most telling first.
_TELLING = (
    "box",
    "landmarks",
    "features",
    "expression",
    "valence_arousal",
    "person",
    "expression_probs",
    "attributes",
)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first difference between two sets of records.

    Attributes:
      text: one line.
      only_order: the records and their labels are the same, in another order. The frames of each
        video are in the same order.
      only_persons: the files may be the same, but persons whose names differ in spelling alone were
        told apart then (see `protocols.persons`).
    """

    text: str
    only_order: bool = False
    only_persons: bool = False


def first_difference(then: Fingerprint, now: Fingerprint) -> Difference | None:
    """Return the first difference between a run's data then and now, or None.

    Args:
      then: as recorded; a split may have lost its columns, and then only counts are compared.
      now: of the current data.
    """
    if not same_classes(then.class_names, now.class_names):
        return Difference(_class_difference(then.class_names, now.class_names))
    for split, old in then.splits.items():
        has = now.splits[split].has
        if old.has != has:
            changes = [
                f"{', '.join(sorted(names))} {what}"
                for names, what in (
                    (set(old.has) - set(has), "missing"),
                    (set(has) - set(old.has), "new"),
                )
                if names
            ]
            text = _there_now(f"labels of the {split} split", old.has, has)
            return Difference(f"{text} ({'; '.join(changes)})")
    if then.attribute_names != now.attribute_names:
        return Difference(_there_now("attributes", then.attribute_names, now.attribute_names))
    if any(old.digest != now.splits[split].digest for split, old in then.splits.items()):
        then, now = _composed(then), _composed(now)
    differences = (_split_difference(split, then, now) for split in then.splits)
    found = [difference for difference in differences if difference is not None]
    return next((d for d in found if not d.only_order), found[0] if found else None)


def has_moved(then: Records, now: Records) -> bool:
    """Return whether records of a split have, or may have, other positions now.

    Records without names, as synthetic faces, count as moved only if their number differs.
    """
    if then.digest == now.digest:
        return False
    if not then.columns:
        return True
    then, now = _compose_strings(then), _compose_strings(now)
    key = _shared_key(then, now)
    if not key:
        return then.count != now.count
    was, names = _numbers(then, now, key)
    if not _same_members(was, names):
        return True
    places = record_order.places(was, names, _contents(then, now))
    return bool((places != np.arange(len(places))).any())


def _composed(data: Fingerprint) -> Fingerprint:
    """Return the data with composed accents (NFC); earlier versions recorded them as they were."""
    splits = {split: _compose_strings(records) for split, records in data.splits.items()}
    return dataclasses.replace(data, splits=splits)


def _compose_strings(records: Records) -> Records:
    columns = {
        name: _compose(column) if name in STRINGS else column
        for name, column in records.columns.items()
    }
    return dataclasses.replace(records, columns=columns)


def _compose(column: np.ndarray) -> np.ndarray:
    if not (column > 127).any():
        return column
    return encode([unicodedata.normalize("NFC", text) for text in decode(column)])


def _there_now(title: str, then: Sequence[str], now: Sequence[str]) -> str:
    return f"{title}: there {', '.join(then) or 'none'}, now {', '.join(now) or 'none'}"


def _class_difference(then: Sequence[str], now: Sequence[str]) -> str:
    for k, (old, new) in enumerate(zip(then, now, strict=False)):
        if not same_classes([old], [new]):
            listed = f"there {', '.join(then)}; now {', '.join(now)}"
            return f"class {k}: there {old!r}, now {new!r} ({listed})"
    return f"classes: there {len(then)} ({', '.join(then)}), now {len(now)} ({', '.join(now)})"


def _split_difference(split: str, then: Fingerprint, now: Fingerprint) -> Difference | None:
    old, new = then.splits[split], now.splits[split]
    found = _record_difference(split, then, now) if old.digest != new.digest else None
    if found is not None and not found.only_order:
        return found
    for name, value in old.facts.items():
        other = new.facts.get(name)
        if value is not None and other is not None and value != other:
            return Difference(f"{split} split: {name}: there {value}, now {other}")
    there, here = (_sample(records, named=found is not None) for records in (old, new))
    for name, checksum in there.items():
        if here.get(name, checksum) != checksum:
            title = _name(old, int(name)) if found is None else repr(name)
            return Difference(
                f"{split} split: {title}: the image there and the one now are not the same file"
            )
    return found


def _sample(records: Records, *, named: bool) -> Mapping[str, int]:
    """Return checksums of a few images by position, or by name, which holds in any order."""
    if not named or not records.sample:
        return records.sample
    names = _names(records, _key(records) or "path")
    return {names[int(position)]: checksum for position, checksum in records.sample.items()}


def _record_difference(split: str, then: Fingerprint, now: Fingerprint) -> Difference | None:
    """Return how the columns of a split differ; None if only in the form of their strings."""
    old, new = then.splits[split], now.splits[split]
    size = f"{old.count:,} records there, {new.count:,} now"
    if not old.columns:
        return Difference(f"{split} split: {size}, and they are not the same")
    key, moved = _shared_key(old, new), None
    places = np.arange(old.count)
    if key:
        was, names = _numbers(old, new, key)
        if not _same_members(was, names):
            return _membership_difference(split, then, now, key)
        places = record_order.places(was, names, _contents(old, new))
        if (places != np.arange(old.count)).any():
            frame = record_order.moved_frame(was, old.columns["track"], places)
            if frame is not None:
                name = _name(old, frame)
                return Difference(f"{split} split: {name}: its video has another order now")
            moved = Difference(f"{split} split: {_first_moved(old, new, places)}", only_order=True)
    elif old.count != new.count:
        return Difference(f"{split} split: {size}")
    for name, title in _COLUMNS.items():
        if name != key and (name in old.columns or name in new.columns):
            different = np.flatnonzero(_changed(old, new, name, places))
            if name == "person":
                spelt, different = _parted(old, new, different, places)
                if len(spelt) and not len(different):
                    return _spelling_difference(split, old, new, int(spelt[0]), places)
            if len(different):
                i, more = int(different[0]), len(different) - 1
                also = f" ({more:,} more records of the split differ in this)" if more else ""
                a = _shown(old, name, i, then.class_names)
                b = _shown(new, name, int(places[i]), then.class_names)
                what = "has changed" if a == b else f"there {a}, now {b}"
                return Difference(f"{split} split: {_name(old, i)}: {title}: {what}{also}")
    return moved


def _parted(
    old: Records, new: Records, at: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of these records have a person of another spelling, and which another person."""
    if not len(at) or "person" not in old.columns or "person" not in new.columns:
        return at[:0], at
    was, now = _strings(old, "person"), _strings(new, "person")
    pairs = zip(at.tolist(), places[at].tolist(), strict=True)
    same = np.array([persons.folded(was[i]) == persons.folded(now[j]) for i, j in pairs])
    return at[same], at[~same]


def _spelling_difference(
    split: str, old: Records, new: Records, i: int, places: np.ndarray
) -> Difference:
    a, b = _strings(old, "person")[i], _strings(new, "person")[places[i]]
    return Difference(
        f"{split} split: {_name(old, i)}: person: there {a!r}, now {b!r}; names that differ only "
        "in zeros before a number, capitals, spaces and forms of Unicode are one person now",
        only_persons=True,
    )


def _shared_key(old: Records, new: Records) -> str | None:
    key = _key(old)
    return key if key in new.columns else None


def _key(records: Records) -> str | None:
    """Return the column that names the records, if there is one."""
    return next((key for key in ("path", "row") if key in records.columns), None)


def _strings(records: Records, name: str) -> list[str]:
    return decode(records.columns[name]) if records.count else []


def _numbers(old: Records, new: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a number of each record then and now; equal for equal values of the column."""
    if name in STRINGS:
        return record_order.number(_strings(old, name), _strings(new, name))
    a, b = old.columns[name], new.columns[name]
    if name == "row":
        _, numbers = np.unique(np.concatenate([a, b]), return_inverse=True)
        return numbers[: len(a)], numbers[len(a) :]
    return (a, b) if a.ndim == 1 else (hash_rows(a), hash_rows(b))


def _same_members(then: np.ndarray, now: np.ndarray) -> bool:
    if len(then) != len(now):
        return False
    size = max(then.max(initial=0), now.max(initial=0)) + 1
    return np.array_equal(np.bincount(then, minlength=size), np.bincount(now, minlength=size))


def _contents(old: Records, new: Records) -> list[tuple[np.ndarray, np.ndarray]]:
    shared = [name for name in _TELLING if name in old.columns and name in new.columns]
    return [_numbers(old, new, name) for name in shared]


def _first_moved(old: Records, new: Records, places: np.ndarray) -> str:
    """Return a text about the first place that another record has."""
    at = int(np.flatnonzero(places != np.arange(len(places)))[0])
    was, name = _name(old, at), _name(new, at)
    what = f"{name}, where {was} was" if was != name else f"another record of {name} than before"
    return f"the same records in another order: place {at} has {what}"


def _changed(old: Records, new: Records, name: str, places: np.ndarray) -> np.ndarray:
    """Return which records of `old` have another value of a column in `new`, bool [n]."""
    if name not in old.columns:
        return ~_missing(new, name)[places]
    if name not in new.columns:
        return ~_missing(old, name)
    a, b = _numbers(old, new, name) if name in STRINGS else (old.columns[name], new.columns[name])
    b = b[places]
    if a.shape != b.shape:
        return np.ones(old.count, bool)
    different = a != (renumber(b) if name in _RENUMBERED else b)
    if a.dtype.kind == "f":
        different &= ~(np.isnan(a) & np.isnan(b))
    return different.reshape(old.count, -1).any(1)


def _missing(records: Records, name: str) -> np.ndarray:
    """Return which records have no value of a column, bool [n]."""
    column = records.columns[name]
    if name in STRINGS:
        return np.array([not s for s in _strings(records, name)], bool)
    if name == "valence_arousal":
        return np.isnan(column).all(1)
    if name in HASHED:
        return column == 0
    if name in ("expression", *_RENUMBERED):
        return column < 0
    return np.zeros(len(column), bool)


def _shown(records: Records, name: str, i: int, class_names: Sequence[str]) -> str:
    """Return a value of a column in the form in which it is shown."""
    if name not in records.columns or _missing(records, name)[i]:
        return "none"
    if name in STRINGS:
        return repr(_strings(records, name)[i])
    value = records.columns[name][i]
    if name == "expression":
        return repr(class_names[value])
    if name == "valence_arousal":
        return f"({value[0]:g}, {value[1]:g})"
    return "given" if name in (*HASHED, *_RENUMBERED) else str(value.tolist())


def _names(records: Records, key: str) -> list[str]:
    if key == "path":
        return _strings(records, key)
    return [f"record {row}" for row in records.columns[key].tolist()]


def _name(records: Records, i: int) -> str:
    key = _key(records)
    if key is None:
        return f"record {i}"
    return repr(_strings(records, key)[i]) if key == "path" else f"record {records.columns[key][i]}"


def _membership_difference(split: str, then: Fingerprint, now: Fingerprint, key: str) -> Difference:
    """Return which record came, went or moved first."""
    old, new = (_names(side.splits[split], key) for side in (then, now))
    differing = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    at = next(differing, min(len(old), len(new)))
    lost, added = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if at < len(old) and old[at] in lost:
        gone, name = True, old[at]
    elif at < len(new) and new[at] in added:
        gone, name = False, new[at]
    else:  # the first difference is one of order
        gone, name = bool(lost), next(iter(lost or added))
    others = (now if gone else then).splits.items()
    where = [s for s, r in others if s != split and key in r.columns and name in _names(r, key)]
    if gone:
        what = f"is now in the {where[0]} split" if where else "is not there any more"
    else:
        what = f"was in the {where[0]} split" if where else "is new"
    size = f"{len(old):,} records there, {len(new):,} now"
    return Difference(f"{split} split: {name!r} {what} ({size})")
