"""The canonical example: what a source yields and a batch holds.

All data that go from the pipelines to the model are described here. A raw record is one image as it
is stored; an example is that image cropped and warped to the training size.

| field              | dtype, shape    | missing | meaning                                       |
|--------------------|-----------------|---------|-----------------------------------------------|
| `image`            | uint8 [H, W, 3] | never   | RGB; normalised on the device                 |
|                    | float32 [D]     | never   | stored features: the network's own input      |
| `expression`       | int32 []        | -1      | class id                                      |
| `expression_probs` | float32 [N]     | NaN     | votes of annotators, or the mixture shown     |
| `valence_arousal`  | float32 [2]     | NaN     | each in [-1, 1]                               |
| `landmarks`        | float32 [68, 2] | NaN     | (x, y) pixels of `image`, iBUG order          |
| `group`            | int32 []        | -1      | video, clip or person                         |
| `attributes`       | int32 [A]       | -1      | subgroups for audit (gender, race, age band)  |
| `mask`             | bool []         |         | False for padding                             |
| `index`            | int64 []        |         | position in the source; stays on the host     |

Pixel coordinates count centres: the top left pixel is (0, 0) and a mirror maps x to W - 1 - x. They
refer to the upright image: an orientation tag is applied before landmarks and boxes.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

NUM_LANDMARKS = 68
# Landmarks end at the brows; the box of a face reaches above them by this part of their height.
FOREHEAD = 0.2
MISSING_ID = -1
# Fields of an example that a model can learn.
LABELS = frozenset({"expression", "valence_arousal", "landmarks"})

# Each data set keeps its own order (the numbers in its files); a config can map to another.
LABEL_ORDERS: dict[str, tuple[str, ...]] = {
    name: tuple(classes.split())
    for name, classes in {
        "affectnet8": "neutral happy sad surprise fear disgust anger contempt",
        "affectnet7": "neutral happy sad surprise fear disgust anger",
        # Source labels 0, 1, 2, 3 and 6: the last class is anger, though some documents print fear.
        "affectnet5": "neutral happy sad surprise anger",
        "affwild2": "neutral anger disgust fear happiness sadness surprise other",
        # The files count from 1; ids here count from 0.
        "rafdb": "surprise fear disgust happiness sadness anger neutral",
        "fer2013": "anger disgust fear happy sad surprise neutral",
        "ferplus": "neutral happiness surprise sadness anger disgust fear contempt",
        # Contempt (file label 2) is left out, neutral is taken from onset frames.
        "ckplus7": "anger disgust fear happy sadness surprise neutral",
        "jaffe": "neutral happy sad surprise anger disgust fear",
    }.items()
}

# Names that mean the same class, so that `happiness` finds the place of `happy`.
_ALIASES = {
    "neutrality": "neutral",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "fearful": "fear",
    "afraid": "fear",
    "disgusted": "disgust",
    "angry": "anger",
    "contemptuous": "contempt",
}


def _flip_index() -> np.ndarray:
    """Return the order of the 68 points in a mirror image.

    Entry i is the point that becomes i.
    """
    index = np.arange(NUM_LANDMARKS)
    pairs = [
        *zip(range(8), range(16, 8, -1), strict=True),  # jaw
        *zip(range(17, 22), range(26, 21, -1), strict=True),  # brows
        (31, 35),
        (32, 34),  # nostrils
        (36, 45),
        (37, 44),
        (38, 43),
        (39, 42),
        (40, 47),
        (41, 46),  # eyes
        (48, 54),
        (49, 53),
        (50, 52),
        (55, 59),
        (56, 58),  # outer lips
        (60, 64),
        (61, 63),
        (65, 67),  # inner lips
    ]
    for left, right in pairs:
        index[left], index[right] = right, left
    return index


FLIP_INDEX = _flip_index()


_SHOWN = 200  # characters of a value in a message
_SHOWN_LINE = 1000


def shorten(text: object, limit: int = _SHOWN) -> str:
    """Return a text, with its middle replaced by a count of characters if long."""
    text = str(text)
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} ... ({len(text) - head - tail} more characters) ... {text[-tail:]}"


class DataError(ValueError):
    """Data or its configuration cannot be used; the message says where and what to do.

    Long lines are shortened: a value may be a whole row of a file.
    """

    def __init__(self, message: object = ""):
        super().__init__("\n".join(shorten(x, _SHOWN_LINE) for x in str(message).split("\n")))


class DecodeError(DataError):
    """An image cannot be decoded; the message is the reason, without the file's name."""


class TooManyBadRecords(DataError):
    """More records than `max_bad_fraction` are unusable."""


# A raw record, as `Source.__getitem__` describes it, and a batch of examples: field -> array
# [B, ...], with the fields, dtypes and shapes of the table above.
Record: TypeAlias = dict[str, Any]
Batch: TypeAlias = dict[str, np.ndarray]


