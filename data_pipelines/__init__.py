"""Data pipelines: sources, augmentation, sampling and batches. They need no JAX."""
