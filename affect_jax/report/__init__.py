"""Figures, tables and the HTML page of a finished run.

matplotlib is imported only when a picture is drawn.
"""

from affect_jax.report.build import render, write_html, write_report

__all__ = ["render", "write_html", "write_report"]
