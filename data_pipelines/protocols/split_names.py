"""Which split a name stands for: a cell of a manifest's column `split`, or a folder's name.

`Train`, `train_set`, `train_class`, `Train-images`, `TrainingData`, `trn` and `affectnet_train` all
mean training. FER-2013's `PublicTest` is its validation split and `PrivateTest` its test split.
"""

import re

from data_pipelines.protocols.persons import SPLIT_NAMES, TEST, TRAIN, VALIDATION

EVALUATION = 3  # the test split, unless a test split is named as well: then validation

_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), TRAIN),
    **dict.fromkeys(("validation", "validate", "validating", "valid", "val", "vld"), VALIDATION),
    **dict.fromkeys(("dev", "devel", "development"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), TEST),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "evaluating"), EVALUATION),
}
# What may stand beside a split's word without meaning anything.
_BESIDE = """
set sets data dataset datasets image images img imgs picture pictures pic pics photo photos
face faces file files class classes folder folders dir part split sample samples crop crops
cropped aligned original raw new final the only public private label labels labeled labelled
expression expressions emotion emotions frame frames list
"""
_FILLERS = frozenset(_BESIDE.split())
_ALTERNATIVES = "|".join(sorted(_WORDS, key=len, reverse=True))
_FILLED = "|".join(sorted(_FILLERS, key=len, reverse=True))
_JOINED = re.compile(f"({_FILLED})?({_ALTERNATIVES})({_FILLED})?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_of_folder(name: str) -> int | None:
    """TRAIN, VALIDATION, TEST or EVALUATION if any word of a folder's name says so, else None."""
    for tokens in _readings(name):
        found = _meaning([_word(t) for t in tokens], tokens)
        if found is not None:
            return found
    return None


def split_of_cell(text: str) -> int | None:
    """The split that a manifest's cell names; None where other words stand in it."""
    for tokens in _readings(text):
        words = [_word(t) for t in tokens]
        # `not train` is not training: nothing but fillers may stand beside the word.
        if all(w is not None or t in _FILLERS for w, t in zip(words, tokens, strict=True)):
            found = _meaning(words, tokens)
            if found is not None:
                return found
    return None


def other_words(name: str) -> list[str]:
    """The words of a folder's name beside those of its split, lower-case."""
    return [
        t for tokens in _readings(name) for t in tokens if _word(t) is None and t not in _FILLERS
    ]


def says_nothing(name: str) -> bool:
    """Whether a folder's name holds only words such as `images` or `cropped faces`."""
    return any(
        tokens and all(t in _FILLERS for t in tokens) for tokens in _readings(name)
    ) and not re.search(r"\d", name)


def spelling(split: int) -> str:
    """A spelling that `split_of_cell` understands."""
    return "eval" if split == EVALUATION else SPLIT_NAMES[split]


def _readings(name: str) -> list[list[str]]:
    """The words of a name: with capitals as borders (`TrainSet`), and without (`VALset`)."""
    spaced = _CAMEL.sub(" ", name)
    texts = dict.fromkeys((spaced.lower(), name.lower()))
    return [[t for t in re.split(r"[\W\d_]+", text) if t] for text in texts]


def _word(token: str) -> str | None:
    """The split's word in a token such as `train` or `trainset`."""
    if token in _WORDS:
        return token
    match = _JOINED.fullmatch(token)
    return match[2] if match else None


def _meaning(words: list[str | None], tokens: list[str]) -> int | None:
    splits = {_WORDS[w] for w in words if w is not None}
    if splits == {TEST} and any(t.startswith("public") for t in tokens):
        return VALIDATION  # FER-2013
    return splits.pop() if len(splits) == 1 else None
