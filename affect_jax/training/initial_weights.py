"""What the model of a new run starts from: `config.init_from` and label vectors."""

from typing import Any

import ml_collections
import numpy as np
from flax import nnx

from affect_jax.models import relations_settings
from affect_jax.models.relations import LABEL_VECTORS
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import System
from affect_jax.weights import model_dir, word_vectors
from affect_jax.weights.init_from import initialise_from
from data_pipelines.hierarchies.tree import Hierarchy


def initialise(
    model: nnx.Module, config: ml_collections.ConfigDict, system: System, mapper: Mapper
) -> dict[str, Any] | None:
    """Give a fresh model its label vectors and the weights of `config.init_from`.

    Label vectors of `init_from` are kept unless the config names a file of word vectors.

    Returns:
      Where the label vectors come from, see `word_vectors.resolve`; None for a model without.

    Raises:
      UserError: weights or word vectors cannot be read, or do not fit.
    """
    facts, vectors, has_file = None, None, False
    if system.relations is not None:
        chosen = relations_settings.parse(system.relations)
        if chosen.lgifo:
            tree = None if chosen.hierarchy is None else Hierarchy.from_plain(chosen.hierarchy)
            vectors, facts = word_vectors.resolve(
                chosen.vectors,
                tree,
                system.class_names,
                chosen.label_features,
                missing=chosen.missing_words,
            )
            has_file = bool(chosen.vectors)
            _set_labels(model, vectors)
    if config.init_from:
        initialise_from(model, config.init_from, config.init_allow, mapper, system.class_names)
        if vectors is not None and has_file:
            _set_labels(model, vectors)
        elif vectors is not None and not np.array_equal(_labels(model), vectors):
            facts = {"kind": "init_from", "summary": f"label vectors of {config.init_from}"}
    return facts


def _set_labels(model: nnx.Module, vectors: np.ndarray) -> None:
    model_dir.assign(model, {"params": {}, "stats": {LABEL_VECTORS: vectors}})


def _labels(model: nnx.Module) -> np.ndarray:
    return np.asarray(model_dir.arrays_of(model)["stats"][LABEL_VECTORS])
