"""The canonical example: what a source yields, what a batch holds, how a missing value is written.

Everything that crosses from data to model is described here once. A raw record is one picture as
it lies on disk; an example is that picture cropped and warped to the training size.

| field              | dtype, shape    | missing | meaning                                       |
|--------------------|-----------------|---------|-----------------------------------------------|
| `image`            | uint8 [H, W, 3] | never   | RGB; normalised on the device                 |
| `expression`       | int32 []        | -1      | class id                                      |
| `expression_probs` | float32 [N]     | NaN     | votes of the annotators, where a set has them |
| `valence_arousal`  | float32 [2]     | NaN     | each in [-1, 1]                               |
| `landmarks`        | float32 [68, 2] | NaN     | (x, y) pixels of `image`, iBUG order          |
| `group`            | int32 []        | -1      | video, clip or person                         |
| `attributes`       | int32 [A]       | -1      | subgroups for audit (gender, race, age band)  |
| `mask`             | bool []         |         | False for padding                             |
| `index`            | int64 []        |         | position in the source; stays on the host     |

Pixel coordinates count centres: the top left pixel is (0, 0) and a mirror maps x to W - 1 - x. They
are those of the upright picture: an orientation tag is followed before landmarks and boxes apply.
"""

import re
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

NUM_LANDMARKS = 68
# Landmarks end at the brows; the box of a face reaches above them by this part of their height.
FOREHEAD = 0.2
MISSING_ID = -1
# Fields of an example that a model can learn.
LABELS = frozenset({"expression", "valence_arousal", "landmarks"})

