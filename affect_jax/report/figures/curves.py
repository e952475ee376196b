"""Curves: metrics over training steps, cumulative landmark errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affect_jax.metrics.landmarks import NME_LIMITS
from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEW_POINTS = 30
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


def training_curves(
    rows: Sequence[Mapping[str, Any]], best_step: int | None = None, *, narrow: bool = False
) -> Figure:
    """Draw loss and validation metrics over training steps, and the test result.

    The losses of the stages of a run share no scale, so each stage has a panel. The validation loss
    belongs to the last stage.

    Args:
        rows: rows of `metrics.jsonl`, in any order.
        best_step: step of the selected checkpoint, marked in every panel.
        narrow: one panel a line, for small screens.

    Raises:
        ValueError: no row holds a loss or a validation metric.
    """
    panels = {
        title: [(name, label) for name, label in lines if _series(rows, "validation", name)[0].size]
        for title, lines in _PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    stages = _stages(rows)
    if not stages and not panels:
        raise ValueError("training_curves: no row holds a training loss or a validation metric")
    with style.styled():
        count = len(panels) + len(stages)
        columns = 1 if narrow else min(count, 2)
        width = style.NARROW if narrow else 4.2 * columns + 0.2
        figure = style.new_figure(width, 2.9 * math.ceil(count / columns))
        grid = style.panels(figure, count, columns)
        top = max((row["step"] for row in rows), default=1)
        for i, axes in enumerate(grid[: len(stages)]):
            last = i == len(stages) - 1
            _loss_panel(axes, rows, stages[i], len(stages) > 1, with_validation=last)
            end = top if last else stages[i + 1].first - 1
            _step_axis(axes, stages[i].first if i else 0, end)
            if best_step is not None and stages[i].first <= best_step <= end:
                _mark_selected(axes, best_step)
            axes.legend(loc="best")
        for axes, (title, shown) in zip(grid[len(stages) :], panels.items(), strict=False):
            _metric_panel(axes, rows, title, shown, best_step)
            _step_axis(axes, 0, top)
            if best_step is not None:
                _mark_selected(axes, best_step)
            for stage in stages[1:]:
                axes.axvline(stage.first, color=style.PALE, linewidth=3, zorder=0)
        if not stages:
            grid[0].legend(loc="best")
    return figure


def _mark_selected(axes: Axes, step: int) -> None:
    axes.axvline(
        step, label="selected checkpoint", color=style.GREY, linewidth=1, linestyle=(0, (2, 2)),
        zorder=1,
    )  # fmt: skip


class _Stage(NamedTuple):
    """A part of a run with one training loss: its name, first and last step."""

    name: str
    first: int
    last: int


def _stages(rows: Sequence[Mapping[str, Any]]) -> list[_Stage]:
    """Return the stages of a run in order; empty if no row holds a loss."""
    found: list[_Stage] = []
    training = [r for r in rows if r["split"] == "train" and r.get("loss") is not None]
    for row in sorted(training, key=lambda r: r["step"]):
        name = str(row.get("stage", ""))
        if found and found[-1].name == name:
            found[-1] = found[-1]._replace(last=row["step"])
        else:
            found.append(_Stage(name, row["step"], row["step"]))
    if not found and _series(rows, "validation", "loss")[0].size:
        found.append(_Stage("", 0, 0))
    return found


def _series(rows: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, ...]:
    own = (row for row in rows if row["split"] == split and row.get(name) is not None)
    points = {row["step"]: row[name] for row in own}
    steps = np.array(sorted(points), np.int64)
    return steps, np.array([points[step] for step in steps], np.float64)


def _loss_panel(
    axes: Axes, rows: Sequence[Mapping[str, Any]], stage: _Stage, named: bool, with_validation: bool
) -> None:
    steps, values = _series(rows, "train", "loss")
    inside = (steps >= stage.first) & (steps <= stage.last)
    steps, values = steps[inside], values[inside]
    if steps.size > _FEW_POINTS:
        axes.plot(steps, values, color=style.BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=style.BLUE, label="training (smoothed)")
    elif steps.size:
        axes.plot(steps, values, "o-", color=style.BLUE, markersize=3.5, label="training")
    everything = values
    steps, values = _series(rows, "validation", "loss")
    if named:  # before this stage the rest of the network was untrained
        steps, values = steps[steps >= stage.first], values[steps >= stage.first]
    if with_validation and steps.size:
        axes.plot(steps, values, color=style.ORANGE, label="validation", **_markers(steps.size))
        everything = np.concatenate([everything, values])
    if everything.min() > 0 and everything.max() > 30 * everything.min():
        axes.set_yscale("log")
    elif everything.size > _FEW_POINTS:
        # A very large first loss would flatten the rest of the curve.
        low, high = everything.min(), np.percentile(everything, 99)
        margin = 0.08 * max(high - low, 1e-9)
        if everything.max() > high + 3 * margin:
            axes.set_ylim(low - margin, high + 2 * margin)
    axes.set_title(f"Loss of the stage “{stage.name}”" if named else "Loss")
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
            at = test_steps[-1:] if best_step is None else [best_step]  # the tested step
            axes.plot(
                at, tests[-1:], "*", color=colour, markersize=9, markeredgecolor="white", zorder=5,
                clip_on=False,
            )  # fmt: skip
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
    """Return a centred running mean over about 1/25 of the curve."""
    half = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _step_axis(axes: Axes, first: int, top: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    margin = 0.02 * max(top - first, 1)
    axes.set_xlim(first - (margin if first else 0), top + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if top >= 20_000:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("training step")


def landmark_error_curve(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], area: float, failures: float
) -> Figure:
    """Draw the cumulative distribution of landmark errors.

    Args:
        lines: label -> sorted errors and the fraction of images up to each
            (`metrics.landmarks.error_curve`), by inter-ocular distance first.
        area: under the first curve up to its usual limit.
        failures: fraction of images beyond that limit.
    """
    limit = NME_LIMITS["nme"]
    first = next(iter(lines.values()))[0]
    # The long tail of a few lost faces would take most of the axis.
    right = float(max(1.5 * limit, min(np.percentile(first, 97), 6 * limit)))
    with style.styled():
        figure = style.new_figure(4.6, 3.4)
        axes = figure.subplots()
        for (label, (errors, fractions)), colour in zip(
            lines.items(), (style.BLUE, style.GREEN), strict=False
        ):
            median = np.median(errors)
            x, y = [0, *errors, max(right, errors[-1])], [0, *fractions, 1]
            label += f", median {median:.2%}"
            axes.step(x, y, where="post", color=colour, label=label)
            axes.plot(median, 0.5, "o", color=colour, markersize=5)
        axes.axvline(limit, color=style.GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.legend(loc="lower right")
        axes.set(xlim=(0, right), ylim=(0, 1.02), ylabel="fraction of the images")
        axes.set_xlabel("mean landmark error / size of the face")
        axes.set_title(f"Area up to {limit:.0%}: {area:.3f}, failures {failures:.1%}")
        style.percent_axis(axes.xaxis)
        style.percent_axis(axes.yaxis)
        style.grid(axes)
    return figure
