"""What a finished model does, in numbers: calibration, clusters, saliency.

`subject` opens a model and runs it over a split; the other modules take arrays. Figures of the
numbers are drawn by `affect_jax.report`.
"""
