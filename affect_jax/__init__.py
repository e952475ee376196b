"""Facial-affect models in JAX: train, evaluate, export and serve."""

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path, **options):
    """Open a model directory for prediction; see :func:`affect_jax.inference.predictor.load`."""
    # Imported here so that `import affect_jax` does not pull in JAX, Flax and Orbax.
    from affect_jax.inference import predictor

    return predictor.load(path, **options)
