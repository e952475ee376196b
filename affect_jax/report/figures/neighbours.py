"""Faces with the images that they attend to most, and what these make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from affect_jax.report.figures import style
from affect_jax.report.figures.faces import Face, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = 5  # classes whose probabilities are shown


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An image that a face attends to.

    Attributes:
        index: its position in its split.
        image: uint8 [H, W, 3].
        label: its class, -1 if unlabelled.
        predicted: class that the model predicts of it.
        weight: attention of the face to it.
    """

    index: int
    image: np.ndarray
    label: int
    predicted: int
    weight: float


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """A face and its nearest images.

    Attributes:
        face: the face.
        probabilities: [N], of its classes.
        neighbours: the nearest first.
        mixed: [N], the distribution D of its neighbours.
    """

    face: Face
    probabilities: np.ndarray
    neighbours: Sequence[Neighbour]
    mixed: np.ndarray


def neighbours(rows: Sequence[Neighbourhood], class_names: Sequence[str]) -> Figure:
    """Draw faces with their nearest images, and both distributions over the classes.

    Args:
        rows: one or more.
        class_names: the N names.

    Raises:
        ValueError: `rows` is empty.
    """
    if not rows:
        raise ValueError("neighbours: no face to show")
    count = max(len(row.neighbours) for row in rows)
    largest = max(float(np.maximum(row.probabilities, row.mixed).max()) for row in rows)
    with style.styled():
        figure = style.new_figure(1.3 * (count + 1) + 2.9, 1.72 * len(rows) + 0.5)
        ratios = [1.3] * (count + 1) + [2.6]
        grid = figure.subplots(len(rows), count + 2, squeeze=False, width_ratios=ratios)
        for axes, row in zip(grid, rows, strict=True):
            _face(axes[0], row, class_names)
            for panel in axes[1:-1]:
                panel.set_axis_off()
            for panel, neighbour in zip(axes[1:-1], row.neighbours, strict=False):
                _neighbour(panel, neighbour, row.face.label, class_names)
            _bars(axes[-1], row, class_names, limit=min(1.0, max(0.2, 1.1 * largest)))
        _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=style.BLUE, label="P, the prediction"),
        Patch(color=style.AMBER, label="D, the mean of the neighbours' predictions"),
        Patch(color=style.PALE, label="true class"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _face(axes: Axes, row: Neighbourhood, class_names: Sequence[str]) -> None:
    show(axes, row.face.image)
    best, label = int(row.probabilities.argmax()), row.face.label
    lines = [
        f"example {row.face.index}",
        _label(label, class_names),
        f"predicted {class_names[best]}",
    ]
    colour = style.ORANGE if label >= 0 and best != label else style.INK
    _lines(axes, lines, colour)


def _neighbour(axes: Axes, neighbour: Neighbour, wanted: int, class_names: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    show(axes, neighbour.image)
    lines = [
        f"{neighbour.weight:.1%}",
        _label(neighbour.label, class_names),
        f"predicted {class_names[neighbour.predicted]}",
    ]
    agrees = wanted >= 0 and neighbour.label == wanted
    _lines(axes, lines, style.INK)
    if agrees:
        frame = Rectangle(
            (0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=style.GREEN, linewidth=2.5
        )
        axes.add_patch(frame)


def _label(label: int, class_names: Sequence[str]) -> str:
    return f"label {class_names[label]}" if label >= 0 else "no label"


def _lines(axes: Axes, lines: Sequence[str], colour: str) -> None:
    axes.set_title(
        "\n".join(lines), fontsize=style.SMALL, fontweight="normal", loc="center", pad=3,
        color=colour,
    )  # fmt: skip


def _bars(axes: Axes, row: Neighbourhood, class_names: Sequence[str], *, limit: float) -> None:
    largest = np.argsort(-np.maximum(row.probabilities, row.mixed), kind="stable")[:_BARS]
    shown = list(largest)
    if row.face.label >= 0 and row.face.label not in shown:
        shown[-1] = row.face.label
    places = np.arange(len(shown))
    axes.barh(places - 0.2, row.probabilities[shown], 0.38, color=style.BLUE)
    axes.barh(places + 0.2, row.mixed[shown], 0.38, color=style.AMBER)
    if row.face.label in shown:
        place = shown.index(row.face.label)
        axes.axhspan(place - 0.5, place + 0.5, color=style.PALE, zorder=0)
    axes.set_yticks(places, [class_names[c] for c in shown])
    axes.set(xlim=(0, limit), ylim=(len(shown) - 0.45, -0.55))
    axes.tick_params(labelsize=style.SMALL)
    axes.tick_params(axis="y", length=0)
    style.percent_axis(axes.xaxis)
