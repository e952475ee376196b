"""Losses over the global batch, as pure functions."""
