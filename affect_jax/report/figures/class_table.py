"""A table of accuracies by class and model, with shaded cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL, _LINE = 0.62, 0.23  # inches


def class_table(
    columns: Sequence[str],
    published: int,
    accuracy: np.ndarray,
    names: Sequence[str],
    groups: Sequence[tuple[str, int]],
    summary: Sequence[tuple[str, Sequence[str]]],
) -> Figure:
    """Draw the table; the best of a row is bold.

    Args:
        columns: names of the K models.
        published: how many of them, the first, a paper prints; a line sets them apart.
        accuracy: float [N, K] fractions, NaN where unknown.
        names: of the N classes.
        groups: names and sizes of groups of adjacent classes; empty: none.
        summary: lines below the table, each with a name and K texts.
    """
    rows, count = accuracy.shape
    lines = len(summary)
    with style.styled():
        left = 1.1 + 1.0 * bool(groups)
        figure = style.new_figure(
            left + 0.5 + _CELL * count, 1.2 + _LINE * (rows + lines + 1), "constrained"
        )
        body, below = figure.subplots(2, 1, sharex=True, height_ratios=[rows, lines])
        _cells(body, accuracy)
        body.set_yticks(range(rows), names)
        body.set_xticks(range(count), columns)
        _groups(body, groups)
        below.set(ylim=(lines - 0.5, -0.5), xlim=(-0.5, count - 0.5))
        below.set_yticks(range(lines), [name for name, _ in summary])
        for line, (_, texts) in enumerate(summary):
            for column, text in enumerate(texts):
                below.text(
                    column, line, text, ha="center", va="center_baseline", fontsize=style.SMALL
                )
        for axes in (body, below):
            axes.tick_params(length=0, labelbottom=False, labeltop=axes is body)
            axes.spines[:].set_visible(False)
            if 0 < published < count:
                axes.axvline(published - 0.5, color=style.INK, linewidth=1.2)
        for text in body.get_xticklabels():
            text.set(rotation=40, ha="left", rotation_mode="anchor")
        below.axhline(-0.5, color=style.INK, linewidth=1.2)
    return figure


def _cells(axes: Axes, accuracy: np.ndarray) -> None:
    known = accuracy[np.isfinite(accuracy)]
    low = float(known.min()) if known.size else 0.0
    axes.imshow(accuracy, cmap="Blues", vmin=low - 0.02, vmax=2 - low, aspect="auto")
    for row, values in enumerate(accuracy):
        found = values[np.isfinite(values)]
        best = found.max() if np.unique(found).size > 1 else np.nan
        for column, value in enumerate(values):
            weight = "bold" if value == best else "normal"
            text = f"{100 * value:.2f}" if np.isfinite(value) else "-"
            axes.text(
                column, row, text, ha="center", va="center_baseline", fontsize=style.SMALL,
                fontweight=weight, color=style.INK,
            )  # fmt: skip


def _groups(axes: Axes, groups: Sequence[tuple[str, int]]) -> None:
    start = 0
    for name, size in groups:
        axes.annotate(
            name, (0, start + (size - 1) / 2), xycoords=axes.get_yaxis_transform(),
            xytext=(-86, 0), textcoords="offset points", ha="right", va="center_baseline",
            fontweight="bold", fontsize=8,
        )  # fmt: skip
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=3)
        start += size
