"""The table of predictions: one row a face, with the same columns for all inputs and models.

A missing number is NaN, a missing id -1, a missing text "".
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from affect_jax.metrics.classification import softmax
from affect_jax.metrics.hierarchy import group_sums
from data_pipelines.hierarchies.tree import Hierarchy

NO_FACE = "no_face"
BOX = ("left", "top", "right", "bottom")
_TEXTS = ("file", "expression", "coarse", "primary", "corrected", "error")
_IDS = ("frame", "face", "track")
# Of every table, in this order; `p_CLASS` and landmarks follow.
FIXED = (
    *("file", "frame", "time", "face", "track", *BOX, "detection_score"),
    *("expression", "confidence", "valence", "arousal", "coarse", "coarse_probability"),
    *("primary", "primary_confidence", "corrected", "corrected_confidence", "error"),
)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FaceTable:
    """Columns and rows of the table of a model.

    Attributes:
      class_names: of the model.
      hierarchy: tree over them; None: none.
      n_landmarks: points in each row; 0: none.
      clip_va: keep valence and arousal within [-1, 1].
    """

    class_names: tuple[str, ...] = ()
    hierarchy: Hierarchy | None = None
    n_landmarks: int = 0
    clip_va: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in their order."""
        points = (f"{axis}{k}" for k in range(self.n_landmarks) for axis in "xy")
        return (*FIXED, *(f"p_{name}" for name in self.class_names), *points)

    @staticmethod
    def kind(column: str) -> str:
        """Return "text", "id" (int64), "time" (float64) or "number" (float32)."""
        if column in _TEXTS:
            return "text"
        return "id" if column in _IDS else "time" if column == "time" else "number"

    def blank(self, file: str, frame: int, time: float, error: str) -> Row:
        """Return the row of a frame or file without a face."""
        row: Row = {name: _MISSING[self.kind(name)] for name in self.columns}
        return row | {"file": file, "frame": frame, "time": time, "error": error}

    def scores(self, values: Mapping[str, np.ndarray]) -> Row:
        """Return the columns of a face that come from the network.

        Args:
          values: what there is of `logits`, `primary`, `corrected` [N], `valence`, `arousal` [],
            and `points` [K, 2], pixels of the image.
        """
        row: Row = {}
        if "logits" in values:
            row |= self._expression(softmax(values["logits"]))
        for name in ("primary", "corrected"):
            if name in values:
                best = int(values[name].argmax())
                row |= {name: self.class_names[best]}
                row[f"{name}_confidence"] = _number(values[name][best])
        for name in ("valence", "arousal"):
            if name in values:
                bound = np.clip(values[name], -1, 1) if self.clip_va else values[name]
                row[name] = _number(bound)
        if self.n_landmarks and "points" in values:
            for k, (x, y) in enumerate(values["points"]):
                row |= {f"x{k}": _number(x), f"y{k}": _number(y)}
        return row

    def _expression(self, probabilities: np.ndarray) -> Row:
        best = int(probabilities.argmax())
        named = zip(self.class_names, probabilities, strict=True)
        row: Row = {
            "expression": self.class_names[best],
            "confidence": _number(probabilities[best]),
            **{f"p_{name}": _number(p) for name, p in named},
        }
        if self.hierarchy is not None:
            place = self.hierarchy.coarse_of[best]
            summed = group_sums(self.hierarchy, probabilities)[place]
            row |= {"coarse": self.hierarchy.coarse[place], "coarse_probability": _number(summed)}
        return row


_MISSING: Mapping[str, Any] = {"text": "", "id": -1, "time": math.nan, "number": np.float32("nan")}


def _number(value: Any) -> np.float32:
    return np.float32(value)


def cell(value: Any) -> str:
    """Return a value as text: the shortest that reads back as the same number."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer):
        return str(int(value))
    if not np.isfinite(value):
        return "" if np.isnan(value) else str(value)
    return str(value) if isinstance(value, np.float32) else repr(round(float(value), 6))
