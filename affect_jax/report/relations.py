"""Pictures of a model's relations: nearest images, and attention between labels.

Liu et al. (RALD), 2024: figure 8, and equations 8 and 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from affect_jax import errors
from affect_jax.errors import UserError
from affect_jax.losses.relations import neighbour_distribution
from affect_jax.metrics import clusters
from affect_jax.metrics.classification import softmax
from affect_jax.metrics.label_attention import attention_shares
from affect_jax.metrics.neighbours import nearest
from affect_jax.models.relations import Comparison, Relations
from affect_jax.report.figures import label_relations as label_figures
from affect_jax.report.figures import neighbours as neighbour_figures
from affect_jax.report.figures.faces import Face
from affect_jax.report.figures.neighbours import Neighbour, Neighbourhood
from affect_jax.report.model_runner import BATCH_SIZE, OpenModel, images_of
from affect_jax.report.views import Choices, Drawn, Picture, View, faces_of, listed
from data_pipelines.hierarchies.tree import Hierarchy

CONTEXTS = ("bank", "batch")
_SHOWN = 5  # nearest images of a face
_TRAIN = "train"


class _Compared(NamedTuple):
    """Faces and the M images that they are compared with.

    Attributes:
        context: "bank", of training images, or "batch", of the split that is shown.
        indices: M positions in the split of the images.
        images: uint8 [M, H, W, 3].
        labels: int [M], -1 where unlabelled.
        logits: [M, N], of the images.
        face_logits: [m, N], of the faces.
        weights: [m, M], attention of each face to each image.
        allowed: bool [m, M], False for a face itself.
    """

    context: str
    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    face_logits: np.ndarray
    weights: np.ndarray
    allowed: np.ndarray


def _having(switch: str, what: str) -> Callable[[Sequence[OpenModel]], str]:
    """Return a function that says that no model has a part of the relations."""

    def missing(models: Sequence[OpenModel]) -> str:
        if any(_has(model, switch) for model in models):
            return ""
        return f"no model with {what}, config.model.relations.{switch}"

    return missing


def _has(model: OpenModel, switch: str) -> bool:
    relations = model.relations
    return relations is not None and getattr(relations.settings, switch)


def _neighbours(views: Sequence[View], shown: Choices) -> Drawn:
    view = next(view for view in views if _has(view.model, "itrr"))
    compared, count = _compare(view, shown), view.model.config.loss.relations.neighbours
    rows = _neighbourhoods(faces_of(view, shown.split, view.faces), compared, count)
    names, size = view.model.class_names, len(compared.indices)
    of_bank = compared.context == "bank"
    source = "training images of the bank" if of_bank else f"images of the {shown.split} split"
    caption = (
        f"Faces and the {_SHOWN} of {size} {source} that {view.name} attends to most, with their "
        f"fraction of its attention (equal attention: {1 / (size + of_bank):.1%}). A green frame: "
        "the label is the face's. D is the mean of the predictions of the "
        f"{count} nearest images, weighted by attention (Liu et al., eq. 18)."
    )
    found = [
        {
            **listed([row.face])[0],
            "prediction": row.probabilities,
            "distribution": row.mixed,
            "neighbours": [
                {name: getattr(near, name) for name in ("index", "label", "predicted", "weight")}
                for near in row.neighbours
            ],
        }
        for row in rows
    ]
    facts = {"model": view.name, "context": compared.context, "images": size}
    numbers = {**facts, "class_names": names, "faces": found}
    return Drawn(neighbour_figures.neighbours(rows, names), numbers, caption)


def _neighbourhoods(faces: Sequence[Face], compared: _Compared, count: int) -> list[Neighbourhood]:
    predictions, probabilities = softmax(compared.face_logits), softmax(compared.logits)
    weights, allowed = jnp.asarray(compared.weights), jnp.asarray(compared.allowed)
    mixed, _ = neighbour_distribution(weights, jnp.asarray(probabilities), allowed, count)
    rows = []
    for row, (face, places) in enumerate(
        zip(faces, nearest(compared.weights, compared.allowed, _SHOWN), strict=True)
    ):
        near = [
            Neighbour(
                index=int(compared.indices[i]),
                image=compared.images[i],
                label=int(compared.labels[i]),
                predicted=int(probabilities[i].argmax()),
                weight=float(compared.weights[row, i]),
            )
            for i in places
        ]
        rows.append(Neighbourhood(face, predictions[row], near, np.asarray(mixed[row])))
    return rows


def _compare(view: View, shown: Choices) -> _Compared:
    if shown.context not in ("", *CONTEXTS):
        raise UserError(f"--context {shown.context}: {errors.nearest(shown.context, CONTEXTS)}")
    relations = view.model.relations
    assert relations is not None
    index = np.asarray(relations.bank_index[...])
    labels = np.asarray(relations.bank_labels[...])
    filled = np.flatnonzero((index >= 0) & (labels >= 0))
    if shown.context == "bank" and not len(filled):
        raise UserError(
            f"--context bank: the model in {view.model.path} has an empty bank; use --context batch"
        )
    if shown.context == "batch" or not len(filled):
        return _with_batch(view, shown, len(index))
    return _with_bank(view, index, labels, filled)


def _with_bank(view: View, index: np.ndarray, labels: np.ndarray, filled: np.ndarray) -> _Compared:
    """Compare the faces with the training images that a model keeps."""
    source = view.model.source(_TRAIN)
    if view.model.is_reordered(_TRAIN, source):
        raise UserError(
            f"the training data of {view.model.path} are in another order now, or were resumed in "
            "one, so that the images of its bank are not known; use --context batch"
        )
    known = np.asarray(source.labels)
    chosen = index[filled]
    if chosen.max() >= len(known) or not np.array_equal(known[chosen], labels[filled]):
        raise UserError(
            f"the bank of the model in {view.model.path} is not of the training split of its "
            "config; use --context batch"
        )
    images = images_of(view.model, _TRAIN, chosen.tolist())
    places = np.array([place for place in filled if int(index[place]) in images], np.int64)
    pictures = np.stack([images[int(index[place])] for place in places])
    step = _stepper(view.model, "bank")
    faces = _in_batches(step, np.stack(list(view.faces.values())))
    return _Compared(
        context="bank",
        indices=index[places],
        images=pictures,
        labels=labels[places],
        logits=_in_batches(step, pictures)["logits"],
        face_logits=faces["logits"],
        weights=faces["relation_weights"][:, places],
        allowed=np.ones((len(view.faces), len(places)), bool),
    )


def _with_batch(view: View, shown: Choices, size: int) -> _Compared:
    """Compare the faces with each other and with `size` images of their split, if there are."""
    index, labels = view.outputs["index"], view.outputs["expression"]
    drawn = index[clusters.sample(np.where(np.isin(index, list(view.faces)), -1, labels), size)]
    images = {**view.faces, **images_of(view.model, shown.split, drawn.tolist())}
    count, pictures = len(view.faces), np.stack(list(images.values()))
    given = _stepper(view.model, "batch")(pictures)
    indices = np.array(list(images), np.int64)
    return _Compared(
        context="batch",
        indices=indices,
        images=pictures,
        labels=labels[np.searchsorted(index, indices)],
        logits=given["logits"],
        face_logits=given["logits"][:count],
        weights=given["relation_weights"][:count],
        allowed=~np.eye(count, len(images), dtype=bool),
    )


def _stepper(opened: OpenModel, context: str) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    def forward(model: Any, images: jax.Array) -> dict[str, jax.Array]:
        given = model(images, comparison=Comparison(context=context))
        return {name: given[name] for name in ("logits", "relation_weights")}

    return opened.compiled(forward)


def _in_batches(
    step: Callable[[np.ndarray], Mapping[str, np.ndarray]], images: np.ndarray
) -> dict[str, np.ndarray]:
    parts = [step(images[i : i + BATCH_SIZE]) for i in range(0, len(images), BATCH_SIZE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _label_relations(views: Sequence[View], shown: Choices) -> Drawn:
    panels, numbers, lines = [], {}, []
    for view in (view for view in views if _has(view.model, "hlrr")):
        relations = view.model.relations
        assert relations is not None
        plain, classes = relations.settings.hierarchy, view.model.class_names
        own = None if plain is None else Hierarchy.from_plain(plain)
        names = [*classes, *(f"{name} (coarse)" for name in (own.coarse if own else ()))]
        vectors = relations.label_vectors[...].astype(relations.dtype)
        weights = np.asarray(relations.labels.weights(vectors), np.float64).mean(axis=0)
        tree, biases = own or view.model.hierarchy, _biases(relations)
        shares = {} if tree is None else attention_shares(weights, tree)
        title = view.name if len(views) > 1 else ""
        panels.append(_panel(title, weights, names, tree))
        numbers[view.name] = {
            "labels": names,
            "weights": weights.round(6),
            "biases": biases,
            "attention": shares,
        }
        lines.append(_sentence(view.name, biases, shares))
    caption = (
        "How much each label (row) attends to each (column) before images attend to them, mean "
        "over heads (softmax of Liu et al., eq. 8). Frames: classes of one coarse class. "
        + " ".join(lines)
    )
    return Drawn(label_figures.label_relations(panels), {"models": numbers}, caption)


def _panel(
    title: str, weights: np.ndarray, names: Sequence[str], tree: Hierarchy | None
) -> label_figures.Panel:
    """Order the classes by coarse class, with the coarse labels last."""
    if tree is None:
        return label_figures.Panel(title, weights, names, ())
    fine = np.argsort(tree.coarse_of, kind="stable")
    order = np.concatenate([fine, np.arange(len(fine), len(names))])
    sizes = np.bincount(tree.coarse_of, minlength=len(tree.coarse)).tolist()
    groups = list(zip(tree.coarse, sizes, strict=True))
    shown = [names[i] for i in order]
    return label_figures.Panel(title, weights[np.ix_(order, order)], shown, groups)


def _biases(relations: Relations) -> dict[str, float]:
    """Return the three learned numbers b of eq. 9; {} without a tree."""
    found = relations.labels.biases()
    if found is None:
        return {}
    kinds, values = np.array(relations.labels.distances), np.asarray(found, np.float64)
    names = ("same label", "parent and child", "all others")
    return {name: float(values[kinds == kind][0]) for kind, name in enumerate(names)}


def _sentence(
    name: str, biases: Mapping[str, float], shares: Mapping[str, Mapping[str, float]]
) -> str:
    parts = []
    if biases:
        learned = ", ".join(f"{kind} {value:+.3f}" for kind, value in biases.items())
        parts.append(f"b of eq. 9: {learned} (before training 0, -0.693, -1.386)")
    else:
        parts.append("no bias b by the tree")
    if shares:
        listed_shares = ", ".join(
            f"{kind} {own['share']:.1%} ({own['uniform']:.1%})"
            for kind, own in shares.items()
            if own["uniform"]
        )
        parts.append(f"attention of a class, if equal in brackets: {listed_shares}")
    return f"{name}: {'; '.join(parts)}."


PICTURES: dict[str, Picture] = {
    "neighbours": Picture(
        "Nearest images",
        _neighbours,
        faces=True,
        contexts=True,
        missing=_having("itrr", "attention between images"),
    ),
    "label_relations": Picture(
        "Relations between labels",
        _label_relations,
        missing=_having("hlrr", "attention between labels"),
    ),
}
