"""What pictures are drawn from: choices of the user, models with their outputs, faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affect_jax.evaluation.evaluator import Predictions
from affect_jax.report.figures.faces import Face
from affect_jax.report.model_runner import OpenModel
from affect_jax.runtime.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Choices(NamedTuple):
    """What is shown.

    Attributes:
        split: of the examples.
        faces: indices of faces.
        points: maximum number of points of an embedding.
        indices: of examples that the user names; empty: none.
        context: images that faces are compared with: "bank", "batch", or "" for the first that
            there is.
    """

    split: str
    faces: tuple[int, ...]
    points: int
    indices: tuple[int, ...] = ()
    context: str = ""


class View(NamedTuple):
    """A model and its outputs (`model_runner.run_over`).

    Attributes:
        name: shown in titles.
        model: the model.
        outputs: of the split that is shown, per example.
        faces: index -> uint8 image, of the faces that are shown.
        fitted: outputs of the validation split; empty unless a picture fits something.
    """

    name: str
    model: OpenModel
    outputs: Predictions
    faces: Mapping[int, np.ndarray]
    fitted: Predictions


class Drawn(NamedTuple):
    """A figure; `numbers` and `caption` go into the JSON, a `table` into a Markdown file."""

    figure: Figure
    numbers: dict[str, Any]
    caption: str
    table: Table | None = None


def _nothing(models: Sequence[OpenModel]) -> str:
    return ""


class Picture(NamedTuple):
    """How a picture is drawn and what it needs.

    Attributes:
        title: of the picture.
        draw: the function that draws it.
        outputs: further outputs of the model.
        flip: needs the logits of mirror images.
        fits: needs the validation split.
        faces: shows faces, which stored features do not have.
        points: shows at most `Choices.points` points.
        contexts: compares faces in `Choices.context`.
        missing: says what these models lack for the picture; "": nothing.
    """

    title: str
    draw: Callable[[Sequence[View], Choices], Drawn]
    outputs: tuple[str, ...] = ()
    flip: bool = False
    fits: bool = False
    faces: bool = False
    points: bool = False
    contexts: bool = False
    missing: Callable[[Sequence[OpenModel]], str] = _nothing


def rows_of(view: View, indices: Iterable[int]) -> np.ndarray:
    """Return the rows of the outputs that belong to these examples."""
    return np.searchsorted(view.outputs["index"], list(indices))


def faces_of(view: View, split: str, images: Mapping[int, np.ndarray]) -> list[Face]:
    """Return images by index with their labels and files."""
    source = view.model.source(split)
    labels = view.outputs["expression"][rows_of(view, images)]
    return [
        Face(index, image, int(label), source.describe(index))
        for (index, image), label in zip(images.items(), labels, strict=True)
    ]


def listed(faces: Sequence[Face]) -> list[dict[str, Any]]:
    """Return faces without their images, for the JSON."""
    return [{"index": f.index, "label": f.label, "source": f.source} for f in faces]
