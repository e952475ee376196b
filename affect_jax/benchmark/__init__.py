"""Benchmarks: each suite measures us and a peer in turn, in one run, and reports medians."""
