"""Embeddings of one or more models, projected to the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

# Of classes that share a colour.
_MEMBER_MARKERS = (*style.CLASS_MARKERS, "<", ">", "p", "h")


def embeddings(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray, str]], class_names: Sequence[str]
) -> Figure:
    """Draw embeddings in the plane, coloured by class, one panel a model.

    Args:
        panels: of each model a title, points [n, 2], classes int [n], and a line below.
        class_names: their names.
    """
    with style.styled():
        figure = style.new_figure(5.0 * len(panels) + 1.5, 5.2)
        grid = list(figure.subplots(1, len(panels), squeeze=False).flat)
        for axes, (title, places, classes, line) in zip(grid, panels, strict=True):
            for index, name in enumerate(class_names):
                chosen = classes == index
                axes.scatter(
                    *places[chosen].T, s=float(np.clip(6000 / len(places), 4, 28)), alpha=0.65,
                    linewidths=0, label=name, **_class_style(index, len(class_names)),
                )  # fmt: skip
            axes.set(xticks=[], yticks=[], xlabel=line)
            axes.set_title(title)
            axes.spines[:].set_visible(False)
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside right center", markerscale=1.8, labelspacing=0.7,
            ncols=math.ceil(len(names) / 24),
        )  # fmt: skip
    return figure


def _class_style(index: int, count: int) -> dict[str, object]:
    if count <= len(style.CLASS_COLOURS):
        return {"color": style.CLASS_COLOURS[index], "marker": style.CLASS_MARKERS[index]}
    import matplotlib

    markers = style.CLASS_MARKERS
    colour = matplotlib.colormaps["turbo"]((index + 0.5) / count)
    return {"color": [colour], "marker": markers[index % len(markers)]}


def grouped_embeddings(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray, str]],
    class_names: Sequence[str],
    groups: Sequence[tuple[str, Sequence[int]]],
) -> Figure:
    """Draw embeddings in the plane: a colour for each group, a marker for each class in it.

    Args:
        panels: as in `embeddings`.
        class_names: names of the classes.
        groups: of each its name and its classes.
    """
    across = 3 * len(panels)
    lines = [groups[i : i + across] for i in range(0, len(groups), across)]
    heights = [0.175 * (1 + max(len(classes) for _, classes in line)) + 0.25 for line in lines]
    with style.styled():
        below = sum(heights)
        figure = style.new_figure(5.2 * len(panels) + 0.4, 5.2 + below)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[5.2, below]).flat
        grid = list(upper.subplots(1, len(panels), squeeze=False).flat)
        for axes, (title, places, classes, line) in zip(grid, panels, strict=True):
            size = float(np.clip(6000 / len(places), 5, 28))
            for number, (_, members) in enumerate(groups):
                for place, index in enumerate(members):
                    look = _member_style(number, len(groups), place)
                    axes.scatter(
                        *places[classes == index].T, s=size, alpha=0.7, linewidths=0, **look
                    )
            axes.set(xticks=[], yticks=[], xlabel=line)
            axes.set_title(title)
            axes.spines[:].set_visible(False)
        _group_legends(lower, class_names, lines, heights)
    return figure


def _group_legends(
    figure: SubFigure,
    class_names: Sequence[str],
    lines: Sequence[Sequence[tuple[str, Sequence[int]]]],
    heights: Sequence[float],
) -> None:
    """Fill `figure` with a legend for each group, in lines of these heights."""
    from matplotlib.lines import Line2D

    total, number = sum(map(len, lines)), 0
    for row, line in enumerate(lines):
        top = 1 - sum(heights[:row]) / sum(heights)
        for column, (name, members) in enumerate(line):
            handles = []
            for place, index in enumerate(members):
                look = _member_style(number, total, place)
                handles.append(
                    Line2D([], [], linestyle="none", markersize=6, label=class_names[index], **look)
                )
            number += 1
            legend = figure.legend(
                handles=handles, title=name, title_fontproperties={"weight": "bold", "size": 8},
                loc="upper left", bbox_to_anchor=((column + 0.05) / len(lines[0]), top),
                alignment="left", handletextpad=0.3, labelspacing=0.35,
            )  # fmt: skip
            legend.set_in_layout(False)


def _member_style(group: int, groups: int, place: int) -> dict[str, Any]:
    """Return the look of a class by its group and its place in it."""
    import matplotlib

    colours = style.CLASS_COLOURS
    colour: Any = colours[group % len(colours)]
    if groups > len(colours):
        colour = matplotlib.colormaps["turbo"]((group + 0.5) / groups)
    return {"color": colour, "marker": _MEMBER_MARKERS[place % len(_MEMBER_MARKERS)]}