# Each data set keeps its own order (the numbers in its files); a config can map to another.
LABEL_ORDERS: dict[str, tuple[str, ...]] = {
    "affectnet8": tuple(
        ["neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt"]
    ),
    "affectnet7": tuple(["neutral", "happy", "sad", "surprise", "fear", "disgust", "anger"]),
    # Source labels 0, 1, 2, 3 and 6: the last class is anger, though some documents print fear.
    "affectnet5": tuple(["neutral", "happy", "sad", "surprise", "anger"]),
    "affwild2": tuple(
        ["neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other"]
    ),
    # The files count from 1; ids here count from 0.
    "rafdb": tuple(["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]),
    "fer2013": tuple(["anger", "disgust", "fear", "happy", "sad", "surprise", "neutral"]),
    "ferplus": tuple(
        ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
    ),
    # Seven classes: contempt (file label 2) left out, neutral taken from onset frames.
    "ckplus7": tuple(["anger", "disgust", "fear", "happy", "sadness", "surprise", "neutral"]),
    "jaffe": tuple(["neutral", "happy", "sad", "surprise", "anger", "disgust", "fear"]),
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
    """Order of the 68 iBUG points after mirroring: entry i is the point that lands on place i."""
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
    """The text, or its beginning and end with the number of characters between them."""
    text = str(text)
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} ... ({len(text) - head - tail} more characters) ... {text[-tail:]}"


class DataError(ValueError):
    """Data or its configuration cannot be used; the message says where and what to do.

    No line of it is longer than a screen: a value may be a whole row of a file.
    """

    def __init__(self, message: object = ""):
        super().__init__("\n".join(shorten(x, _SHOWN_LINE) for x in str(message).split("\n")))


class DecodeError(DataError):
    """A picture cannot be decoded; the message is the reason, without the file's name."""


class TooManyBadRecords(DataError):
    """More records than `max_bad_fraction` are unusable."""


@runtime_checkable
class Source(Protocol):
    """A random-access set of raw records whose labels are known without decoding a picture.

    `source[i]` gives a dict with `image` (encoded bytes, or uint8 [H, W, 3] RGB), `expression`
    (int), `valence_arousal` (float32 [2]), `landmarks` (float32 [68, 2], pixels of the raw
    picture), `box` (float32 [4]: x0, y0, x1, y1), `group` (int) and, where the set has them,
    `attributes` (int32 [A]) and `expression_probs` (float32 [N]). An unreadable record raises
    `DecodeError` or `OSError`.

    Attributes:
      class_names: names of the classes; position = class id.
      num_classes: their number.
      labels: int32 [n] class ids, -1 where unknown.
      groups: int32 [n] video, clip or person of each record, -1 where unknown.
      has: the label fields that at least one record holds.
    """

    class_names: tuple[str, ...]
    num_classes: int
    labels: np.ndarray
    groups: np.ndarray
    has: frozenset[str]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]: ...

    def describe(self, i: int) -> str:
        """File and row of record i, for messages."""
        ...


def tracks_of(source: Source) -> np.ndarray:
    """int32 [n], the video that each record is a frame of; -1 for a picture that is of none.

    Frames of one video follow each other in the order of the source. A source tells this by the
    attribute `tracks`; one without it holds single pictures.
    """
    tracks = getattr(source, "tracks", None)
    if tracks is None:
        return np.full(len(source), MISSING_ID, np.int32)
    return np.asarray(tracks, np.int32)


def canonical_name(name: str) -> str:
    """Lower-case class name with synonyms folded (`Happiness` -> `happy`)."""
    name = name.strip().lower()
    return _ALIASES.get(name, name)


def same_classes(names: Iterable[str], others: Iterable[str]) -> bool:
    """Whether two lists name the same classes in the same order, in whatever spelling."""
    return [*map(canonical_name, names)] == [*map(canonical_name, others)]


def resolve_classes(classes: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Class names from a config value: a known label order, `a,b,c`, or a sequence of names.

    The name of an order may be spelt as usual (`RAF-DB`).

    Raises:
      DataError: a name is given twice or is empty, or a text holds a single name.
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
    """The key in `LABEL_ORDERS` that a config value means; empty where it lists classes."""
    if not isinstance(classes, str):
        return ""
    name = re.sub(r"[\W_]+", "", classes).lower()
    return name if name in LABEL_ORDERS and "," not in classes else ""


def infer_order(names: list[str]) -> tuple[str, ...]:
    """Orders class names: as in the first known label order that holds them all, else by alphabet.

    AffectNet's order comes first. The spelling given is kept.
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
    """Canonical names of all the classes in the known label orders."""
    return frozenset(canonical_name(n) for order in LABEL_ORDERS.values() for n in order)


def empty_labels() -> dict[str, Any]:
    """The label fields of a record about which nothing is known."""
    return {
        "expression": MISSING_ID,
        "valence_arousal": np.full(2, np.nan, np.float32),
        "landmarks": np.full((NUM_LANDMARKS, 2), np.nan, np.float32),
        "box": np.full(4, np.nan, np.float32),
        "group": MISSING_ID,
    }


def check_record(record: dict[str, Any], num_classes: int) -> None:
    """Checks ranges and shapes of a raw record's fields; for tests and for new sources.

    Raises:
      DataError: naming the field that is wrong.
    """
    image = record["image"]
    if not isinstance(image, bytes) and not (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
    ):
        raise DataError("image must be encoded bytes or uint8 [H, W, 3]")
    if not -1 <= int(record["expression"]) < num_classes:
        raise DataError(f"expression {record['expression']} is outside -1..{num_classes - 1}")
    shapes = {"valence_arousal": (2,), "landmarks": (NUM_LANDMARKS, 2), "box": (4,)}
    for field, shape in shapes.items():
        value = np.asarray(record[field])
        if value.dtype != np.float32 or value.shape != shape:
            raise DataError(f"{field} must be float32 {list(shape)}, got {value.dtype}")
        if np.isinf(value).any():
            raise DataError(f"{field} holds an infinite value")
    if np.nanmax(np.abs(record["valence_arousal"]), initial=0.0) > 1:
        raise DataError(f"valence_arousal {record['valence_arousal']} is outside [-1, 1]")
