"""Calibration diagrams: accuracy of predictions by their confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.metrics.classification import CalibrationBins
from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration_diagrams(rows: Sequence[Sequence[tuple[str, CalibrationBins, float]]]) -> Figure:
    """Draw how often predictions of each confidence are correct.

    Args:
        rows: of each row (a model) the diagrams: a name for the title (or ""), the bins, and the
            expected calibration error.
    """
    columns = max(map(len, rows))
    with style.styled():
        figure = style.new_figure(0.9 + 3.5 * columns, 4.9 * len(rows))
        grid = figure.subplots(
            2 * len(rows), columns, sharex=True, squeeze=False, height_ratios=[4, 1] * len(rows)
        )
        for row, diagrams in enumerate(rows):
            pairs = grid[2 * row : 2 * row + 2].T
            for (axes, below), diagram in zip(pairs, diagrams, strict=False):
                _diagram(axes, below, *diagram)
            pairs[0, 0].legend(loc="upper left")
            for axes in pairs[len(diagrams) :].flat:
                axes.remove()
    return figure


def _diagram(axes: Axes, below: Axes, name: str, bins: CalibrationBins, ece: float) -> None:
    counts, confidence, accuracy = bins
    total = counts.sum()
    mean_confidence, mean_accuracy = (counts @ confidence) / total, (counts @ accuracy) / total
    centres = (np.arange(len(counts)) + 0.5) / len(counts)
    used = counts > 0
    width = 0.92 / len(counts)
    axes.bar(centres[used], accuracy[used], width, color=style.BLUE, label="accuracy")
    axes.bar(
        centres[used], (confidence - accuracy)[used], width, bottom=accuracy[used],
        label="gap to confidence", color="none", edgecolor=style.ORANGE, hatch="/////",
        linewidth=0.8,
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    title = f"Calibration error (ECE) {ece:.3f}"
    axes.set_title(f"{name}\n{title}" if name else title)
    style.percent_axis(axes.yaxis)
    style.grid(axes, "y")
    below.bar(centres, counts / total, width, color=style.GREY)
    below.axvline(mean_confidence, color=style.ORANGE, linewidth=1.2)
    below.axvline(mean_accuracy, color=style.BLUE, linewidth=1.2)
    below.set(xlabel="confidence of the prediction", ylabel="images")
    means = f"mean confidence {mean_confidence:.1%} (orange), accuracy {mean_accuracy:.1%} (blue)"
    below.set_title(means, fontsize=7.5, fontweight="normal", pad=3)
    style.percent_axis(below.yaxis)
    style.percent_axis(below.xaxis)
