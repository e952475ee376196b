"""Figures of numbers: training curves, confusion matrix, reliability diagram, landmark errors.

Every function takes arrays, returns a matplotlib `Figure`, and is rendered by `style.png`. Missing
labels (-1, NaN) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from affect_jax.metrics import NME_LIMITS
from affect_jax.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 15  # As in the calibration error of Guo et al. 2017
_FEW_POINTS = 30
_CHOSEN = {"color": style.GREY, "linewidth": 1, "linestyle": (0, (2, 2)), "zorder": 1}
# panel title -> (metric, label) of the lines in it
_PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "Expression (validation)": (
        ("accuracy", "accuracy"),
        ("balanced_accuracy", "balanced accuracy"),
        ("f1_macro", "macro F1"),
    ),
    "Valence and arousal (validation CCC)": (
        ("valence_ccc", "valence"),
        ("arousal_ccc", "arousal"),
    ),
    "Landmark error (NME)": (("nme", "validation"),),
}


def training_curves(rows: Sequence[Mapping[str, Any]], best_step: int | None = None) -> Figure:
    """Loss and validation metrics over training steps, with the test result at the end.

    Args:
        rows: rows of `metrics.jsonl`, in any order.
        best_step: step of the checkpoint that was chosen, marked in every panel.

    Raises:
        ValueError: if no row holds a loss or a validation metric.
    """
    panels = {
        title: [(name, label) for name, label in lines if _series(rows, "validation", name)[0].size]
        for title, lines in _PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    has_loss = _series(rows, "train", "loss")[0].size or _series(rows, "validation", "loss")[0].size
    if not has_loss and not panels:
        raise ValueError("training_curves: no row holds a training loss or a validation metric")
    with style.styled():
        count = len(panels) + bool(has_loss)
        columns = min(count, 2)
        lines = math.ceil(count / columns)
        figure = style.new_figure(4.2 * columns + 0.2, 2.9 * lines)
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
        for unused in grid[count:]:
            unused.remove()
        if has_loss:
            _loss_panel(grid[0], rows)
        for axes, (title, shown) in zip(grid[int(bool(has_loss)) :], panels.items(), strict=False):
            _metric_panel(axes, rows, title, shown, best_step)
        top = max((row["step"] for row in rows), default=1)
        for axes in grid[:count]:
            _step_axis(axes, top)
            if best_step is not None:
                axes.axvline(best_step, label="chosen checkpoint", **_CHOSEN)
        grid[0].legend(loc="best" if not has_loss else "upper right")
    return figure


def _series(rows: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, ...]:
    points = {
        row["step"]: row[name]
        for row in rows
        if row["split"] == split and row.get(name) is not None
    }
    steps = np.array(sorted(points), np.int64)
    return steps, np.array([points[step] for step in steps], np.float64)


def _loss_panel(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, values = _series(rows, "train", "loss")
    if steps.size > _FEW_POINTS:
        axes.plot(steps, values, color=style.BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=style.BLUE, label="training (smoothed)")
    elif steps.size:
        axes.plot(steps, values, "o-", color=style.BLUE, markersize=3.5, label="training")
    shown = [values]
    steps, values = _series(rows, "validation", "loss")
    if steps.size:
        axes.plot(steps, values, color=style.ORANGE, label="validation", **_markers(steps.size))
    everything = np.concatenate([*shown, values])
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        axes.set_yscale("log")
    elif everything.size > _FEW_POINTS:
        # A first loss many times the rest would press the curve onto the axis.
        low, high = everything.min(), np.percentile(everything, 99)
        margin = 0.08 * max(high - low, 1e-9)
        if everything.max() > high + 3 * margin:
            axes.set_ylim(low - margin, high + 2 * margin)
    axes.set_title("Loss")
    style.grid(axes, "y")


def _metric_panel(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    title: str,
    shown: Sequence[tuple[str, str]],
    best_step: int | None,
) -> None:
    colours = (style.BLUE, style.ORANGE, style.GREEN)
    for (name, label), colour in zip(shown, colours, strict=False):
        steps, values = _series(rows, "validation", name)
        axes.plot(steps, values, color=colour, label=label, **_markers(steps.size))
        test_steps, tests = _series(rows, "test", name)
        if tests.size:
            axes.plot(
                test_steps[-1:] if best_step is None else [best_step],  # What was tested
                tests[-1:],
                marker="*",
                markersize=9,
                color=colour,
                markeredgecolor="white",
                linestyle="none",
                clip_on=False,
                zorder=5,
            )
    if any(_series(rows, "test", name)[1].size for name, _ in shown):
        axes.plot([], [], "*", color=style.GREY, markersize=7, label="test")
    axes.set_title(title)
    style.grid(axes, "y")
    axes.margins(y=0.15)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="best")


def _markers(count: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if count <= _FEW_POINTS else {}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over about 1/25 of the curve, its window cut off at the ends."""
    half = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _step_axis(axes: Axes, top: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, top * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if top >= 20_000:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("training step")


def confusion_matrix(
    true: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], min_count: int = 1
) -> Figure:
    """Counts and row shares of every pair of true and predicted class.

    Args:
        true: int [n] class ids, -1 where unlabelled.
        predicted: int [n] class ids.
        class_names: the N names.
        min_count: classes with fewer images are left out of the balanced accuracy.

    Raises:
        ValueError: if no image has a label, or an id is not below N.
    """
    labelled = np.asarray(true) >= 0
    true, predicted = np.asarray(true)[labelled], np.asarray(predicted)[labelled]
    size = len(class_names)
    if not true.size:
        raise ValueError("confusion_matrix: no image has an expression label")
    if max(true.max(), predicted.max()) >= size or predicted.min() < 0:
        raise ValueError(f"confusion_matrix: class ids beyond the {size} class names")
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (true, predicted), 1)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    with style.styled():
        side = float(np.clip(0.62 * size + 1.9, 3.6, 13))
        figure = style.new_figure(side + 1.3, side, "compressed")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        _matrix_cells(axes, counts, shares, totals)
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
        axes.set_title(_accuracies(counts, min_count))
        bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=28, pad=0.02)
        style.percent_axis(bar.ax.yaxis)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
    return figure


