"""Published accuracies of each class, of several models on one data set."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.schema import canonical_name

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ClassAccuracies:
    """Accuracies that a paper prints, as fractions.

    Attributes:
        models: names of the K columns.
        classes: names of the N rows.
        accuracy: float64 [N, K].
        printed_mean: float64 [K], the averages that the paper prints. They may differ from the
            means of the columns.
        images_per_second: float64 [K], NaN where the paper prints none.
    """

    models: tuple[str, ...]
    classes: tuple[str, ...]
    accuracy: np.ndarray
    printed_mean: np.ndarray
    images_per_second: np.ndarray

    def rows_of(self, class_names: Sequence[str]) -> list[int] | None:
        """Return the row of each class; None unless the classes are the published ones."""
        places = {canonical_name(name): row for row, name in enumerate(self.classes)}
        folded = [canonical_name(name) for name in class_names]
        if sorted(folded) != sorted(places):
            return None
        return [places[name] for name in folded]


@functools.cache
def fg_emotions() -> ClassAccuracies:
    """Return table 1 of Liu et al. (RALD), Acta Electronica Sinica 2024."""
    with (_FOLDER / "fg_emotions.toml").open("rb") as file:
        table = tomllib.load(file)
    return ClassAccuracies(
        models=tuple(table["columns"]),
        classes=tuple(table["accuracy"]),
        accuracy=np.array(list(table["accuracy"].values())) / 100,
        printed_mean=np.array(table["printed_mean"]) / 100,
        images_per_second=np.array(table["images_per_second"], np.float64),
    )
