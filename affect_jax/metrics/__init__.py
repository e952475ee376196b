"""Every figure that the project reports, computed once and nowhere else."""
