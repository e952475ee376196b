"""Figures that compare the rows of a sweep; None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.metrics.spread import CONFIDENCE, Difference
from affect_jax.report.figures import style
from affect_jax.runtime.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# metric -> row -> seed -> step -> value
Curves = Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]]


def rows_figure(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    reference: str,
    paper: Mapping[str, Mapping[str, float]],
) -> Figure | None:
    """Draw runs as dots, means of rows as bars, the paper's numbers as diamonds.

    Args:
      values: row -> metric -> values of its runs.
      reference: the row in another colour.
      paper: row -> metric -> published number.
    """

    def mark(axes: Axes, y: int, row: str, column: str) -> None:
        found = values[row][column]
        colour = style.ORANGE if row == reference else style.BLUE
        axes.plot(found, [y] * len(found), "o", color=colour, markersize=4, alpha=0.6)
        if found:
            axes.plot([np.mean(found)] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2)
        if (published := paper.get(row, {}).get(column)) is not None:
            axes.plot(published, y, "D", color=style.GREY, markerfacecolor="none", markersize=5)

    measured = {c for by_column in values.values() for c, found in by_column.items() if found}
    marks = "dots: runs, bars: means" + ", diamonds: the paper, on its own data" * bool(paper)
    return _panels(values, measured, marks, mark)


def differences_figure(
    differences: Mapping[str, Mapping[str, Difference]], reference: str
) -> Figure | None:
    """Draw paired differences from the reference; grey where intervals hold 0.

    Args:
      differences: row -> metric -> difference.
      reference: its name.
    """

    def mark(axes: Axes, y: int, row: str, column: str) -> None:
        if y == 0:
            axes.axvline(0, color=style.INK, linewidth=0.8)
        difference = differences[row][column]
        if difference.n > 1:
            colour = style.BLUE if difference.is_clear else style.GREY
            axes.plot([difference.low, difference.high], [y, y], color=colour)
            axes.plot(difference.mean, y, "o", color=colour, markersize=5)

    paired = {c for by_column in differences.values() for c, d in by_column.items() if d.n > 1}
    note = f"difference from {reference}, {CONFIDENCE:.0%} interval over seeds"
    return _panels(differences, paired, note, mark)


def _panels(
    rows: Mapping[str, Mapping[str, object]],
    columns: set[str],
    note: str,
    mark: Callable[[Axes, int, str, str], None],
) -> Figure | None:
    """Return a panel for each of the columns, with a line for each row."""
    from matplotlib.ticker import MaxNLocator

    shown = [c for c in next(iter(rows.values()), {}) if c in columns]
    if not shown:
        return None
    across = min(len(shown), 3)
    down = math.ceil(len(shown) / across)
    with style.styled():
        figure = style.new_figure(2.2 + 2.6 * across, down * (0.9 + 0.26 * len(rows)))
        panels = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
        for unused in panels[len(shown) :]:
            unused.set_visible(False)
        for axes, column in zip(panels, shown, strict=False):
            for y, row in enumerate(rows):
                mark(axes, y, row, column)
            axes.set_title(label(column))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_yticks(range(len(rows)), list(rows))
            axes.tick_params(axis="y", length=0)
            axes.margins(x=0.12)
            style.grid(axes, "x")
        figure.supxlabel(note, fontsize=8, color=style.GREY)
    return figure


def curves_figure(curves: Curves) -> Figure | None:
    """Draw validation metrics over training, a line for the mean of each row's runs."""
    drawn = {
        name: {
            row: found for row, runs in rows.items() if (found := [c for c in runs.values() if c])
        }
        for name, rows in curves.items()
    }
    drawn = {name: rows for name, rows in drawn.items() if rows}
    if not drawn:
        return None
    with style.styled():
        figure = style.new_figure(2.0 + 3.6 * len(drawn), 3.4)
        panels = figure.subplots(1, len(drawn), squeeze=False)[0]
        for axes, (name, rows) in zip(panels, drawn.items(), strict=True):
            for i, (row, found) in enumerate(rows.items()):
                steps = sorted(set.intersection(*map(set, found)))
                means = [np.mean([curve[step] for curve in found]) for step in steps]
                # Ten colours, then the same dashed.
                axes.plot(steps, means, "-" if i < 10 else "--", color=f"C{i % 10}", label=row)
            axes.set_title(f"validation {label(name)}")
            axes.set_xlabel("step")
            style.grid(axes, "y")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return figure
