"""Metrics of the persons who share an attribute, such as an age band, of stored predictions."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from affect_jax.evaluation.predictions import StoredPredictions
from affect_jax.metrics.base import MetricSet
from affect_jax.metrics.landmarks import LandmarkStatistics

UNKNOWN = "not known"
# Values of an attribute that are measured one by one; the rarer ones are measured together.
_MOST_VALUES = 12
# What a table of subgroups shows, as far as it is there.
FIGURES = ("accuracy", "balanced_accuracy", "valence_ccc", "arousal_ccc", "nme")


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """The images whose attribute has one value.

    Attributes:
      attribute, value: their names.
      images: how many.
      figures: metric -> value, of those among them that have labels.
    """

    attribute: str
    value: str
    images: int
    figures: Mapping[str, float]


def measure(stored: StoredPredictions) -> list[Subgroup]:
    """Return the subgroups of stored predictions, attribute by attribute; [] without attributes.

    Images whose attribute is not known are a subgroup of their own. Of an attribute with more than
    12 values, the rarest are one subgroup.
    """
    if "attributes" not in stored:
        return []
    found = []
    columns = zip(
        stored["attribute_names"].tolist(),
        stored["attribute_values"].tolist(),
        stored["attributes"].T,
        strict=True,
    )
    for attribute, values, codes in columns:
        for value, rows in _groups(values, codes):
            figures = figures_of(stored, rows)
            found.append(Subgroup(attribute, value, int(np.count_nonzero(rows)), figures))
    return found


def _groups(values: Sequence[str], codes: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the name and the rows, bool [n], of each group that has images."""
    known, counts = np.unique(codes[codes >= 0], return_counts=True)
    kept = known
    if len(known) > _MOST_VALUES:
        kept = np.sort(known[np.argsort(-counts, kind="stable")[: _MOST_VALUES - 1]])
    named = [_name(values, int(code)) for code in kept]
    groups = [(name, codes == code) for name, code in zip(named, kept, strict=True)]
    if rare := len(known) - len(kept):
        groups.append((f"{rare} others", (codes >= 0) & ~np.isin(codes, kept)))
    if (codes < 0).any():
        groups.append((UNKNOWN, codes < 0))
    return groups


def _name(values: Sequence[str], code: int) -> str:
    return (values[code] if code < len(values) else "") or f"value {code}"


def figures_of(stored: StoredPredictions, rows: np.ndarray | None = None) -> dict[str, float]:
    """Return the metrics of some stored predictions.

    Args:
      stored: the predictions.
      rows: bool [n]; None: all.
    """
    arrays = {k: stored[k] if rows is None else stored[k][rows] for k in _MEASURED if k in stored}
    outputs = {"logits": arrays["logits"]} if "logits" in arrays else {}
    if "valence_arousal_predicted" in arrays:
        outputs["valence"], outputs["arousal"] = arrays["valence_arousal_predicted"].T
    names = stored["class_names"].tolist()
    fields = [name for name in ("expression", "valence_arousal") if name in arrays]
    figures = MetricSet(fields, len(names), names).update(outputs, arrays).compute()
    if all(name in arrays for name in LandmarkStatistics.FIGURES):
        figures |= LandmarkStatistics().add(arrays).compute()
    return figures


_MEASURED = (
    *("logits", "expression", "valence_arousal", "valence_arousal_predicted"),
    *LandmarkStatistics.FIGURES,
)


def belong_to(stored: StoredPredictions, row: Mapping[str, float | None]) -> bool:
    """Return whether the metrics of stored predictions are those of a row of `metrics.jsonl`.

    They are not if a run was interrupted while it was tested again.
    """
    pairs = [
        (value, row[name])
        for name, value in figures_of(stored).items()
        if name in FIGURES and name != "balanced_accuracy" and name in row
    ]
    return all(
        math.isclose(value, known, rel_tol=1e-5, abs_tol=1e-6)
        for value, known in pairs
        if known is not None
    )