def _accuracies(counts: np.ndarray, min_count: int) -> str:
    totals = counts.sum(axis=1)
    text = f"Accuracy {np.trace(counts) / totals.sum():.1%}"
    counted = totals >= max(min_count, 1)
    if counted.any():
        text += f", balanced {(np.diag(counts)[counted] / totals[counted]).mean():.1%}"
    if counted.any() and not counted.all():
        text += f"\n(over the {counted.sum()} of {counted.size} classes with enough images)"
    return text


def _matrix_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray, totals: np.ndarray) -> None:
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
            if size > 16:
                axes.text(column, row, f"{100 * share:.0f}", va="center", fontsize=6, **text)
                continue
            axes.text(column, row - 0.04, f"{share:.0%}", va="bottom", fontsize=8.5, **text)
            axes.text(
                column, row + 0.08, f"{counts[row, column]:,}", va="top", fontsize=6.5, **text
            )


def reliability_diagram(probabilities: np.ndarray, true: np.ndarray) -> Figure:
    """How often the model is right when it says that it is x % sure.

    Args:
        probabilities: float [n, N].
        true: int [n], -1 where unlabelled.

    Raises:
        ValueError: if no image has a label.
    """
    labelled = np.asarray(true) >= 0
    probabilities = np.asarray(probabilities, np.float64)[labelled]
    true = np.asarray(true)[labelled]
    if not true.size:
        raise ValueError("reliability_diagram: no image has an expression label")
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == true
    # Bins closed above, so that a confidence of exactly 1 lies in the last one.
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    sure = np.bincount(bins, confidence, _BINS) / np.maximum(counts, 1)
    accurate = np.bincount(bins, right, _BINS) / np.maximum(counts, 1)
    error = float(np.sum(counts * np.abs(sure - accurate)) / counts.sum())
    centres = (np.arange(_BINS) + 0.5) / _BINS
    used = counts > 0
    with style.styled():
        figure = style.new_figure(4.4, 4.9)
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        width = 0.92 / _BINS
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
        axes.set_title(f"Calibration error (ECE) {error:.3f}")
        style.percent_axis(axes.yaxis)
        style.grid(axes, "y")
        axes.legend(loc="upper left")
        below.bar(centres, counts / counts.sum(), width, color=style.GREY)
        below.axvline(confidence.mean(), color=style.ORANGE, linewidth=1.2)
        below.axvline(right.mean(), color=style.BLUE, linewidth=1.2)
        below.set(xlabel="confidence of the prediction", ylabel="images")
        below.set_title(
            f"mean confidence {confidence.mean():.1%} (orange), accuracy {right.mean():.1%} (blue)",
            fontsize=7.5,
            fontweight="normal",
            pad=3,
        )
        style.percent_axis(below.yaxis)
        style.percent_axis(below.xaxis)
    return figure


def landmark_error_curve(nme: np.ndarray, nme_box: np.ndarray | None = None) -> Figure:
    """Share of images whose landmark error is at most x (cumulative error distribution).

    The title gives the area under the curve up to the usual limit (`metrics.NME_LIMITS`), and the
    share of failures beyond it, by inter-ocular distance.

    Args:
        nme: float [n] normalised mean errors by inter-ocular distance, NaN where unlabelled.
        nme_box: float [n], the same by the size of the landmarks' box, drawn beside it.

    Raises:
        ValueError: if no image has landmarks.
    """
    errors = _finite_sorted(nme)
    if not errors.size:
        raise ValueError("landmark_error_curve: no image has landmarks")
    threshold = NME_LIMITS["nme"]
    area = float(np.clip(threshold - errors, 0, None).mean() / threshold)
    curves = [(errors, style.BLUE, "by inter-ocular distance")]
    if nme_box is not None and np.isfinite(nme_box).any():
        curves.append((_finite_sorted(nme_box), style.GREEN, "by box size"))
    # The long tail of a few lost faces would take most of the axis.
    right = float(max(1.5 * threshold, min(np.percentile(errors, 97), 6 * threshold)))
    with style.styled():
        figure = style.new_figure(4.6, 3.4)
        axes = figure.subplots()
        for values, colour, label in curves:
            share = np.arange(1, values.size + 1) / values.size
            axes.step(
                [0, *values, max(right, values[-1])],
                [0, *share, 1],
                where="post",
                color=colour,
                label=f"{label}, median {np.median(values):.2%}",
            )
            axes.plot(np.median(values), 0.5, "o", color=colour, markersize=5)
        axes.axvline(threshold, color=style.GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.legend(loc="lower right")
        axes.set(xlim=(0, right), ylim=(0, 1.02), ylabel="share of the images")
        axes.set_xlabel("mean landmark error / size of the face")
        axes.set_title(
            f"Area up to {threshold:.0%}: {area:.3f}, failures {np.mean(errors > threshold):.1%}"
        )
        style.percent_axis(axes.xaxis)
        style.percent_axis(axes.yaxis)
        style.grid(axes)
    return figure


def _finite_sorted(values: np.ndarray) -> np.ndarray:
    values = np.sort(np.asarray(values, np.float64))
    return values[np.isfinite(values)]
