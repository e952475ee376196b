"""Errors of one or more models by the coarse classes of label and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def coarse_errors(models: Sequence[tuple[str, np.ndarray]], coarse_names: Sequence[str]) -> Figure:
    """Draw the number of errors from each coarse class to each, and their fraction of the row.

    Args:
        models: of each a title and int [M, M], see `metrics.error_kinds.coarse_errors`.
        coarse_names: the M names.
    """
    side = float(np.clip(0.62 * len(coarse_names) + 1.9, 3.8, 11))
    with style.styled():
        figure = style.new_figure(side * len(models) + 0.6, side + 0.2, "compressed")
        grid = figure.subplots(1, len(models), squeeze=False).flat
        for axes, (title, errors) in zip(grid, models, strict=True):
            _matrix(axes, errors, coarse_names)
            axes.set_title(title)
    return figure


def _matrix(axes: Axes, errors: np.ndarray, names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    size, totals = len(names), errors.sum(axis=1)
    fractions = errors / np.maximum(totals, 1)[:, None]
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    for row, column in np.ndindex(errors.shape):
        if count := errors[row, column]:
            fraction = fractions[row, column]
            colour = "white" if fraction > 0.55 else style.INK
            axes.text(
                column, row, f"{count:,}\n{fraction:.0%}", ha="center", va="center", color=colour,
                fontsize=style.SMALL, linespacing=1.25,
            )  # fmt: skip
    for place in range(size):
        corner = (place - 0.5, place - 0.5)
        frame = Rectangle(
            corner, 1, 1, fill=False, edgecolor=style.ORANGE, linewidth=1.6, clip_on=False, zorder=3
        )
        axes.add_patch(frame)
    axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), [f"{n}  ({t:,})" for n, t in zip(names, totals, strict=True)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("coarse class of the prediction")
    axes.set_ylabel("true coarse class  (errors)")
