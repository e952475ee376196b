"""The valence-arousal circumplex: labels, predictions and their agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Words around the circle, at about the angles (degrees) of Russell's circumplex (1980), moved apart
# where they would overlap.
_WORDS = {
    8: "pleased", 30: "happy", 52: "excited", 72: "astonished",
    108: "alarmed", 128: "afraid", 150: "distressed", 172: "frustrated",
    194: "miserable", 214: "sad", 234: "bored", 254: "tired",
    286: "sleepy", 308: "calm", 330: "relaxed", 352: "content",
}  # fmt: skip
_MANY = 1500  # Beyond it points hide each other: draw their density


def circumplex(
    true: np.ndarray,
    predicted: np.ndarray,
    metrics: Mapping[str, float],
    expression: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    *,
    narrow: bool = False,
) -> Figure:
    """Draw labels and predictions of valence and arousal, and their agreement.

    Args:
        true, predicted: float [n, 2] valence and arousal, finite.
        metrics: `valence_ccc`, `valence_rmse` and the same of arousal, for the titles.
        expression: int [n] true classes, for the colours of the points; -1 where unlabelled.
        class_names: names of at most 8 classes; with more, points are not coloured.
        narrow: one panel a line, for small screens.
    """
    classes = expression if 0 < len(class_names) <= len(style.CLASS_COLOURS) else None
    with style.styled():
        if narrow:
            figure = style.new_figure(style.NARROW, 4 * style.NARROW + 0.6)
            panels = figure.subplots(4, 1)
            top, bottom = panels[:2], panels[2:]
        else:
            figure = style.new_figure(9.4, 8.8)
            top, bottom = figure.subplots(2, 2, height_ratios=[1.25, 1])
        for axes, points, name in ((top[0], true, "Labels"), (top[1], predicted, "Predictions")):
            _circle(axes)
            _points(axes, points, classes, class_names)
            axes.set_title(f"{name} ({len(points):,} images)")
        handles, names = top[0].get_legend_handles_labels()
        if handles:
            # Keeps a row free for the legend, which the layout would let touch the panels' titles.
            figure.suptitle(" ", fontsize=60 if narrow else 24)
            figure.legend(
                handles, names, loc="upper center", ncols=3 if narrow else len(names),
                markerscale=1.3,
                columnspacing=1.3, handletextpad=0.3, bbox_to_anchor=(0.5, 0.995),
                title="Expression label" + (", mean" if len(true) > _MANY else ""),
                title_fontsize=8,
            )  # fmt: skip
        for axes, name, y, p in zip(
            bottom, ("Valence", "Arousal"), true.T, predicted.T, strict=True
        ):
            ccc, rmse = (metrics[f"{name.lower()}_{m}"] for m in ("ccc", "rmse"))
            _agreement(axes, y, p, name)
            axes.set_title(f"{name}: CCC {ccc:.3f}, RMSE {rmse:.3f}")
    return figure


def _circle(axes: Axes) -> None:
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]
    axes.set(xlim=(-1.32, 1.32), ylim=(-1.22, 1.22), aspect="equal")
    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="#999999", linewidth=1, zorder=3))
    axes.add_patch(Circle((0, 0), 0.5, fill=False, edgecolor="#BBBBBB", linewidth=0.6, zorder=3))
    arrow = {"arrowstyle": "-|>", "color": "#999999", "linewidth": 0.8, "mutation_scale": 8}
    for end in ((1.08, 0), (0, 1.08)):
        axes.annotate("", end, (-end[0], -end[1]), arrowprops=arrow, zorder=3)
    axes.text(1.1, 0, "valence", fontsize=8, fontweight="bold", va="center", ha="left")
    axes.text(0, 1.1, "arousal", fontsize=8, fontweight="bold", va="bottom", ha="center")
    small = partial(axes.text, fontsize=style.SMALL, color="#555555", zorder=5)
    for value, side in ((-1, "left"), (1, "right")):
        small(1.02 * value, -0.03, f"{value:+d}", va="top", ha=side)
    for degrees, word in _WORDS.items():
        x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        across = "left" if x > 0 else "right"
        up = "center" if abs(y) < 0.75 else "bottom" if y > 0 else "top"
        small(1.05 * x, 1.05 * y, word, ha=across, va=up, fontstyle="italic", path_effects=halo)
    axes.set_axis_off()


def _points(
    axes: Axes, points: np.ndarray, classes: np.ndarray | None, class_names: Sequence[str]
) -> None:
    x, y = np.clip(points, -1.05, 1.05).T
    many = len(points) > _MANY
    size = float(np.clip(6000 / len(points), 9, 28))
    dots = partial(axes.scatter, linewidths=0, zorder=2, s=size)
    if many:
        _density(axes, x, y, 1.05, 36)
    if classes is None:
        if not many:
            dots(x, y, color=style.BLUE, alpha=0.55)
        return
    for index, name in enumerate(class_names):
        chosen = classes == index
        own = partial(
            axes.scatter if many else dots, label=name, color=style.CLASS_COLOURS[index],
            marker=style.CLASS_MARKERS[index],
        )  # fmt: skip
        if chosen.any() and many:
            mean = x[chosen].mean(), y[chosen].mean()
            own(*mean, s=70, edgecolors="white", linewidths=1, zorder=4)
        elif chosen.any():
            own(x[chosen], y[chosen], alpha=0.65)
    if not many:
        dots(x[classes < 0], y[classes < 0], color=style.GREY, alpha=0.5)


def _density(axes: Axes, x: np.ndarray, y: np.ndarray, limit: float, gridsize: int) -> None:
    extent = (-limit, limit, -limit, limit)
    axes.hexbin(
        x, y, gridsize=gridsize, extent=extent, mincnt=1, bins="log", cmap="Blues", linewidths=0.1
    )  # fmt: skip


def _agreement(axes: Axes, true: np.ndarray, predicted: np.ndarray, name: str) -> None:
    if len(true) > _MANY:
        _density(axes, true, np.clip(predicted, -1, 1), 1, 34)
    else:
        size, shown = float(np.clip(6000 / len(true), 8, 28)), np.clip(predicted, -1.05, 1.05)
        axes.scatter(true, shown, color=style.BLUE, s=size, alpha=0.45, linewidths=0)
    axes.plot([-1, 1], [-1, 1], color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlim=(-1.06, 1.06), ylim=(-1.06, 1.06), aspect="equal")
    axes.set(xlabel=f"true {name.lower()}", ylabel=f"predicted {name.lower()}")
    axes.set(xticks=(-1, -0.5, 0, 0.5, 1), yticks=(-1, -0.5, 0, 0.5, 1))
    style.grid(axes)
