"""Turn a folder of images into rows: which folders are splits, classes, persons.

The layouts are `CLASS/NAME.jpg`, `SPLIT/CLASS/NAME.jpg` and `CLASS/SPLIT/NAME.jpg`, each with
folders for persons inside. Splits have many names (`split_names`). Other layouts are refused,
because a split taken for a class, or an expression taken for a person, would spoil the training
unnoticed. The error says what was found and what was expected.
"""

import logging
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NoReturn

from data_pipelines.protocols import split_names
from data_pipelines.protocols.persons import TRAIN
from data_pipelines.schema import DataError, canonical_name, known_names, resolve_classes
from data_pipelines.sources.folder_scan import Folder, joined, scan

log = logging.getLogger(__name__)

_SHOWN = 5
_SEARCH_DEPTH = 4
_NO_PERSONS = known_names() - {"other"}
Rows = Iterator[tuple[int, dict[str, Any]]]


def read(root: pathlib.Path, classes: str | tuple[str, ...] = "") -> list[tuple[int, dict]]:
    """Return rows (0, column -> value) of the images of a folder, in a fixed order.

    Args:
      root: the folder.
      classes: class names or a known label order, as configured; empty = the folders' names.

    Raises:
      DataError: the folder cannot be read, holds no image, or has another layout.
    """
    return list(_Layout(root, classes).rows())


