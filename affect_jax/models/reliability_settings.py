"""Settings of reliability balancing, see `models.reliability`."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from affect_jax.errors import nearest
from affect_jax.models import settings as sections

SCOPES = ("example", "batch")
CORRECTIONS = ("weighted", "both", "trust", "off", "geometric", "attentive")


@dataclasses.dataclass(frozen=True)
class ReliabilitySettings:
    """How `Reliability` corrects a class distribution.

    Attributes:
      normalise: standardise every component of the embedding over the batch (BatchNorm) before it
        is compared with the anchors. The paper does not, but the scale of embeddings differs a
        hundredfold between backbones, and anchors are drawn at a fixed scale. Scale and bias are
        trained, so a component has a standard deviation of 1 only at the start: see
        `embedding_norm`.
      anchors: anchors per class K; 0: none, t = t_a. The paper does best with 8 to 10.
      anchor_scale: initial standard deviation of the anchors' components. Anchors that all start at
        zero, as in the official code, tie and never part.
      delta: temperature of the distances, in units of the compared embedding.
      scope: "example": attention within an embedding (`TokenAttention`); "batch": across the batch
        (`BatchAttention`).
      tokens: pieces of an embedding that attend to each other, with scope "example".
      heads: attention heads.
      attention_per_class: attention outputs per class, with scope "batch".
      correction: "weighted" or "both": average of geometric and attentive. "geometric",
        "attentive": that one alone. "off": L = l. "trust": the official blend,
        L = (1 - r) l + r (c_l l + (1 - c_l) t), where r rises from 0 to 1 in `ramp_steps` steps.
      ramp_steps: of "trust"; 0: r is 1 from the start. In a config 0 means all steps that train
        the classes (see `systems.base`).
      temperature: divides the primary logits.
      epsilon: of the confidence weights.
      detach_confidence: no gradient through confidences.

    Raises:
      ValueError: a value has the wrong type or is out of range.
    """

    normalise: bool = True
    anchors: int = 10
    anchor_scale: float = 1.0
    delta: float = 1.0
    scope: str = "example"
    tokens: int = 8
    heads: int = 4
    attention_per_class: int = 1
    correction: str = "weighted"
    ramp_steps: int = 0
    temperature: float = 1.0
    epsilon: float = 1e-4
    detach_confidence: bool = False

    def __post_init__(self):
        for name, choices in (("scope", SCOPES), ("correction", CORRECTIONS)):
            choice = getattr(self, name)
            if choice not in choices:
                raise ValueError(
                    f"reliability.{name} = {choice!r}; {nearest(str(choice), choices)}"
                )
        for name in ("normalise", "detach_confidence"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        for name, least in _LEAST_COUNTS.items():
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            good = whole and value >= least
            self._check(name, good, f"a whole number of at least {least}")
        for name in ("delta", "temperature", "anchor_scale", "epsilon"):
            value = getattr(self, name)
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            good = number and math.isfinite(value) and value >= 0
            if name == "epsilon":
                self._check(name, good, "0 or a positive number")
            else:
                self._check(name, good and value > 0, "a positive number")
        if self.correction == "geometric" and not self.anchors:
            raise ValueError('reliability.correction = "geometric" needs anchors of at least 1')

    def _check(self, name: str, good: bool, allowed: str) -> None:
        if not good:
            raise ValueError(f"reliability.{name} = {getattr(self, name)!r}; it must be {allowed}")


_LEAST_COUNTS = {
    "anchors": 0,
    "ramp_steps": 0,
    "tokens": 1,
    "heads": 1,
    "attention_per_class": 1,
}


def to_section(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config section of a model's `reliability` argument."""
    return sections.to_section(ReliabilitySettings, settings)


def from_section(section: Any) -> dict[str, Any] | None:
    """Return the `reliability` argument of a config section; None: no balancing.

    Errors as `settings.from_section`.
    """
    return sections.from_section(ReliabilitySettings, "reliability", section)


def parse(settings: Mapping[str, Any]) -> ReliabilitySettings:
    """Return settings of which a mapping gives some; errors as `settings.parse`."""
    return sections.parse(ReliabilitySettings, "reliability", settings)
