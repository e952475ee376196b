"""Faces with landmarks, class distributions or maps over them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from affect_jax.models.saliency import spread_over
from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Visible on dark and light skin, and distinct from white for every kind of colour vision.
_BRIGHT = "#00A6FF"
# (first, last + 1, closed) of the contours among the 68 iBUG points
_CONTOURS = (
    (0, 17, False), (17, 22, False), (22, 27, False), (27, 31, False), (31, 36, False),
    (36, 42, True), (42, 48, True), (48, 60, True), (60, 68, True),
)  # fmt: skip
_PART_COLOURS = {"primary": style.AMBER, "corrected": style.BLUE, "final": style.SKY}
_PART_NAMES = {
    "primary": "primary (head alone)",
    "corrected": "corrected (prediction)",
    "final": "prediction",
}


@dataclasses.dataclass(frozen=True)
class Face:
    """A face to show: uint8 `image` [H, W, 3], its `label` (-1: none) and its file."""

    index: int
    image: np.ndarray
    label: int
    source: str


def prediction_text(
    class_names: Sequence[str], probabilities: np.ndarray, label: int, separator: str = ", "
) -> tuple[str, bool | None]:
    """Return what was predicted of a face, and whether it is right (None: unknown).

    Args:
        class_names: the N names.
        probabilities: [N].
        label: the true class, -1 if unlabelled.
        separator: before the true class, which is named if the prediction is wrong.
    """
    if not np.isfinite(probabilities).all():
        return "not a number", None
    best = int(probabilities.argmax())
    text = f"{class_names[best]} {probabilities[best]:.0%}"
    if label < 0:
        return text, None
    right = best == label
    return text if right else f"{text}{separator}true: {class_names[label]}", right


def landmark_faces(
    images: np.ndarray,
    predicted: np.ndarray | None = None,
    true: np.ndarray | None = None,
    *,
    captions: Sequence[tuple[str, str, bool | None]] = (),
    columns: int = 4,
) -> Figure:
    """Draw a grid of faces with predicted and true landmarks and captions.

    Args:
        images: uint8 [m, H, W, 3], RGB.
        predicted: float [m, 68, 2] pixels (x, y), NaN where there are none.
        true: likewise.
        captions: per face two lines of text, and whether the first is right (None: unknown).
        columns: faces in a row.

    Raises:
        ValueError: `images` is empty.
    """
    images = np.asarray(images)
    if not len(images):
        raise ValueError("landmark_faces: no image to show")
    columns = min(columns, len(images))
    with style.styled():
        width, height = 2.15 * columns + 0.1, 2.55 * math.ceil(len(images) / columns) + 0.4
        # By hand: the automatic layout would shrink the faces to fit wide captions.
        figure = style.new_figure(width, height, "none")
        figure.subplots_adjust(
            left=0.1 / width, right=1 - 0.1 / width, bottom=0.48 / height, top=1 - 0.4 / height,
            wspace=0.06, hspace=0.24,
        )  # fmt: skip
        grid = style.panels(figure, len(images), columns)
        shown = {}
        for i, (axes, image) in enumerate(zip(grid, images, strict=True)):
            rows, pixels = image.shape[:2]
            show(axes, image)
            if true is not None and np.isfinite(true[i]).any():
                shown["true"] = _lines(axes, true[i])
            if predicted is not None and np.isfinite(predicted[i]).any():
                shown["predicted"] = _dots(axes, predicted[i])
            axes.set(xlim=(-0.5, pixels - 0.5), ylim=(rows - 0.5, -0.5))
            if i < len(captions):
                _caption(axes, *captions[i])
        if shown:
            figure.legend(
                shown.values(), [f"{name} landmarks" for name in shown], loc="upper center",
                ncols=2, facecolor="#777777", frameon=True, edgecolor="none", labelcolor="white",
                markerscale=1.6,
            )  # fmt: skip
    return figure


def _lines(axes: Axes, points: np.ndarray) -> Line2D:
    from matplotlib.patheffects import withStroke

    parts = []
    for first, last, closed in _CONTOURS:
        part = points[first:last]
        parts += [part, part[:1]] if closed else [part]
        parts.append(np.full((1, 2), np.nan))  # lifts the pen
    outline = [withStroke(linewidth=1.9, foreground="#00000070")]
    (line,) = axes.plot(
        *np.concatenate(parts).T, color="white", linewidth=1.0, path_effects=outline, zorder=2
    )
    return line


def _dots(axes: Axes, points: np.ndarray) -> Line2D:
    (dots,) = axes.plot(
        *points.T, linestyle="none", marker="o", markersize=2.6, color=_BRIGHT,
        markeredgecolor="#00000090", markeredgewidth=0.35, zorder=3,
    )  # fmt: skip
    return dots


def _caption(axes: Axes, first: str, second: str, right: bool | None) -> None:
    below = partial(axes.text, x=0.5, transform=axes.transAxes, ha="center", va="top")
    colour = style.ORANGE if right is False else style.INK
    below(y=-0.03, s=first, fontsize=8.5, fontweight="bold", color=colour)
    below(y=-0.12, s=second, fontsize=7.5, color="#444444")


def corrections(
    faces: Sequence[Face],
    models: Mapping[str, Mapping[str, np.ndarray]],
    class_names: Sequence[str],
) -> Figure:
    """Draw class distributions of faces before and after their correction.

    Args:
        faces: m faces.
        models: name -> stage -> distribution [m, N]: `primary` and `corrected` of a model with
            reliability balancing, `final` of one without.
        class_names: the N names.

    Raises:
        ValueError: `faces` is empty.
    """
    from matplotlib.patches import Patch

    if not faces:
        raise ValueError("corrections: no face to show")
    size, columns = len(class_names), len(models)
    with style.styled():
        width = max(3.4, 0.5 * size + 0.6)
        figure = style.new_figure(1.7 + columns * width, 1.6 * len(faces) + 1)
        ratios = [1.5] + [width] * columns
        grid = figure.subplots(len(faces), columns + 1, squeeze=False, width_ratios=ratios)
        for row, face in enumerate(faces):
            show(grid[row, 0], face.image)
            for axes, (name, stages) in zip(grid[row, 1:], models.items(), strict=True):
                _distributions(axes, {k: v[row] for k, v in stages.items()}, face.label)
                if row == 0 and columns > 1:
                    axes.set_title(f"{name}\n", loc="center")
                last = row == len(faces) - 1
                axes.set_xticks(range(size), class_names if last else [""] * size)
                if last:
                    axes.tick_params(axis="x", rotation=40)
                    for text in axes.get_xticklabels():
                        text.set(ha="right", rotation_mode="anchor")
        shown = dict.fromkeys(stage for stages in models.values() for stage in stages)
        handles = [Patch(color=_PART_COLOURS[stage], label=_PART_NAMES[stage]) for stage in shown]
        handles.append(Patch(color=style.PALE, label="true class"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _distributions(axes: Axes, stages: Mapping[str, np.ndarray], label: int) -> None:
    width = 0.8 / len(stages)
    texts = []
    for place, (stage, values) in enumerate(stages.items()):
        at = np.arange(len(values)) + (place - (len(stages) - 1) / 2) * width
        axes.bar(at, values, width, color=_PART_COLOURS[stage])
        best = int(np.argmax(values))
        if label >= 0:
            right = best == label
            axes.annotate(
                "✓" if right else "✗", (at[best], values[best]), ha="center", va="bottom",
                fontsize=style.SMALL, color=style.GREEN if right else style.ORANGE,
            )  # fmt: skip
        texts.append(f"{stage} {np.std(values):.3f}")
    if label >= 0:
        axes.axvspan(label - 0.5, label + 0.5, color=style.PALE, zorder=0)
    axes.set_ylim(0, max(0.3, 1.18 * max(float(np.max(v)) for v in stages.values())))
    axes.set_xlim(-0.6, len(values) - 0.4)
    _title(axes, "standard deviation: " + ", ".join(texts), "left")
    axes.tick_params(labelsize=style.SMALL)
    style.percent_axis(axes.yaxis)


def overlays(
    faces: Sequence[Face],
    models: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[tuple[str, bool | None]]]],
    *,
    faces_in_row: int = 4,
) -> Figure:
    """Draw faces with maps over them, of one or more models side by side.

    Args:
        faces: m faces.
        models: name -> uint8 images [m, H, W, 3] as the model sees them, maps [m, h, w] in [0, 1],
            and of each face a line of text and whether the prediction is right (None: unknown).
        faces_in_row: with one model; two models have half as many.

    Raises:
        ValueError: `faces` is empty.
    """
    if not faces:
        raise ValueError("overlays: no face to show")
    each = 1 + len(models)
    across = min(len(faces), max(1, 2 * faces_in_row // each))
    down = math.ceil(len(faces) / across)
    with style.styled():
        height = 1.72 + 0.12 * len(models)
        figure = style.new_figure(1.5 * each * across, height * down, "compressed")
        grid = figure.subplots(down, each * across, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for number, face in enumerate(faces):
            row, column = divmod(number, across)
            own = grid[row, column * each : (column + 1) * each]
            show(own[0], face.image)
            _title(own[0], f"example {face.index}")
            for axes, (name, (images, maps, captions)) in zip(own[1:], models.items(), strict=True):
                show(axes, images[number])
                grown = spread_over(maps[number : number + 1], *images.shape[1:3])[0]
                axes.imshow(grown, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.55 * grown)
                text, right = captions[number]
                title = f"{name}\n{text}" if len(models) > 1 else text
                _title(axes, title, colour=style.ORANGE if right is False else style.INK)
    return figure


def _title(
    axes: Axes, text: str, side: Literal["left", "center"] = "center", colour: str = "black"
) -> None:
    axes.set_title(text, fontsize=style.SMALL, fontweight="normal", loc=side, pad=3, color=colour)


def show(axes: Axes, image: np.ndarray) -> None:
    """Draw a photo [H, W, 3] without axes."""
    # Nearest pixels make small photos look torn, and the file larger.
    axes.imshow(image, interpolation="bicubic" if len(image) < 256 else "antialiased")
    axes.set_axis_off()
