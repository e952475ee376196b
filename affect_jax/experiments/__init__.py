"""Many runs as one experiment: sweeps, cross-validation, evaluation of runs."""
