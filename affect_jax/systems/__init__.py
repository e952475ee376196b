"""Published systems, each a model and an objective, on one page.

To add one, imitate `arbex`: a docstring with parts and equations, a subclass with `loss`, and a
line in `_SYSTEMS`.
"""

import ml_collections
import numpy as np

from affect_jax import batches as data_lib
from affect_jax import models
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.models.arbex import ARBEx
from affect_jax.models.emofan import EmoFAN
from affect_jax.models.fan import FAN
from affect_jax.models.vit import ViT
from affect_jax.systems import label_tree
from affect_jax.systems.arbex import ArbexSystem
from affect_jax.systems.base import Labels, Phase, System
from affect_jax.systems.classifier import ClassifierSystem
from affect_jax.systems.emofan import EmoFANSystem
from affect_jax.systems.fan import FANSystem
from affect_jax.systems.rald import RaldSystem
from affect_jax.systems.vit_se import ViTSESystem
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import Source

__all__ = ["Labels", "Phase", "System", "create", "for_source", "name_for_model"]

_SYSTEMS: dict[str, type[System]] = {
    "arbex": ArbexSystem,
    "classifier": ClassifierSystem,
    "emofan": EmoFANSystem,
    "fan": FANSystem,
    "rald": RaldSystem,
    "vit_se": ViTSESystem,
}
_NAMES = {ARBEx: "arbex", EmoFAN: "emofan", FAN: "fan", ViT: "vit_se"}


def name_for_model(model: str) -> str:
    """Return the system of the paper of a model; "classifier" for others."""
    return _NAMES.get(models.entry(model).constructor, "classifier")


def create(
    config: ml_collections.ConfigDict,
    *,
    class_names: tuple[str, ...],
    has: frozenset[str],
    class_counts: tuple[int, ...],
    hierarchy: Hierarchy | str | None = "",
    n_features: int = 0,
) -> System:
    """Return the system that `config.system` names; the labels are as in `Labels`.

    Args:
      config: of the run.
      class_names, has, class_counts: of the labels.
      hierarchy: the tree over the classes, None for none; or the name of the data set's tree (""
        if it has none), which the config may replace (see `label_tree.resolve`).

    Raises:
      ConfigError: an unknown name, or a tree that does not fit the classes.
    """
    if config.system not in _SYSTEMS:
        raise ConfigError(f"config.system = {config.system!r}; {nearest(config.system, _SYSTEMS)}")
    if isinstance(hierarchy, str):
        classes = class_names if "expression" in has else ()
        hierarchy = label_tree.resolve(config, classes, hierarchy)
    labels = Labels(has, class_names, class_counts, hierarchy, n_features)
    return _SYSTEMS[config.system](config, labels)


def for_source(config: ml_collections.ConfigDict, source: Source) -> System:
    """Return the system for the classes and labels of a training source."""
    labels = np.asarray(source.labels)
    counts = np.bincount(labels[labels >= 0], minlength=source.num_classes)
    return create(
        config,
        class_names=tuple(source.class_names),
        has=frozenset(source.has),
        class_counts=tuple(int(c) for c in counts),
        hierarchy=source.hierarchy,
        n_features=data_lib.n_features(source),
    )