@runtime_checkable
class Source(Protocol):
    """A random-access set of n records; labels are known without decoding images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; position = class id."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def hierarchy(self) -> str:
        """Name of the tree over the classes, see `hierarchies.tree.load`; "" without one."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int32 [n] class ids, -1 where unknown."""
        ...

    @property
    def groups(self) -> np.ndarray:
        """int32 [n] video, clip or person of each record, -1 where unknown."""
        ...

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the groups; empty if they have none."""
        ...

    @property
    def tracks(self) -> np.ndarray:
        """int32 [n] video of each record, frame after frame; -1 for a single image."""
        ...

    @property
    def persons(self) -> Sequence[str]:
        """n names of what must be in one split: the person, if one is known."""
        ...

    @property
    def has_persons(self) -> bool:
        """Whether any record names a person, a video or a group."""
        ...

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attributes for audit."""
        ...

    @property
    def attribute_values(self) -> tuple[tuple[str, ...], ...]:
        """Meaning of the codes of each attribute."""
        ...

    @property
    def has(self) -> frozenset[str]:
        """The label fields that at least one record may hold."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Record:
        """Return raw record i.

        Its fields are `image` (encoded bytes, or uint8 [H, W, 3] RGB; of stored features float32
        [D]), `expression` (int),
        `valence_arousal` (float32 [2]), `landmarks` (float32 [68, 2], pixels of the raw image),
        `box` (float32 [4]: x0, y0, x1, y1), `group` (int) and, where the set has them,
        `attributes` (int32 [A]) and `expression_probs` (float32 [N]).

        Raises:
          DecodeError, OSError: the record cannot be read.
        """
        ...

    def describe(self, i: int) -> str:
        """Return file and row of record i, for messages."""
        ...

    def record_columns(self) -> dict[str, np.ndarray | list[str]]:
        """Return further columns that `fingerprint` compares record by record."""
        ...

    def record_facts(self) -> dict[str, Any]:
        """Return JSON-able facts that `fingerprint` compares for all records together."""
        ...


def canonical_name(name: str) -> str:
    """Return the class name in lower case, synonyms folded (`Happiness` -> `happy`)."""
    name = unicodedata.normalize("NFC", name).strip().lower()
    return _ALIASES.get(name, name)


def same_classes(names: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether two lists name the same classes in order, in any spelling."""
    return [*map(canonical_name, names)] == [*map(canonical_name, others)]


def resolve_classes(classes: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the class names of a config value: an order, `a,b,c` or a list.

    An order may be spelt as usual (`RAF-DB`).

    Raises:
      DataError: a name is empty or given twice, or a text holds a single name.
    """
    if order := order_name(classes):
        return LABEL_ORDERS[order]
    if isinstance(classes, str):
        text, classes = classes, [c for c in classes.split(",") if c.strip()]
        if len(classes) == 1:
            raise DataError(
                f"data.classes is {text!r}, a single name; give a list as a,b,c or a known order: "
                f"{', '.join(LABEL_ORDERS)}"
            )
    names = tuple(str(c).strip() for c in classes)
    folded = [canonical_name(n) for n in names]
    if len(set(folded)) != len(folded) or "" in folded:
        raise DataError(f"data.classes: names must be distinct and not empty, got {names}")
    return names


def order_name(classes: str | Iterable[str]) -> str:
    """Return the key in `LABEL_ORDERS` of a config value; "" if it lists classes."""
    if not isinstance(classes, str):
        return ""
    name = re.sub(r"[\W_]+", "", classes).lower()
    return name if name in LABEL_ORDERS and "," not in classes else ""


def infer_order(names: list[str]) -> tuple[str, ...]:
    """Return class names in the first known label order with all of them.

    Without one, they are sorted by alphabet.

    AffectNet's order is tried first. The spelling given is kept.
    """
    distinct = sorted(set(names))
    folded = {canonical_name(n): n for n in distinct}
    if len(folded) == len(distinct):
        for order in LABEL_ORDERS.values():
            ranks = {canonical_name(n): k for k, n in enumerate(order)}
            if folded.keys() <= ranks.keys():
                return tuple(folded[n] for n in sorted(folded, key=ranks.__getitem__))
    return tuple(distinct)


def known_names() -> frozenset[str]:
    """Return the canonical names of all classes in the known label orders."""
    return frozenset(canonical_name(n) for order in LABEL_ORDERS.values() for n in order)


def empty_labels() -> Record:
    """Return the label fields of a record about which nothing is known."""
    return {
        "expression": MISSING_ID,
        "valence_arousal": np.full(2, np.nan, np.float32),
        "landmarks": np.full((NUM_LANDMARKS, 2), np.nan, np.float32),
        "box": np.full(4, np.nan, np.float32),
        "group": MISSING_ID,
    }
