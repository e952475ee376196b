"""Attention between the labels of a model, as a heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


class Panel(NamedTuple):
    """Attention between the C labels of a model.

    Attributes:
        title: or "".
        weights: float [C, C]; rows sum to 1.
        names: of the labels.
        groups: names and sizes of groups of adjacent labels, the first first; empty: none.
    """

    title: str
    weights: np.ndarray
    names: Sequence[str]
    groups: Sequence[tuple[str, int]]


def label_relations(panels: Sequence[Panel]) -> Figure:
    """Draw how much each label (row) attends to each (column), one panel a model."""
    side = float(np.clip(0.19 * max(len(panel.names) for panel in panels) + 2.2, 4.2, 12))
    with style.styled():
        figure = style.new_figure(side + 0.9, (side - 0.1) * len(panels), "compressed")
        grid = list(figure.subplots(len(panels), 1, squeeze=False).flat)
        top = max(float(panel.weights.max()) for panel in panels)
        for axes, panel in zip(grid, panels, strict=True):
            image = _heatmap(axes, panel.weights, panel.names, top)
            axes.set_title(panel.title, pad=20 if panel.groups else 8)
            _groups(axes, panel.groups)
        bar = figure.colorbar(image, ax=grid, shrink=0.7, aspect=28, pad=0.03)
        bar.set_label("attention, mean over heads")
        style.percent_axis(bar.ax.yaxis, decimals=1)
        bar.outline.set_visible(False)
    return figure


def _heatmap(axes: Axes, weights: np.ndarray, names: Sequence[str], top: float) -> AxesImage:
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=top, aspect="equal")
    size = len(names)
    axes.set_xticks(range(size), names, rotation=90)
    axes.set_yticks(range(size), names)
    axes.tick_params(length=0, labelsize=style.SMALL)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("attended to")
    axes.set_ylabel("label")
    return image


def _groups(axes: Axes, groups: Sequence[tuple[str, int]]) -> None:
    from matplotlib.patches import Rectangle

    start = 0
    for name, count in groups:
        corner = (start - 0.5, start - 0.5)
        frame = Rectangle(
            corner, count, count, fill=False, edgecolor=style.ORANGE, linewidth=1.2, clip_on=False
        )
        axes.add_patch(frame)
        axes.text(
            start + (count - 1) / 2, -0.9, name, ha="center", va="bottom", fontsize=style.SMALL,
            color=style.ORANGE,
        )  # fmt: skip
        start += count
