"""Figures, tables and the HTML page of a finished run.

matplotlib is imported only when a picture is drawn.
"""

from affect_jax.report.build import RESULTS_FILE, render, write_html, write_report
from affect_jax.report.run import FOLDER

__all__ = ["FOLDER", "RESULTS_FILE", "render", "write_html", "write_report"]
