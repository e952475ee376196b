"""Figures of what goes on inside a model: embeddings, class distributions, maps over faces.

Every function takes arrays and returns a matplotlib `Figure`, rendered by `style.png`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from affect_jax.models.saliency import spread_over
from affect_jax.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PART_COLOURS = {"primary": style.AMBER, "corrected": style.BLUE, "final": style.SKY}
_PART_NAMES = {
    "primary": "primary (head alone)",
    "corrected": "corrected (prediction)",
    "final": "prediction",
}

_SMALL = {"fontsize": style.SMALL, "fontweight": "normal", "loc": "center", "pad": 3}


class Face(NamedTuple):
    """A face to show: uint8 `image` [H, W, 3], its `label` (-1: none) and where it comes from."""

    index: int
    image: np.ndarray
    label: int
    source: str


def embeddings(
    panels: Sequence[tuple[str, np.ndarray, np.ndarray, str]], class_names: Sequence[str]
) -> Figure:
    """Embeddings laid out in the plane, coloured by class, of one or more models.

    Args:
        panels: of each model a title, places [n, 2], classes int [n], and a line below.
        class_names: their names.
    """
    with style.styled():
        figure = style.new_figure(5.0 * len(panels) + 1.5, 5.2)
        grid = list(figure.subplots(1, len(panels), squeeze=False).flat)
        for axes, (title, places, classes, line) in zip(grid, panels, strict=True):
            for index, name in enumerate(class_names):
                chosen = classes == index
                axes.scatter(
                    *places[chosen].T, s=float(np.clip(6000 / len(places), 4, 28)), alpha=0.65,
                    linewidths=0, label=name, **_class_style(index, len(class_names)),
                )  # fmt: skip
            axes.set(xticks=[], yticks=[], xlabel=line)
            axes.set_title(title)
            axes.spines[:].set_visible(False)
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside right center", markerscale=1.8, labelspacing=0.7,
            ncols=math.ceil(len(names) / 24),
        )  # fmt: skip
    return figure


def _class_style(index: int, count: int) -> dict[str, object]:
    if count <= len(style.CLASS_COLOURS):
        return {"color": style.CLASS_COLOURS[index], "marker": style.CLASS_MARKERS[index]}
    import matplotlib

    markers = style.CLASS_MARKERS
    colour = matplotlib.colormaps["turbo"]((index + 0.5) / count)
    return {"color": [colour], "marker": markers[index % len(markers)]}


def corrections(
    faces: Sequence[Face],
    models: Mapping[str, Mapping[str, np.ndarray]],
    class_names: Sequence[str],
) -> Figure:
    """Class distributions of faces before and after their correction.

    Args:
        faces: m faces.
        models: name -> of each stage the distribution [m, N]: `primary` and `corrected` of a
            model with reliability balancing, `final` of one without.
        class_names: the N names.

    Raises:
        ValueError: if there is no face.
    """
    _check_faces(faces)
    size, columns = len(class_names), len(models)
    with style.styled():
        figure = style.new_figure(1.7 + columns * max(3.4, 0.5 * size + 0.6), 1.6 * len(faces) + 1)
        grid = figure.subplots(
            len(faces), columns + 1, squeeze=False,
            width_ratios=[1.5] + [max(3.4, 0.5 * size + 0.6)] * columns,
        )  # fmt: skip
        for row, face in enumerate(faces):
            _show(grid[row, 0], face.image)
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
        from matplotlib.patches import Patch

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
    axes.set_title(
        "standard deviation: " + ", ".join(texts), fontsize=style.SMALL, fontweight="normal", pad=3
    )
    axes.tick_params(labelsize=style.SMALL)
    style.percent_axis(axes.yaxis)


def overlays(
    faces: Sequence[Face],
    models: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[tuple[str, bool | None]]]],
    *,
    faces_in_row: int = 4,
) -> Figure:
    """Faces with maps over them, of one or more models side by side.

    Args:
        faces: m faces.
        models: name -> uint8 images [m, H, W, 3] as the model sees them, maps [m, h, w] in [0, 1],
            and of each face a line of text and whether the prediction is right (None: not known).
        faces_in_row: how many, with one model; two models have half as many.

    Raises:
        ValueError: if there is no face.
    """
    _check_faces(faces)
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
            _show(own[0], face.image)
            own[0].set_title(f"example {face.index}", **_SMALL)
            for axes, (name, (images, maps, captions)) in zip(own[1:], models.items(), strict=True):
                _show(axes, images[number])
                grown = spread_over(maps[number : number + 1], *images.shape[1:3])[0]
                axes.imshow(grown, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.55 * grown)
                text, right = captions[number]
                title = f"{name}\n{text}" if len(models) > 1 else text
                colour = style.ORANGE if right is False else style.INK
                axes.set_title(title, color=colour, **_SMALL)
    return figure


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="bicubic" if len(image) < 256 else "antialiased")
    axes.set_axis_off()


def _check_faces(faces: Sequence[Face]) -> None:
    if not faces:
        raise ValueError("no face to show")
