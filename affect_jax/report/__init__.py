"""Figures, tables and the HTML page of a finished run.

matplotlib is imported only when a figure is drawn.
"""

from affect_jax.report.build import RESULTS_FILE, draw_evaluation, render, write_html

__all__ = ["RESULTS_FILE", "draw_evaluation", "render", "write_html"]
