"""Figures of a classifier: confusion matrices and reliability diagrams, alone or side by side.

Every function takes arrays, returns a matplotlib `Figure`, and is rendered by `style.png`. Missing
labels (-1) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from affect_jax.metrics.calibration import reliability_bins
from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def confusion_matrix(
    true: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    min_count: int = 1,
    narrow: bool = False,
) -> Figure:
    """Counts and row shares of every pair of true and predicted class.

    Args:
        true: int [n] class ids, -1 where unlabelled.
        predicted: int [n] class ids.
        class_names: the N names.
        min_count: classes with fewer images are left out of the balanced accuracy.
        narrow: shares alone and no colour bar, for small screens.

    Raises:
        ValueError: if no image has a label, or an id is not below N.
    """
    return confusion_matrices([("", true, predicted)], class_names, min_count, narrow=narrow)


def stored_labels(stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Labels of stored predictions (`predictions.gather`), -1 also where one is no number."""
    finite = np.isfinite(stored["probabilities"]).all(axis=1)
    return np.where(finite, stored["expression"], -1)


def has_labels(stored: Mapping[str, np.ndarray]) -> bool:
    """Whether stored predictions hold a class with its label."""
    return "probabilities" in stored and bool((stored_labels(stored) >= 0).any())


def stored_confusion_matrix(
    stored: Mapping[str, np.ndarray], min_count: int = 1, *, narrow: bool = False
) -> Figure:
    """`confusion_matrix` of stored predictions; it needs `has_labels`."""
    predicted, names = stored["probabilities"].argmax(axis=1), stored["class_names"].tolist()
    return confusion_matrix(stored_labels(stored), predicted, names, min_count, narrow)