class _Layout:
    """Splits, classes and persons of a tree, or a refusal."""

    def __init__(self, root: pathlib.Path, classes: str | tuple[str, ...]):
        self.root = root
        self.classes = {canonical_name(n) for n in resolve_classes(classes)} if classes else set()
        self.tree = scan(root)

    def rows(self) -> Rows:
        tree = self.tree
        if not tree.filled:
            what = "holds no image"
            if tree.total:
                what = f"holds {tree.total} images directly, and no class folder with images"
            listed = ", ".join(sorted(os.listdir(self.root))[:8]) or "nothing"
            raise DataError(
                f"data.folder: {self.root} {what}; {self._expected()}, found {listed}"
                f"{self._advice()}"
            )
        splits = self._splits([f.name for f in tree.filled])
        named = {name: split for name, split in splits.items() if split is not None}
        self._check_mixed_names(named)
        found: list[tuple[Folder, int | None]]
        if not named:
            found = [(f, None) for f in self._class_folders(tree)]
        elif len(named) == len(splits):
            self._check_abbreviations(named)
            found = [(f, splits[top.name]) for top in tree.filled for f in self._class_folders(top)]
            self._tell_loose(tree)
            listed = ", ".join(f"{n} as {split_names.spelling(s)}" for n, s in named.items())
            log.info("%s: folders taken for splits: %s", self.root, listed)
        else:
            self._refuse(
                f"it mixes folders that are named like splits ({self._listed(tree, named)}) with "
                f"others ({self._listed(tree, [n for n in splits if n not in named])}). Move the "
                "others out, or into the splits"
            )
        self._tell_unused()
        classes = self._with_inner_splits(found)
        self._check_classes(classes)
        wrapper = _wrapper(folder for folder, _, _ in classes)
        for folder, name, split in classes:
            yield from self._class_rows(folder, name, split, wrapper)

    def _class_folders(self, place: Folder) -> list[Folder]:
        """Return the folders of classes in the root or in a split."""
        if place.parts:
            where = joined(place.parts)
            if not place.filled:
                self._refuse(f"{where} holds images, but no folders of classes")
            inner = [f.name for f in place.filled if self._split(f.name) is not None]
            if inner:
                self._refuse(
                    f"{where} is named like a split and holds folders that are too "
                    f"({self._listed(place, inner)})"
                )
        self._tell_loose(place)
        return place.filled

    def _split(self, name: str) -> int | None:
        """Return the split that a folder is named like; None for a class that is listed."""
        return None if canonical_name(name) in self.classes else split_names.split_of_folder(name)

    def _splits(self, names: Collection[str]) -> dict[str, int | None]:
        """Return the split that each folder next to others is named like, also `tr` and `te`."""
        own = [n for n in names if canonical_name(n) not in self.classes]
        return dict.fromkeys(names) | split_names.splits_of_folders(own)

    def _inner_splits(self, names: set[str]) -> dict[str, int | None]:
        """Return which of the folders in classes are which split; the others are persons.

        Names of persons may hold words of splits: `Val_Ackerman`, `test_subject_1`.
        """
        splits = {n: split for n, split in self._splits(names).items() if split is not None}
        distinct = len(splits) == len(names) == len(set(splits.values()))
        if distinct and all(self._split(n) is not None for n in names):
            return dict(splits)
        if distinct and len(names) > 1 and TRAIN in splits.values():
            log.warning(
                "%s: the folders %s in the classes are taken for splits; if they are persons, "
                "write a manifest with a column `person`",
                self.root,
                ", ".join(sorted(names)),
            )
            return dict(splits)
        return {n: self._split(n) for n in names if self._is_plain_split(n)}

    def _check_abbreviations(self, names: Collection[str]) -> None:
        """Refuse or warn of splits named `tr` or `te`, which may be classes with persons."""
        below = [{canonical_name(f.name) for f in top.filled} for top in self.tree.filled]
        short = [n for n in names if self._split(n) is None]
        if not short or any(map(self._is_expression, set().union(*below))):
            return
        listed = ", ".join(short)
        if len(below) > 1 and not set.intersection(*below):
            self._refuse(
                f"{listed} may be splits, but the folders in them have no name in common. Call "
                "splits train, validation and test; list classes in data.classes"
            )
        log.warning(
            "%s: folders %s are taken for splits; if they are classes, list them in data.classes",
            self.root,
            listed,
        )

    def _is_plain_split(self, name: str) -> bool:
        """Return whether a folder's name says only that it is a split."""
        return self._split(name) is not None and split_names.split_of_cell(name) is not None

    def _with_inner_splits(
        self, classes: list[tuple[Folder, int | None]]
    ) -> list[tuple[Folder, str, int | None]]:
        """Return folder, name and split of each class; splits may be inside the classes."""
        below = {f.name for c, _ in classes for f in c.filled}
        inner = self._inner_splits(below)
        if not inner:
            return [(c, c.name, split) for c, split in classes]
        loose = [c.name for c, _ in classes if c.images]
        others = sorted(below - inner.keys())
        if loose or others or any(split is not None for _, split in classes):
            what = [f"folders {', '.join(others[:_SHOWN])}"] if others else []
            what += [f"images directly in {', '.join(loose[:_SHOWN])}"] if loose else []
            self._refuse(
                f"its class folders hold folders that are named like splits "
                f"({', '.join(sorted(inner))}), and not only these"
                + (f": also {' and '.join(what)}" if what else "")
            )
        self._check_mixed_names(sorted(inner))
        return [(s, c.name, inner[s.name]) for c, _ in classes for s in c.filled]

    def _check_mixed_names(self, names: Collection[str]) -> None:
        """Refuse `train_happy`, which names a split and a class at once."""
        both = [
            name
            for name in names
            if any(self._is_expression(w) for words in split_names.other_words(name) for w in words)
        ]
        if both:
            self._refuse(f"folder {', '.join(both[:_SHOWN])} names a split and a class at once")

    def _check_classes(self, classes: list[tuple[Folder, str, int | None]]) -> None:
        """Refuse a single class, and persons that are named like expressions or splits."""
        names = {canonical_name(name) for _, name, _ in classes}
        # With `classes` given, the rows of another single folder are reported one by one.
        if len(names) == 1 and not names & self.classes and (self._better() or not self.classes):
            self._refuse(f"all {self.tree.total} images are of one class, {names.pop()!r}")
        if strange := self._no_classes(sorted({name for _, name, _ in classes})):
            self._refuse(
                f"{', '.join(strange[:_SHOWN])} would be a class by its name, which says something "
                "else; move it out, or list it in data.classes"
            )
        odd: list[str] = []
        pieces: list[str] = []
        for folder, name, _ in classes:
            for below in list(folder.walk())[1:]:
                if reason := self._no_person(below.name, name):
                    self._refuse(
                        f"{joined(below.parts)} would be the images of a person, but is named "
                        f"like {reason}"
                    )
                if self._expression(below.name) not in ("", self._expression(name)):
                    odd.append(joined(below.parts))
                elif below.parts[:-1] == folder.parts and split_names.is_piece(below.name):
                    pieces.append(joined(below.parts))
        for what, found in (
            ("named like another expression than their class are taken for persons", odd),
            ("named like parts of the data are not taken for persons", pieces),
        ):
            if found:
                listed = ", ".join(found[:_SHOWN])
                log.warning("%s: %d folders %s: %s", self.root, len(found), what, listed)

    def _no_classes(self, names: list[str]) -> list[str]:
        """Return the folders that would be classes and are named like something else.

        `original` and `raw` may be classes where others have no common names either.
        """
        own = [n for n in names if canonical_name(n) not in self.classes]
        expected = any(map(self._is_expression, names))
        generic = [n for n in own if split_names.says_nothing(n) or split_names.is_part(n)]
        if not expected and len(generic) < len(names):
            generic = []
        return generic or [n for n in own if split_names.says_unlabelled(n)]

    def _no_person(self, name: str, above: str) -> str:
        """Return what a folder below a class is named like that cannot be a person, or "".

        A number may tell persons or clips of an expression's name apart: `joy_01`.
        """
        part = split_names.is_part(name) and not split_names.is_piece(name)
        if self._is_plain_split(name) or part:
            return "a split"
        own = self._expression(above)
        numbered = own and re.search(r"\d", name)
        different = self._expression(name) not in ("", own)
        return "an expression" if different and not numbered else ""

    def _is_expression(self, name: str) -> bool:
        return self._expression(name) != ""

    def _expression(self, name: str) -> str:
        """Return the expression that a folder is named like, also `0_angry`, `happy faces`."""
        single = [words[0] for words in split_names.other_words(name) if len(words) == 1]
        known = _NO_PERSONS | self.classes
        return next((c for c in map(canonical_name, (name, *single)) if c in known), "")

    def _class_rows(self, folder: Folder, name: str, split: int | None, wrapper: str) -> Rows:
        inside = [f.name for f in folder.filled]
        wrappers = {wrapper}
        if len(inside) == 1 and _repeats(inside[0], name):
            wrappers.update(inside)
        for place in folder.walk():
            below = place.parts[len(folder.parts) :]
            while below and (below[0] in wrappers or split_names.is_piece(below[0])):
                below = below[1:]
            for image in place.images:
                row = {"path": joined((*place.parts, image)), "expression": name}
                if below:
                    row["person"] = below[0]
                if split is not None:
                    row["split"] = split_names.spelling(split)
                yield 0, row

    def _tell_loose(self, place: Folder) -> None:
        """Log images that are next to the folders of classes or splits."""
        if place.images:
            log.warning(
                "%s: %d images in no class folder were left out: they are directly in %s (%s)",
                self.root,
                len(place.images),
                joined(place.parts) if place.parts else "it",
                ", ".join(place.images[:_SHOWN]),
            )

    def _tell_unused(self) -> None:
        """Log folders without images where a split or a class was expected."""
        empty = [f for f in self.tree.folders if not f.total]
        empty += [f for top in self.tree.filled for f in top.folders if not f.total]
        if empty:
            log.warning(
                "%s: %d folders have no image: %s",
                self.root,
                len(empty),
                ", ".join(joined(f.parts) for f in empty[:_SHOWN]),
            )

    def _listed(self, place: Folder, names: Collection[str]) -> str:
        totals = {f.name: f.total for f in place.folders}
        shown = [f"{n}: {totals[n]} images" for n in list(names)[:_SHOWN]]
        return ", ".join(shown) + (" ..." if len(names) > _SHOWN else "")

    def _expected(self) -> str:
        return (
            f"expected {self.root}/CLASS/NAME.jpg with one folder per class, or "
            f"{self.root}/train/CLASS/NAME.jpg, .../validation/... and .../test/..."
        )

    def _refuse(self, reason: str) -> NoReturn:
        raise DataError(
            f"data.folder: {self.root} cannot be read as classes: {reason}; {self._expected()}; "
            f"found {self._listed(self.tree, [f.name for f in self.tree.filled]) or 'no folders'}"
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        better = self._better()
        if len(better) > 1:
            listed = ", ".join(os.path.relpath(b, self.root) for b in better[:_SHOWN])
            more = " ..." if len(better) > _SHOWN else ""
            return (
                f". Classes are the folders of {listed}{more}: if these are splits, call them "
                "train, validation and test; if they are persons, use CLASS/PERSON/NAME.jpg, or "
                "write a manifest with a column `person`"
            )
        return f". If the classes are the folders of {better[0]}, give that" if better else ""

    def _better(self) -> list[str]:
        """Return folders, below or one above the root, that have an expected layout."""
        tops = [f.name for f in self.tree.filled]
        # A class folder itself may have been given, or a folder above the classes.
        root = self.root.absolute()
        if self._is_expression(root.name) and not any(map(self._is_expression, tops)):
            return [str(root.parent)]
        if any(s is not None for s in self._splits(tops).values()) or any(
            map(self._is_expression, tops)
        ):
            return []
        for fits in (self._fits, _may_fit):
            level = self.tree.filled
            for _ in range(_SEARCH_DEPTH):
                if found := [str(self.root.joinpath(*f.parts)) for f in level if fits(f)]:
                    return found
                level = [f for folder in level for f in folder.filled]
        return []

    def _fits(self, folder: Folder) -> bool:
        """Return whether a folder holds classes, or splits that hold classes."""
        names = [f.name for f in folder.filled]
        if names and None not in self._splits(names).values():
            return all(f.filled and not f.images for f in folder.filled)
        return sum(map(self._is_expression, names)) > 1


def _wrapper(classes: Iterable[Folder]) -> str:
    """Return the name of the only folder in all classes unless it is a person.

    An example is `images`.
    """
    names = {f.name for folder in classes for f in folder.filled}
    return names.pop() if len(names) == 1 and split_names.says_nothing(*names) else ""


def _repeats(name: str, above: str) -> bool:
    """Return whether a folder's name says no more than its class: `happy/happy_images`."""
    words = [w for w in split_names.other_words(above) if w]
    return not re.search(r"\d", name) and any(w in words for w in split_names.other_words(name))


def _may_fit(folder: Folder) -> bool:
    """Return whether a folder holds only folders of images, several of them."""
    return len(folder.filled) > 1 and not folder.images and all(f.images for f in folder.filled)
