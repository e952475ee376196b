"""TFDS builders for facial-affect data sets, one per file; they write ArrayRecord.

Users bring the files; `python -m data_pipelines.prepare --dataset list` says which, and where to
apply for them. No builder needs TensorFlow.
"""

import difflib
import importlib
from typing import TYPE_CHECKING

from data_pipelines.dataset_names import BUILDERS
from data_pipelines.schema import DataError

if TYPE_CHECKING:
    from data_pipelines.datasets.base import FaceBuilder


def names() -> tuple[str, ...]:
    """Return the names of all data sets, sorted."""
    return tuple(sorted(BUILDERS))


def builder_class(name: str) -> type["FaceBuilder"]:
    """Return the builder of a data set by its name, without a config.

    Raises:
      DataError: unknown name; the nearest known one is named.
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, 1, 0)
        raise DataError(
            f"unknown data set {name!r}; did you mean {near[0]!r}? Known: {', '.join(names())}"
        )
    module = importlib.import_module(f"data_pipelines.datasets.{name}")
    return getattr(module, BUILDERS[name])
