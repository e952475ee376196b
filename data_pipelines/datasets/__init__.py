"""TFDS builders for facial-affect data sets, one file each, written as ArrayRecord.

Users bring the files; `python -m data_pipelines.prepare --dataset list` says which, and where to
apply for them. No builder needs TensorFlow.
"""

import difflib
import importlib
from typing import TYPE_CHECKING

from data_pipelines.schema import DataError

if TYPE_CHECKING:
    from data_pipelines.datasets.base import FaceBuilder

_BUILDERS = {
    "affectnet": "AffectNet",
    "afew_va": "AfewVa",
    "aff_wild2": "AffWild2",
    "ck_plus": "CkPlus",
    "fer2013": "Fer2013",
    "ferg_db": "FergDb",
    "ferplus": "FerPlus",
    "fg_emotions": "FgEmotions",
    "jaffe": "Jaffe",
    "landmarks_300w": "Landmarks300w",
    "manifest": "Manifest",
    "raf_db": "RafDb",
    "sewa": "Sewa",
    "sfew": "Sfew",
}


def names() -> tuple[str, ...]:
    """Return the names of all data sets, sorted."""
    return tuple(sorted(_BUILDERS))


def builder_class(name: str) -> type["FaceBuilder"]:
    """Return the builder of a data set by its name, without a config.

    Raises:
      DataError: unknown name; the nearest known one is named.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, 1, 0)
        raise DataError(
            f"unknown data set {name!r}; did you mean {near[0]!r}? Known: {', '.join(names())}"
        )
    module = importlib.import_module(f"data_pipelines.datasets.{name}")
    return getattr(module, _BUILDERS[name])
