"""Benchmarks: each suite measures this project and a peer in turn.

Medians are reported.
"""
