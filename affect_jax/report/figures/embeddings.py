"""Embeddings of one or more models, projected to the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