def confusion_matrices(
    models: Sequence[tuple[str, np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    min_count: int = 1,
    *,
    narrow: bool = False,
) -> Figure:
    """Confusion matrices side by side.

    Args:
        models: of each, a name for the title, and `true` and `predicted` of `confusion_matrix`.
        class_names, min_count, narrow: as there.

    Raises:
        ValueError: as there.
    """
    size = len(class_names)
    counted = [confusion_counts(true, predicted, size) for _, true, predicted in models]
    with style.styled():
        side = style.NARROW if narrow else float(np.clip(0.62 * size + 1.9, 3.6, 13))
        width = side if narrow else side * len(models) + 1.3
        figure = style.new_figure(width, side + 0.2 * narrow, "compressed")
        grid = list(figure.subplots(1, len(models), squeeze=False).flat)
        for axes, counts, (name, _, _) in zip(grid, counted, models, strict=True):
            image = _matrix(axes, counts, class_names, narrow)
            title = _accuracies(counts, min_count)
            title = title.replace(", ", "\n") if narrow else title
            axes.set_title(f"{name}\n{title}" if name else title)
        if narrow:
            return figure
        bar = figure.colorbar(image, ax=grid, shrink=0.7, aspect=28, pad=0.02)
        style.percent_axis(bar.ax.yaxis)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
    return figure


def confusion_counts(true: np.ndarray, predicted: np.ndarray, size: int) -> np.ndarray:
    """int [N, N], rows are true classes; images without a label (-1) are left out.

    Raises:
        ValueError: if no image has a label, or an id is not below N.
    """
    labelled = np.asarray(true) >= 0
    true, predicted = np.asarray(true)[labelled], np.asarray(predicted)[labelled]
    if not true.size:
        raise ValueError("confusion_matrix: no image has an expression label")
    if max(true.max(), predicted.max()) >= size or predicted.min() < 0:
        raise ValueError(f"confusion_matrix: class ids beyond the {size} class names")
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (true, predicted), 1)
    return counts


def _matrix(axes: Axes, counts: np.ndarray, class_names: Sequence[str], narrow: bool) -> Any:
    size, totals = len(counts), counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    _matrix_cells(axes, counts, shares, totals, narrow)
    axes.set_xticks(range(size), class_names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(size), [f"{n}  ({t:,})" for n, t in zip(class_names, totals, strict=True)]
    )
    axes.tick_params(length=0, labelsize=8 if size <= 16 else 6.5)
    axes.set_xticks(np.arange(-0.5, size), minor=True)
    axes.set_yticks(np.arange(-0.5, size), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true  (images)")
    return image


def _accuracies(counts: np.ndarray, min_count: int) -> str:
    totals = counts.sum(axis=1)
    text = f"Accuracy {np.trace(counts) / totals.sum():.1%}"
    counted = totals >= max(min_count, 1)
    if counted.any():
        text += f", balanced {(np.diag(counts)[counted] / totals[counted]).mean():.1%}"
    if counted.any() and not counted.all():
        text += f"\n(over the {counted.sum()} of {counted.size} classes with enough images)"
    return text


def _matrix_cells(
    axes: Axes, counts: np.ndarray, shares: np.ndarray, totals: np.ndarray, narrow: bool
) -> None:
    size = len(totals)
    for row in range(size):
        if totals[row] == 0:
            axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4")
            axes.text((size - 1) / 2, row, "no images", ha="center", va="center", color=style.GREY)
            continue
        for column in range(size):
            if counts[row, column] == 0 or (size > 16 and row != column):
                continue
            share = shares[row, column]
            colour = "white" if share > 0.55 else style.INK
            text = {"ha": "center", "color": colour}
            if size > 16 or narrow:
                small = 6 if size > 16 else style.SMALL
                axes.text(column, row, f"{100 * share:.0f}", va="center", fontsize=small, **text)
                continue
            axes.text(column, row - 0.04, f"{share:.0%}", va="bottom", fontsize=8.5, **text)
            axes.text(
                column,
                row + 0.08,
                f"{counts[row, column]:,}",
                va="top",
                fontsize=style.SMALL,
                **text,
            )


def reliability_diagram(probabilities: np.ndarray, true: np.ndarray) -> Figure:
    """How often the model is right when it says that it is x % sure.

    Args:
        probabilities: float [n, N].
        true: int [n], -1 where unlabelled.

    Raises:
        ValueError: if no image has a label.
    """
    return reliability_diagrams([[("", probabilities)]], [true])


def reliability_diagrams(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], trues: Sequence[np.ndarray]
) -> Figure:
    """Reliability diagrams in rows, as of several models before and after a correction.

    Args:
        rows: of each row the diagrams, each a name for the title and `probabilities`.
        trues: of each row, the labels.

    Raises:
        ValueError: if no image has a label.
    """
    columns = max(map(len, rows))
    with style.styled():
        figure = style.new_figure(0.9 + 3.5 * columns, 4.9 * len(rows))
        grid = figure.subplots(
            2 * len(rows), columns, sharex=True, squeeze=False, height_ratios=[4, 1] * len(rows)
        )
        for row, (diagrams, true) in enumerate(zip(rows, trues, strict=True)):
            pairs = grid[2 * row : 2 * row + 2].T
            for (axes, below), (name, probabilities) in zip(pairs, diagrams, strict=False):
                _reliability(axes, below, probabilities, true, name)
            pairs[0, 0].legend(loc="upper left")
            for axes in pairs[len(diagrams) :].flat:
                axes.remove()
    return figure


def _reliability(
    axes: Axes, below: Axes, probabilities: np.ndarray, true: np.ndarray, name: str
) -> None:
    bins = reliability_bins(probabilities, true)
    counts, sure, accurate = bins
    total = counts.sum()
    mean_sure, mean_right = (counts @ sure) / total, (counts @ accurate) / total
    centres = (np.arange(len(counts)) + 0.5) / len(counts)
    used = counts > 0
    width = 0.92 / len(counts)
    axes.bar(centres[used], accurate[used], width, color=style.BLUE, label="accuracy")
    axes.bar(
        centres[used],
        (sure - accurate)[used],
        width,
        bottom=accurate[used],
        color="none",
        edgecolor=style.ORANGE,
        hatch="/////",
        linewidth=0.8,
        label="gap to confidence",
    )
    axes.plot([0, 1], [0, 1], color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    title = f"Calibration error (ECE) {bins.error:.3f}"
    axes.set_title(f"{name}\n{title}" if name else title)
    style.percent_axis(axes.yaxis)
    style.grid(axes, "y")
    below.bar(centres, counts / total, width, color=style.GREY)
    below.axvline(mean_sure, color=style.ORANGE, linewidth=1.2)
    below.axvline(mean_right, color=style.BLUE, linewidth=1.2)
    below.set(xlabel="confidence of the prediction", ylabel="images")
    below.set_title(
        f"mean confidence {mean_sure:.1%} (orange), accuracy {mean_right:.1%} (blue)",
        fontsize=7.5,
        fontweight="normal",
        pad=3,
    )
    style.percent_axis(below.yaxis)
    style.percent_axis(below.xaxis)
