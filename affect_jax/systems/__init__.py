"""Published systems: each a model and an objective, on about one page."""

from typing import Any

import ml_collections
import numpy as np

from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.systems.base import Phase, System
from affect_jax.systems.classifier import ClassifierSystem
from affect_jax.systems.emofan import EmoFANSystem
from affect_jax.systems.fan import FANSystem

__all__ = ["Phase", "System", "create", "for_source"]

_SYSTEMS: dict[str, type[System]] = {
    "arbex": ClassifierSystem,  # with model.reliability; see systems/arbex.py
    "classifier": ClassifierSystem,
    "emofan": EmoFANSystem,
    "fan": FANSystem,
}


def create(
    config: ml_collections.ConfigDict,
    *,
    class_names: tuple[str, ...],
    has: frozenset[str],
    class_counts: tuple[int, ...],
) -> System:
    """The system that `config.system` names.

    Raises:
      ConfigError: for an unknown name.
    """
    if config.system not in _SYSTEMS:
        raise ConfigError(f"config.system = {config.system!r}; {nearest(config.system, _SYSTEMS)}")
    return _SYSTEMS[config.system](config, class_names, has, class_counts)


def for_source(config: ml_collections.ConfigDict, source: Any) -> System:
    """The system for the classes and labels of a training source."""
    labels = np.asarray(source.labels)
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    return create(
        config,
        class_names=tuple(source.class_names),
        has=frozenset(source.has),
        class_counts=tuple(int(c) for c in counts),
    )
