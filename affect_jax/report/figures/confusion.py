"""Confusion matrices of one or more classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.report.figures import style
from data_pipelines.hierarchies.tree import Hierarchy

_MANY = 16  # more classes have smaller text, and few numbers or none

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def confusion_matrices(
    models: Sequence[tuple[str, np.ndarray, Mapping[str, float]]],
    class_names: Sequence[str],
    *,
    hierarchy: Hierarchy | None = None,
    narrow: bool = False,
) -> Figure:
    """Draw counts and row fractions of every pair of true and predicted class.

    Args:
        models: of each, a name for the title (or ""), counts int [N, N] (rows are true classes),
            and its metrics, as `ClassificationStatistics` gives both.
        class_names: the N names.
        hierarchy: tree over the classes, in the order of their ids. The rows are then ordered by
            coarse class, with a frame around each.
        narrow: fractions alone and no colour bar, for small screens. Of many classes in a hierarchy
            only the coarse ones are named.
    """
    size = len(class_names)
    order = np.arange(size) if hierarchy is None else np.argsort(hierarchy.coarse_of, kind="stable")
    ordered = [class_names[i] for i in order]
    with style.styled():
        side = style.NARROW if narrow else float(np.clip(0.62 * size + 1.9, 3.6, 13))
        width = side if narrow else side * len(models) + 1.3
        figure = style.new_figure(width, side + 0.2 * narrow, "compressed")
        grid = list(figure.subplots(1, len(models), squeeze=False).flat)
        for axes, (name, counts, metrics) in zip(grid, models, strict=True):
            image = _matrix(axes, counts[np.ix_(order, order)], ordered, narrow)
            if hierarchy is not None:
                _groups(axes, hierarchy, instead=narrow and size > _MANY)
            title = _accuracies(metrics, size)
            title = title.replace(", ", "\n") if narrow else title
            axes.set_title(f"{name}\n{title}" if name else title)
        if narrow:
            return figure
        bar = figure.colorbar(image, ax=grid, shrink=0.7, aspect=28, pad=0.02)
        style.percent_axis(bar.ax.yaxis)
        bar.set_label("fraction of the true class")
        bar.outline.set_visible(False)
    return figure


def _accuracies(metrics: Mapping[str, float], size: int) -> str:
    text = f"Accuracy {metrics['accuracy']:.1%}"
    if "balanced_accuracy" in metrics:
        text += f", balanced {metrics['balanced_accuracy']:.1%}"
        counted = int(metrics["classes_counted"])
        if counted < size:
            text += f"\n(over the {counted} of {size} classes with enough images)"
    if "coarse_accuracy" in metrics:
        text += f"\ncoarse {metrics['coarse_accuracy']:.1%}"
        if "errors_within_coarse" in metrics:
            text += f", {metrics['errors_within_coarse']:.1%} of errors within"
    return text


def _matrix(axes: Axes, counts: np.ndarray, class_names: Sequence[str], narrow: bool) -> AxesImage:
    size, totals = len(counts), counts.sum(axis=1)
    fractions = counts / np.maximum(totals, 1)[:, None]
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    _matrix_cells(axes, counts, fractions, totals, narrow)
    axes.set_xticks(range(size), class_names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(size), [f"{n}  ({t:,})" for n, t in zip(class_names, totals, strict=True)]
    )
    axes.tick_params(length=0, labelsize=8 if size <= _MANY else 6.5)
    axes.set_xticks(np.arange(-0.5, size), minor=True)
    axes.set_yticks(np.arange(-0.5, size), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.3 if narrow and size > _MANY else 1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true  (images)")
    return image


def _groups(axes: Axes, hierarchy: Hierarchy, *, instead: bool) -> None:
    """Frame and name the coarse classes of a matrix that is ordered by them.

    Args:
        axes: of the matrix.
        hierarchy: tree over its classes.
        instead: name the coarse classes in place of the classes; False: on the other sides.
    """
    from matplotlib.patches import Rectangle

    sizes = np.bincount(hierarchy.coarse_of)
    starts = np.cumsum(sizes) - sizes - 0.5
    for start in starts[1:]:
        for line in (axes.axhline, axes.axvline):
            line(start, color=style.GREY, linewidth=0.7)
    for start, size in zip(starts, sizes, strict=True):
        frame = Rectangle((start, start), size, size, fill=False, edgecolor=style.INK, zorder=2.5)
        axes.add_patch(frame)
    middles, names = starts + sizes / 2, hierarchy.coarse
    if instead:
        axes.set_xticks(middles, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, names)
        axes.tick_params(labelsize=style.SMALL)
        axes.set_ylabel("true")
        return
    top, right = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
    top.set_xticks(middles, names)
    right.set_yticks(middles, names, rotation=270, va="center")
    for other in (top, right):
        other.tick_params(length=0, labelsize=8)
        other.spines[:].set_visible(False)


def _matrix_cells(
    axes: Axes, counts: np.ndarray, fractions: np.ndarray, totals: np.ndarray, narrow: bool
) -> None:
    size = len(totals)
    for row in range(size):
        if totals[row] == 0:
            axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4")
            axes.text((size - 1) / 2, row, "no images", ha="center", va="center", color=style.GREY)
            continue
        for column in range(size):
            if counts[row, column] == 0 or (size > _MANY and (narrow or row != column)):
                continue
            fraction = fractions[row, column]
            colour = "white" if fraction > 0.55 else style.INK
            text = partial(axes.text, x=column, ha="center", color=colour)
            if size > _MANY or narrow:
                small = 6 if size > _MANY else style.SMALL
                text(y=row, s=f"{100 * fraction:.0f}", va="center", fontsize=small)
                continue
            text(y=row - 0.04, s=f"{fraction:.0%}", va="bottom", fontsize=8.5)
            text(y=row + 0.08, s=f"{counts[row, column]:,}", va="top", fontsize=style.SMALL)
