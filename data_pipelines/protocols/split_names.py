"""Splits by name: in the column `split` of a manifest, or of a folder.

`Train`, `train_set`, `train_class`, `Train-images`, `TrainingData`, `trn` and `affectnet_train` all
mean training. FER-2013's `PublicTest` is its validation split and `PrivateTest` its test split.
"""

import re
from collections.abc import Iterable

from data_pipelines.protocols.persons import SPLIT_NAMES, TEST, TRAIN, VALIDATION

EVALUATION = 3  # the test split, unless a test split is named as well: then validation

_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), TRAIN),
    **dict.fromkeys(("validation", "validate", "validating", "valid", "val", "vld"), VALIDATION),
    **dict.fromkeys(("dev", "devel", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "evaluating"), EVALUATION),
}
# Short names, which are splits where all folders have such names.
_SHORT = {"tr": TRAIN, "va": VALIDATION, "vl": VALIDATION, "te": TEST, "ts": TEST}
_PART = re.compile(
    r"(k[\W_]*)?(fold|cv|split|partition|subset|part|batch|chunk|shard)s?[\W_]*\d+", re.IGNORECASE
)
_PIECE = re.compile(r"(part|batch|chunk|shard)s?[\W_]*\d+", re.IGNORECASE)
_UNLABELLED = frozenset(("unlabeled", "unlabelled", "unannotated"))
# Words that may accompany a split's word without changing its meaning.
_FILLER_WORDS = """
set sets data dataset datasets image images img imgs picture pictures pic pics photo photos
face faces file files class classes folder folders dir part split sample samples crop crops
cropped aligned original raw new final the only public private label labels labeled labelled
expression expressions emotion emotions frame frames list
"""
_FILLERS = frozenset(_FILLER_WORDS.split())
_ALTERNATIVES = "|".join(sorted(_WORDS, key=len, reverse=True))
_FILLED = "|".join(sorted(_FILLERS, key=len, reverse=True))
_JOINED = re.compile(f"({_FILLED})?({_ALTERNATIVES})({_FILLED})?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_of_folder(name: str) -> int | None:
    """Return the split that any word of a folder's name names; None without one."""
    for tokens in _readings(name):
        found = _meaning([_word(t) for t in tokens], tokens)
        if found is not None:
            return found
    return None


def splits_of_folders(names: Iterable[str]) -> dict[str, int | None]:
    """Return the split that each folder next to others is named like, also `tr` and `te`."""
    splits = {name: split_of_folder(name) for name in names}
    short = {name: _SHORT.get(name.strip().lower(), split) for name, split in splits.items()}
    return splits if None in short.values() else short


def is_part(name: str) -> bool:
    """Return whether a folder is named like one of several parts of the data: `fold1`."""
    return _PART.fullmatch(name.strip()) is not None


def is_piece(name: str) -> bool:
    """Return whether a folder may be a part of the data by mere size: `part1`, not `fold1`."""
    return _PIECE.fullmatch(name.strip()) is not None


def split_of_cell(text: str) -> int | None:
    """Return the split that a manifest's cell names; None if it holds other words."""
    for tokens in _readings(text):
        words = [_word(t) for t in tokens]
        # `not train` is not training: only fillers may accompany the word.
        if all(w is not None or t in _FILLERS for w, t in zip(words, tokens, strict=True)):
            found = _meaning(words, tokens)
            if found is not None:
                return found
    return None


def other_words(name: str) -> list[list[str]]:
    """Return the words of each reading of a folder's name, without fillers and split words.

    They are in lower case.
    """
    return [
        [t for t in tokens if _word(t) is None and t not in _FILLERS] for tokens in _readings(name)
    ]


def says_nothing(name: str) -> bool:
    """Return whether a folder's name is generic: `images`, `cropped faces`."""
    return any(
        tokens and all(t in _FILLERS for t in tokens) for tokens in _readings(name)
    ) and not re.search(r"\d", name)


def says_unlabelled(name: str) -> bool:
    """Return whether a folder's name says that its images have no label."""
    return any(_UNLABELLED.intersection(tokens) for tokens in _readings(name))


def spelling(split: int) -> str:
    """Return a spelling that `split_of_cell` understands."""
    return "eval" if split == EVALUATION else SPLIT_NAMES[split]


def _readings(name: str) -> list[list[str]]:
    """Return the words of a name: split at capitals (`TrainSet`), and not (`VALset`)."""
    spaced = _CAMEL.sub(" ", name)
    texts = dict.fromkeys((spaced.lower(), name.lower()))
    return [[t for t in re.split(r"[\W\d_]+", text) if t] for text in texts]


def _word(token: str) -> str | None:
    """Return the split's word in a token such as `train` or `trainset`."""
    if token in _WORDS:
        return token
    match = _JOINED.fullmatch(token)
    return match[2] if match else None


def _meaning(words: list[str | None], tokens: list[str]) -> int | None:
    splits = {_WORDS[w] for w in words if w is not None}
    if splits == {TEST} and any(t.startswith("public") for t in tokens):
        return VALIDATION  # FER-2013
    return splits.pop() if len(splits) == 1 else None
