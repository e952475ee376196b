"""Faces on which two models agree or differ, with what each makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from affect_jax.report.figures import style
from affect_jax.report.figures.faces import Face, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _BELOW, _TITLE = 1.75, 0.62, 0.34  # inches: of a face, its lines, and the title of a kind
_LEFT = 1.5  # inches, for the names of the lines
# Symbol and colour of an answer: the symbol alone tells them apart.
_MARKS = {
    "right": ("✓", style.GREEN),
    "within": ("≈", style.BROWN),
    "wrong": ("✗", style.ORANGE),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A face with its true class and the answers of the models.

    Attributes:
        face: the face.
        truth: its class, in words.
        answers: of each model a key of `MARKS` and the class, in words.
    """

    face: Face
    truth: str
    answers: Sequence[tuple[str, str]]


def cases(kinds: Sequence[tuple[str, Sequence[Case]]], models: Sequence[str]) -> Figure:
    """Draw a row of faces for each kind of case.

    Args:
        kinds: of each a title and its cases.
        models: names, in the order of the answers.

    Raises:
        ValueError: there is no case.
    """
    columns = max((len(own) for _, own in kinds), default=0)
    if not columns:
        raise ValueError("cases: no face to show")
    heights = [_TITLE + bool(own) * (_SIDE + _BELOW) for _, own in kinds]
    with style.styled():
        width, height = _LEFT + (_SIDE + 0.1) * columns + 0.1, sum(heights) + 0.5
        figure = style.new_figure(width, height, "none")
        _legend(figure)
        top = height - 0.4
        for (title, own), tall in zip(kinds, heights, strict=True):
            figure.text(0.1 / width, (top - 0.1) / height, title, va="top", fontweight="bold")
            for column, case in enumerate(own):
                left, bottom = _LEFT + column * (_SIDE + 0.1), top - _TITLE - _SIDE
                axes = figure.add_axes(
                    (left / width, bottom / height, _SIDE / width, _SIDE / height)
                )
                _case(axes, case)
                if column == 0:
                    _names(axes, ["true class", *models])
            top -= tall
    return figure


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    texts = {
        "right": "right",
        "within": "wrong, within the coarse class",
        "wrong": "wrong",
    }
    handles = [
        Line2D([], [], linestyle="none", marker=f"${symbol}$", color=colour, label=texts[kind])
        for kind, (symbol, colour) in _MARKS.items()
    ]
    figure.legend(handles=handles, loc="upper right", ncols=len(handles))


def _case(axes: Axes, case: Case) -> None:
    show(axes, case.face.image)
    _line(axes, 0, case.truth, style.INK)
    for place, (kind, text) in enumerate(case.answers, start=1):
        symbol, colour = _MARKS[kind]
        _line(axes, place, f"{symbol} {text}", colour)


def _line(axes: Axes, place: int, text: str, colour: str) -> None:
    axes.text(
        0.5, -(0.04 + 0.17 * place) / _SIDE, text, transform=axes.transAxes, ha="center", va="top",
        fontsize=style.SMALL, color=colour,
    )  # fmt: skip


def _names(axes: Axes, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        shown = name if len(name) <= 22 else f"{name[:10]}…{name[-10:]}"
        axes.text(
            -0.1 / _SIDE, -(0.04 + 0.17 * place) / _SIDE, shown, transform=axes.transAxes,
            ha="right", va="top", fontsize=style.SMALL, color="#555555",
        )  # fmt: skip
