"""Sweeps: configs with a `get_sweep`; see docs/sweeps.md."""
