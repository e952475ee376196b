"""Weights published by others: their files, names and conversion."""
