"""Figures, tables and the HTML page of a finished run.

matplotlib is imported only when a picture is drawn.
"""

from affect_jax.report.about import write_about
from affect_jax.report.build import FOLDER, RESULTS_FILE, render, write_html, write_report

__all__ = ["FOLDER", "RESULTS_FILE", "render", "write_about", "write_html", "write_report"]
