"""Figures that compare rows of runs: values, paired differences, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.metrics.spread import CONFIDENCE, Difference
from affect_jax.report.figures import style
from affect_jax.runtime.tables import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _panels(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    across = min(columns, 3)
    down = math.ceil(columns / across)
    figure = style.new_figure(2.2 + 2.6 * across, down * (0.9 + 0.26 * rows))
    return figure, style.panels(figure, columns, across, sharey=True)


def _name_rows(axes: Sequence[Axes], names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.12)
        ax.grid(True, axis="x")


def rows(
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    columns: Sequence[str],
    paper: Mapping[str, Mapping[str, float]],
    reference: str,
) -> Figure:
    """Draw runs as dots, the mean of each row as a bar, a paper's number as an open diamond.

    Args:
      values: row -> column -> seed -> value.
      columns: metrics, a panel each where a row has values.
      paper: row -> column -> published number.
      reference: a row to mark.
    """
    names = list(values)
    columns = [c for c in columns if any(values[r][c] for r in names)]
    with style.styled():
        figure, panels = _panels(len(names), len(columns))
        for ax, column in zip(panels, columns, strict=True):
            for y, row in enumerate(names):
                own = list(values[row][column].values())
                colour = style.ORANGE if row == reference else style.BLUE
                ax.plot(own, [y] * len(own), "o", color=colour, markersize=4, alpha=0.6)
                if own:
                    ax.plot([np.mean(own)] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2)
                published = paper.get(row, {}).get(column)
                if published is not None:
                    ax.plot(
                        published, y, "D", color=style.GREY, markerfacecolor="none", markersize=5
                    )
            ax.set_title(label(column))
        _name_rows(panels, names)
        marks = "dots: runs, bars: means"
        marks += ", diamonds: the paper, on its own data" if paper else ""
        figure.supxlabel(marks, fontsize=8, color=style.GREY)
    return figure


def differences(
    found: Mapping[str, Mapping[str, Difference]], columns: Sequence[str], reference: str
) -> Figure:
    """Draw paired differences from the reference with their intervals; grey where 0 is inside.

    Args:
      found: row -> column -> difference.
      columns: metrics, a panel each where an interval exists.
      reference: the row that was subtracted.
    """
    names = list(found)
    columns = [c for c in columns if any(found[r][c].n > 1 for r in names)]
    with style.styled():
        figure, panels = _panels(len(names), len(columns))
        for ax, column in zip(panels, columns, strict=True):
            ax.axvline(0, color=style.INK, linewidth=0.8)
            for y, row in enumerate(names):
                difference = found[row][column]
                if difference.n < 2:
                    continue
                colour = style.BLUE if difference.is_clear else style.GREY
                ax.plot([difference.low, difference.high], [y, y], color=colour)
                ax.plot(difference.mean, y, "o", color=colour, markersize=5)
            ax.set_title(label(column))
        _name_rows(panels, names)
        figure.supxlabel(
            f"difference from {reference}, {CONFIDENCE:.0%} interval over seeds",
            fontsize=8,
            color=style.GREY,
        )
    return figure


def curves(metrics: Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]]) -> Figure:
    """Draw validation metrics over training, a line for the mean of each row's runs.

    Args:
      metrics: metric -> row -> seed -> step -> value.
    """
    with style.styled():
        figure = style.new_figure(2.0 + 3.6 * len(metrics), 3.4)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for ax, (name, by_row) in zip(panels, metrics.items(), strict=True):
            for i, (row, by_seed) in enumerate(by_row.items()):
                steps = sorted(set.intersection(*(set(curve) for curve in by_seed.values())))
                means = [np.mean([curve[step] for curve in by_seed.values()]) for step in steps]
                # Ten colours, then the same dashed.
                line = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--"}
                ax.plot(steps, means, label=row, **line)
            ax.set_title(f"validation {label(name)}")
            ax.set_xlabel("step")
            ax.grid(True, axis="y")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return figure
