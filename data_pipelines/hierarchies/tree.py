"""The tree above the classes of a data set: fine classes, coarse classes and, if any, poles.

A tree is a TOML file that lists what lies below each node:

    [coarse]
    fear = ["anxiety", "worry"]
    joy = ["cheerful", "pride"]

    [poles]                 # optional
    unpleasant = ["fear"]
    pleasant = ["joy"]

A node is known by its level and name: `anger` may be a coarse class and a fine class below it.
Names are compared as class names are: in any case, synonyms folded.
"""

import dataclasses
import difflib
import functools
import pathlib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from data_pipelines.schema import DataError, canonical_name

_FOLDER = pathlib.Path(__file__).parent
_KEYS = ("name", "fine", "coarse", "poles")
_EXAMPLE = 'write, for example, [coarse] and below it fear = ["anxiety", "worry"]'
_SHOWN = 8  # names in a message


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """A checked tree of two levels (fine, coarse) or three (fine, coarse, poles).

    Attributes:
      name: of the tree.
      fine: names of the N fine classes.
      coarse: names of the M coarse classes.
      coarse_of: N places in `coarse`, one for each fine class.
      poles: names of the poles; empty in a tree of two levels.
      pole_of: M places in `poles`, one for each coarse class; empty in a tree of two levels.

    Raises:
      DataError: the tree is empty, a name is on one level twice, a node has no parent or no
        child, or the names form a cycle.
    """

    name: str
    fine: tuple[str, ...]
    coarse: tuple[str, ...]
    coarse_of: tuple[int, ...]
    poles: tuple[str, ...] = ()
    pole_of: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            self._fail('the tree has no name; write name = "..." at the top, or leave name out')
        if not self.fine or not self.coarse:
            self._fail(f"the tree has no classes; {_EXAMPLE}")
        for level in ("fine", "coarse", "poles"):
            self._check_distinct(level, getattr(self, level))
        self._check_parents("fine class", self.fine, "coarse class", self.coarse, self.coarse_of)
        if self.poles or self.pole_of:
            self._check_parents("coarse class", self.coarse, "pole", self.poles, self.pole_of)
        self._check_cycles()

    def for_classes(self, class_names: Sequence[str]) -> Self:
        """Return the tree over the classes of a data set, in the order of their ids.

        `fine` is then `class_names` in their own spelling. Coarse classes and poles that have no
        class of the data are left out; the others keep their order.

        Raises:
          DataError: a class is not in the tree, or two are the same class.
        """
        places = {canonical_name(name): i for i, name in enumerate(self.fine)}
        absent = [name for name in class_names if canonical_name(name) not in places]
        if absent:
            self._fail(
                f"no fine class {_listed(absent)}, which the data have; {self._hint(absent)}"
            )
        coarse_of = [self.coarse_of[places[canonical_name(name)]] for name in class_names]
        coarse = sorted(set(coarse_of))
        pole_of = [self.pole_of[i] for i in coarse] if self.poles else []
        poles = sorted(set(pole_of))
        return dataclasses.replace(
            self,
            fine=tuple(class_names),
            coarse=tuple(self.coarse[i] for i in coarse),
            coarse_of=tuple(map(coarse.index, coarse_of)),
            poles=tuple(self.poles[i] for i in poles),
            pole_of=tuple(map(poles.index, pole_of)),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold."""
        fields = dataclasses.asdict(self)
        return {key: value if key == "name" else list(value) for key, value in fields.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the tree that `to_plain` wrote.

        Raises:
          DataError: the mapping is not such a tree.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(plain, Mapping) or set(plain) != known:
            raise DataError(f"a hierarchy needs exactly the keys {', '.join(sorted(known))}")
        lists = {key: value for key, value in plain.items() if key != "name"}
        for key, values in lists.items():
            kind = int if key.endswith("_of") else str
            if not isinstance(values, list | tuple) or any(type(v) is not kind for v in values):
                raise DataError(f"hierarchy: {key} must be a list of {kind.__name__}")
        return cls(name=str(plain["name"]), **{key: tuple(v) for key, v in lists.items()})

    def _fail(self, problem: str) -> None:
        raise DataError(f"hierarchy {self.name}: {problem}")

    def _check_distinct(self, level: str, names: tuple[str, ...]) -> None:
        if any(not name.strip() for name in names):
            self._fail(f"a name in {level} is empty")
        counts = Counter(map(canonical_name, names))
        again = [name for name in names if counts[canonical_name(name)] > 1]
        if again:
            self._fail(
                f"{_listed(again)} in {level}: the same class twice; a name may be on one level "
                "only once (synonyms such as happy and happiness are one name)"
            )

    def _check_parents(
        self,
        child: str,
        children: tuple[str, ...],
        parent: str,
        parents: tuple[str, ...],
        places: tuple[int, ...],
    ) -> None:
        """Check that each child has one parent and each parent a child."""
        if len(places) != len(children):
            self._fail(f"{len(children)} names, but {len(places)} parents, of a {child}")
        orphans = [c for c, p in zip(children, places, strict=True) if not 0 <= p < len(parents)]
        if orphans:
            self._fail(f"{child} {_listed(orphans)} has no {parent} above it")
        barren = [p for i, p in enumerate(parents) if i not in places]
        if barren:
            self._fail(f"{parent} {_listed(barren)} has no {child} below it")

    def _check_cycles(self) -> None:
        """Refuse names that lie above and below each other.

        A node below a node of its own name is allowed.
        """
        above: dict[str, set[str]] = {}
        edges = [(self.coarse[p], name) for name, p in zip(self.fine, self.coarse_of, strict=True)]
        if self.poles:
            edges += [(self.poles[p], c) for c, p in zip(self.coarse, self.pole_of, strict=True)]
        for parent, child in edges:
            if canonical_name(parent) != canonical_name(child):
                above.setdefault(canonical_name(child), set()).add(canonical_name(parent))
        for start in above:
            if cycle := _way_back(start, above):
                self._fail(
                    f"{' > '.join(cycle)} is a cycle: a class cannot be above and below another; "
                    "remove one of these lines or rename a class"
                )

    def _hint(self, absent: Sequence[str]) -> str:
        coarse = set(map(canonical_name, self.coarse))
        if all(canonical_name(name) in coarse for name in absent):
            return "these are coarse classes of the tree, and its fine classes are needed"
        near = difflib.get_close_matches(absent[0].lower(), self.fine, 1)
        hint = f"did you mean {near[0]!r}? Or " if near else ""
        return f"{hint}add each to the list of its coarse class; the tree has {_listed(self.fine)}"


def load(path_or_name: str | pathlib.Path) -> Hierarchy:
    """Return the tree of a TOML file, or one that comes with the package (`fg_emotions`).

    Raises:
      DataError: there is no such file or name, the file is not TOML, or its tree is wrong.
    """
    if str(path_or_name) in names():
        path = _FOLDER / f"{path_or_name}.toml"
    else:
        path = pathlib.Path(path_or_name).expanduser()
    try:
        # Editors on Windows put a mark at the beginning.
        plain = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(
            f"hierarchy {str(path_or_name)!r}: there is no such file; give the path of a TOML file "
            f"or one of the names {', '.join(names())}"
        ) from None
    except OSError as error:
        raise DataError(f"hierarchy {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of TOML, and of UTF-8
        raise DataError(f"hierarchy {path}: not a TOML file: {error}; {_EXAMPLE}") from error
    return _from_toml(plain, path)


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of the trees that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def _from_toml(plain: Mapping[str, Any], path: pathlib.Path) -> Hierarchy:
    for key in plain:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KEYS)}"
            raise DataError(f"hierarchy {path}: there is no key {key!r}; {hint}")
    name = plain.get("name", path.stem)
    if not isinstance(name, str):
        raise DataError(f"hierarchy {path}: name = {name!r}; it must be a text")
    coarse = _section(plain, "coarse", path)
    poles = _section(plain, "poles", path)
    listed = _list(plain["fine"], "fine", path) if "fine" in plain else None
    children = [child for below in coarse.values() for child in below]
    fine = children if listed is None else listed
    _check_known("a coarse class has", children, "fine", fine, path)
    _check_known(
        "a pole has", [c for below in poles.values() for c in below], "coarse", coarse, path
    )
    return Hierarchy(
        name=name,
        fine=tuple(fine),
        coarse=tuple(name.strip() for name in coarse),
        coarse_of=_parents(fine, coarse, "coarse", path),
        poles=tuple(name.strip() for name in poles),
        pole_of=_parents(coarse, poles, "poles", path) if poles else (),
    )


def _section(plain: Mapping[str, Any], key: str, path: pathlib.Path) -> dict[str, list[str]]:
    """Return the lists of a section by their parents."""
    section = plain.get(key, {})
    if not isinstance(section, dict):
        raise DataError(f"hierarchy {path}: {key} must be a section; {_EXAMPLE}")
    return {parent: _list(below, f"{key}.{parent}", path) for parent, below in section.items()}


def _list(value: Any, key: str, path: pathlib.Path) -> list[str]:
    if not isinstance(value, list) or any(not isinstance(name, str) for name in value):
        deep = " (a tree has no more levels than poles, coarse, fine)"
        raise DataError(
            f"hierarchy {path}: {key} must be a list of names in quotes, got {value!r}"
            f"{deep if isinstance(value, dict) else ''}; {_EXAMPLE}"
        )
    return [name.strip() for name in value]


def _check_known(
    what: str, children: Iterable[str], level: str, known: Iterable[str], path: pathlib.Path
) -> None:
    folded = set(map(canonical_name, known))
    strange = [name for name in children if canonical_name(name) not in folded]
    if strange:
        raise DataError(
            f"hierarchy {path}: {what} {_listed(strange)} below it, which {level} does not list; "
            f"add it to {level} or correct the name"
        )


def _parents(
    children: Iterable[str], parents: Mapping[str, list[str]], level: str, path: pathlib.Path
) -> tuple[int, ...]:
    """Return the place of each child's parent; -1 where it has none.

    Raises:
      DataError: a child is listed twice.
    """
    places: dict[str, int] = {}
    for i, (parent, below) in enumerate(parents.items()):
        for child in below:
            if canonical_name(child) in places:
                first = list(parents)[places[canonical_name(child)]]
                raise DataError(
                    f"hierarchy {path}: {child!r} is below {first!r} and again below {parent!r} of "
                    f"{level}; a class has one parent: remove one of the two (synonyms such as "
                    "happy and happiness are one class)"
                )
            places[canonical_name(child)] = i
    return tuple(places.get(canonical_name(child), -1) for child in children)


def _way_back(start: str, above: Mapping[str, set[str]]) -> list[str]:
    """Return names from `start` down to itself, if one of its ancestors lies below it."""
    ways = [[start]]
    seen = set()
    while ways:
        way = ways.pop()
        for parent in sorted(above.get(way[0], ())):
            if parent == start:
                return [start, *way]
            if parent not in seen:
                seen.add(parent)
                ways.append([parent, *way])
    return []


def _listed(names: Iterable[str]) -> str:
    shown = [*map(repr, dict.fromkeys(names))]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
