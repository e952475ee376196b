"""Descriptions by a builder: of its data set (`Card`), of an image (`Record`)."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.schema import MISSING_ID, shorten


class Reject(ValueError):
    """A record that is left out; the message is its reason in `rejected.csv`."""

    def __init__(self, reason: str):
        super().__init__(shorten(reason))


@dataclasses.dataclass(frozen=True)
class Published:
    """Counts published by the authors or in papers, to compare with what was read.

    Attributes:
      examples: images of each split.
      per_class: images of each class, in label order, of some splits.
      groups: what `Card.person` counts, in some splits.
    """

    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    per_class: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Card:
    """What `prepare --dataset list` prints of a data set.

    Attributes:
      title: name as printed.
      class_names: label order; empty without categories.
      splits: the official splits and what they are. Sets without official splits have one, "full"
        (TFDS keeps "all" for itself), which training cuts by person.
      expected: the expected tree, drawn as text.
      apply: where the files come from and under which terms.
      group: what `group` counts ("person", "clip", "film" ...); empty where nothing is known.
      person: what is kept together when a split is cut ("person", "actor", "video" ...).
      fields: label fields the set can hold.
      attributes: names of the subgroups and the names of their values.
      roles: which split serves as "train" and "test" in the usual protocol; empty: the splits of
        these names.
      labellers: who gave the images their labels, as published; empty where that is not known.
      checked: what the layout was checked against.
    """

    title: str
    class_names: tuple[str, ...]
    splits: Mapping[str, str]
    expected: str
    apply: str
    group: str = ""
    person: str = ""
    fields: tuple[str, ...] = ("expression",)
    attributes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labellers: str = ""
    checked: str = "the authors' description and public loaders; no copy was at hand"


@dataclasses.dataclass
class Record:
    """One image on its way into a data set.

    Attributes:
      name: path relative to the data set's folder, or file and row; ends up in messages.
      image: where the encoded image lies, its bytes, or a function that gives them.
      expression: class id or -1.
      valence, arousal: in [-1, 1] or NaN.
      landmarks: [68, 2] pixels, or None.
      box: (x0, y0, x1, y1) pixels, or None.
      group: name of the video, clip or person; empty where unknown.
      person: what must not be in two splits; empty = the group.
      attributes: one id per attribute of the card, -1 unknown.
      probs: votes as a distribution, or None.
      reject: reason to leave the record out, if the labels alone decide this.
    """

    name: str
    image: Path | bytes | Callable[[], bytes] = b""
    expression: int = MISSING_ID
    valence: float = np.nan
    arousal: float = np.nan
    landmarks: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    group: str = ""
    person: str = ""
    attributes: tuple[int, ...] = ()
    probs: np.ndarray | None = None
    reject: str = ""

    def set_class(self, label: str, classes: tuple[str, ...], reason: str) -> "Record":
        """Set the class id by its name, or reject the record for `reason`.

        Returns the record.
        """
        if label in classes:
            self.expression = classes.index(label)
        else:
            self.reject = reason
        return self

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Reject this record if a value read in the block raises Reject or ValueError."""
        try:
            yield
        except ValueError as e:
            self.reject = str(e)


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """A variant of a data set, such as another task or label rule."""


def configs(descriptions: Mapping[str, str]) -> list[Config]:
    """Make the configs of a builder from names and descriptions, the default first."""
    return [Config(name=name, description=text) for name, text in descriptions.items()]


def unit_value(text: Any, what: str, *, scale: float = 1.0) -> float:
    """Return valence or arousal divided by `scale`.

    Raises:
      Reject: it is not a number in [-1, 1].
    """
    try:
        value = float(text) / scale
    except (TypeError, ValueError):
        raise Reject(f"{what} {text!r} is not a number") from None
    if not -1 <= value <= 1:
        raise Reject(f"{what} {text} is outside [{-scale:g}, {scale:g}]")
    return value


def only_file(files: list[Path], what: str) -> Path | None:
    """Return the one file that may hold `what`; None if there is none.

    Raises:
      Reject: there are several; only their owner knows which one is meant.
    """
    if len(files) > 1:
        listed = ", ".join(p.name for p in files)
        raise Reject(
            f"{len(files)} files could hold the {what} ({listed}); leave one in the folder"
        )
    return files[0] if files else None
