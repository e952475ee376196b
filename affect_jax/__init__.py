"""Facial-affect models in JAX: train, evaluate, export and serve."""

import os
from typing import TYPE_CHECKING, Any

from affect_jax.version import __version__

if TYPE_CHECKING:
    from affect_jax.inference.predictor import Predictor

__all__ = ["__version__", "load"]


def load(path: str | os.PathLike | None = None, **options: Any) -> "Predictor":
    """Open a model directory for prediction; see `inference.predictor.load`.

    Without a path it is the model that comes with the package.
    """
    # Imported here so that `import affect_jax` does not pull in JAX, Flax and Orbax.
    from affect_jax.inference import predictor

    return predictor.load(path, **options)
