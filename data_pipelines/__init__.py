"""Data on its way to the model: sources, augmentation, sampling and delivery. Needs no JAX."""
