"""Who may be in which split: persons, folds, exclusion, leakage."""
