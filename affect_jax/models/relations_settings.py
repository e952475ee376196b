"""Settings of the relations between images and labels, see `models.relations`."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from affect_jax.errors import nearest
from affect_jax.models import settings as sections
from affect_jax.models.reliability_settings import parse as parse_reliability

CONTEXTS = ("bank", "self", "batch")
MISSING_WORDS = ("error", "stand_in")
_SWITCHES = ("itrr", "hlrr", "lgifo", "nnldl", "hierarchy_bias", "normalise", "residual")
_COUNTS = ("heads", "head_features", "label_features", "bank_size")


@dataclasses.dataclass(frozen=True)
class RelationsSettings:
    """Which parts of RALD a model has, and their sizes.

    The rows of the paper's Table 3 are b: `itrr`; c: `itrr, nnldl`; d: `lgifo`; e: `itrr, lgifo`;
    f: `hlrr, lgifo`; g: `itrr, hlrr, lgifo`; all: all four. Row a has no relations.

    Attributes:
      itrr: images attend to images (eq. 3 to 7).
      hlrr: labels attend to labels (eq. 8 to 12); without it, LGIFO uses the label vectors.
      lgifo: images attend to labels (eq. 13 to 17).
      nnldl: the loss draws a prediction to those of its neighbours (eq. 18, 19); needs `itrr`.
      hierarchy_bias: attention between labels depends on their place in the tree (eq. 9); needs
        `hlrr` and a tree. RALD-L does without.
      normalise: standardise every component of the features over the batch (BatchNorm) first. The
        paper does not. Features of a ReLU have a large common part, and with it the images that
        are longest along it are the neighbours of all others.
      residual: add the input of the two image blocks before their feed-forward network, whose last
        layers and W_MSA then start at 0. The paper prints no such connection. Without it, a
        fresh model compares images by nearly uniform weights and sees only their mean.
      heads, head_features: of all attentions; the paper's 0.125 is 1 / sqrt(64).
      scale: lambda of the paper, a factor of queries times keys.
      dropout: of the feed-forward networks in training.
      label_features: length of a label vector.
      vectors: word vectors of the labels: a file, or "package:NAME"; "": drawn from the tree. Read
        when a run begins; afterwards they are part of the model.
      missing_words: what a class gets if a word of its name has no vector: "error" or "stand_in".
      context: images that an image is compared with in prediction. "bank": those kept with the
        model; "self": none; "batch": the others of the same call.
      bank_size: images in the bank.
      hierarchy: the label tree, see `Hierarchy.to_plain`; None: the labels are the classes alone.
        In a config it is `model.hierarchy`.

    Raises:
      ValueError: a value has the wrong type or is out of range, or parts do not fit together.
    """

    itrr: bool = True
    hlrr: bool = True
    lgifo: bool = True
    nnldl: bool = True
    hierarchy_bias: bool = False
    normalise: bool = False
    residual: bool = False
    heads: int = 8
    head_features: int = 64
    scale: float = 0.125
    dropout: float = 0.1
    label_features: int = 300
    vectors: str = ""
    missing_words: str = "error"
    context: str = "bank"
    bank_size: int = 128
    # A mapping has no hash, and models are compared by hash.
    hierarchy: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)

    def __post_init__(self):
        for name in _SWITCHES:
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        for name in _COUNTS:
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            self._check(name, whole and value >= 1, "a whole number of at least 1")
        self._check("scale", _is_number(self.scale) and self.scale > 0, "a positive number")
        good = _is_number(self.dropout) and 0 <= self.dropout < 1
        self._check("dropout", good, "at least 0 and below 1")
        self._check("vectors", isinstance(self.vectors, str), 'a path, "package:NAME" or ""')
        for name, choices in (("context", CONTEXTS), ("missing_words", MISSING_WORDS)):
            choice = getattr(self, name)
            if choice not in choices:
                raise ValueError(f"relations.{name} = {choice!r}; {nearest(str(choice), choices)}")
        if not (self.itrr or self.lgifo):
            raise ValueError(
                "relations.itrr and relations.lgifo are both off, so nothing relates images; set "
                "one of them, or relations.enabled = False for the plain model"
            )
        self._needs("nnldl", "itrr", "its neighbours come from the attention between images")
        self._needs("hlrr", "lgifo", "nothing else uses the labels' features")
        self._needs("hierarchy_bias", "hlrr", "it is part of the attention between labels")
        if self.hierarchy_bias and self.hierarchy is None:
            raise ValueError(
                "relations.hierarchy_bias = True needs a label tree; name it in "
                "model.hierarchy, or set relations.hierarchy_bias = False (RALD-L)"
            )

    def _check(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            raise ValueError(f"relations.{name} = {getattr(self, name)!r}; it must be {allowed}")

    def _needs(self, part: str, other: str, reason: str) -> None:
        if getattr(self, part) and not getattr(self, other):
            raise ValueError(
                f"relations.{part} = True needs relations.{other} = True: {reason}; "
                f"set both, or relations.{part} = False"
            )


def _is_number(value: Any) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)


def to_section(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config section of a model's `relations` argument.

    It has no field `hierarchy`, which is `model.hierarchy` in a config.
    """
    section = sections.to_section(RelationsSettings, settings)
    return {name: value for name, value in section.items() if name != "hierarchy"}


def from_section(section: Any, hierarchy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the `relations` argument of a config section; None: no relations.

    Args:
      section: `model.relations`.
      hierarchy: the tree that `model.hierarchy` names.

    Raises:
      ValueError: as `settings.from_section` and `RelationsSettings`.
    """
    if isinstance(section, Mapping) and section.get("enabled") is False:
        # Parts of a model without relations are not used together.
        return None
    if isinstance(section, Mapping):
        section = {**section, "hierarchy": hierarchy}
    return sections.from_section(RelationsSettings, "relations", section)


def parse(settings: Mapping[str, Any]) -> RelationsSettings:
    """Return settings of which a mapping gives some; errors as `settings.parse`."""
    return sections.parse(RelationsSettings, "relations", settings)


def check_together(relations: Any, reliability: Any) -> None:
    """Raise ValueError if a model cannot have both of these arguments."""
    if relations is None or reliability is None or reliability is False:
        return
    if parse_reliability(reliability).scope == "batch":
        raise ValueError(
            'relations and reliability with scope = "batch" both compare the images of a batch, '
            'but relations predict by a bank; set reliability.scope = "example", or leave one out'
        )
