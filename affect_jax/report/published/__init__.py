"""Figures of papers that a report shows next to a run's, as TOML."""
