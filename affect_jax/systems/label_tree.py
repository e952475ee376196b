"""Which tree over the classes a run has."""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections

from affect_jax.config import ConfigError
from data_pipelines.hierarchies import tree
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import DataError


def resolve(
    config: ml_collections.ConfigDict, class_names: Sequence[str], own: str = ""
) -> Hierarchy | None:
    """Return the tree over the classes of a run, in the order of their ids; None: none.

    `config.model.hierarchy` names it, else `config.data.hierarchy`, else the data set.

    Args:
      config: of the run.
      class_names: position = class id; empty without classes.
      own: name of the tree of the data set; "" if it has none.

    Raises:
      ConfigError: the tree cannot be read or lacks a class, or there are no classes.
    """
    named = {
        "config.model.hierarchy": config.model.get("hierarchy", ""),
        "config.data.hierarchy": config.data.hierarchy,
        "the tree of the data set": own if class_names else "",
    }
    for key, name in named.items():
        if not name:
            continue
        if not class_names:
            raise ConfigError(
                f"{key} = {name!r}, but the data have no expression classes; leave it out, or "
                "label the data"
            )
        try:
            return tree.load(name).for_classes(class_names)
        except DataError as error:
            raise ConfigError(f"{key} = {name!r}: {error}") from None
    return None
