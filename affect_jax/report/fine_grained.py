"""Pictures of fine classes below coarse ones: embeddings, errors, a table, and cases.

Liu et al. (RALD), 2024: table 1, and figures 7 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from affect_jax.errors import UserError
from affect_jax.evaluation.predictions import choose_faces
from affect_jax.metrics import clusters, error_kinds
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.report.figures import cases as case_figures
from affect_jax.report.figures import class_table, coarse_errors, embeddings
from affect_jax.report.figures.faces import Face
from affect_jax.report.model_runner import OpenModel, images_of
from affect_jax.report.published.class_accuracy import fg_emotions
from affect_jax.report.views import Choices, Drawn, Picture, View, faces_of, listed, rows_of
from data_pipelines.hierarchies import tree as trees
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import MISSING_ID

# Keys of `error_kinds.outcomes` -> title of a row of cases, of the two models.
_CASES = {
    "first": "{0} is right, {1} is wrong",
    "second": "{1} is right, {0} is wrong",
    "neither": "Both are wrong",
}


def tree_of(models: Sequence[OpenModel]) -> Hierarchy | None:
    """Return the first tree over the classes of the models; None: they have none."""
    return next((model.hierarchy for model in models if model.hierarchy is not None), None)


def _tree(views: Sequence[View]) -> Hierarchy:
    tree = tree_of([view.model for view in views])
    assert tree is not None  # `_no_tree` has been asked
    return tree


def _no_tree(models: Sequence[OpenModel]) -> str:
    tree = tree_of(models)
    if tree is None:
        return "no tree over the classes, config.model.hierarchy or config.data.hierarchy"
    if not 1 < len(tree.coarse) < len(tree.fine):
        return f"the tree {tree.name} does not group its classes"
    return ""


def _no_second(models: Sequence[OpenModel]) -> str:
    return "" if len(models) > 1 else "no second model, --compare"


def groups_of(tree: Hierarchy) -> list[tuple[str, list[int]]]:
    """Return the name of each coarse class with its classes."""
    members: list[list[int]] = [[] for _ in tree.coarse]
    for index, group in enumerate(tree.coarse_of):
        members[group].append(index)
    return list(zip(tree.coarse, members, strict=True))


def _embedding(views: Sequence[View], shown: Choices) -> Drawn:
    tree = _tree(views)
    panels, numbers = [], {}
    for view in views:
        if "embedding" not in view.outputs:
            raise UserError(
                f"the model in {view.model.path} has no embedding; leave out this picture"
            )
        labels, points = view.outputs["expression"], view.outputs["embedding"]
        rows = clusters.sample(labels, shown.points)
        try:
            whole = clusters.coarse_distances(points, labels, tree.coarse_of)
            places = clusters.tsne(points[rows])
            drawn = clusters.coarse_distances(places, labels[rows], tree.coarse_of)
        except ValueError as error:
            raise UserError(f"the {shown.split} split of {view.model.path}: {error}") from error
        line = f"within / between coarse classes: {whole.ratio:.3f} (of this map {drawn.ratio:.3f})"
        panels.append((view.name, places, labels[rows], line))
        numbers[view.name] = {
            "embedding": whole._asdict(),
            "map": drawn._asdict(),
            "images": int((labels >= 0).sum()),
            "dimensions": points.shape[1],
            "shown": {
                "index": view.outputs["index"][rows],
                "expression": labels[rows],
                "place": places.round(3).astype(np.float64),
            },
        }
    groups = groups_of(tree)
    caption = (
        f"t-SNE of the embeddings of at most {shown.points:,} images, a colour for each coarse "
        "class. The ratio is the mean distance between the centres of two classes of one coarse "
        "class, divided by the mean of two classes of different ones: below 1, classes of a coarse "
        "class lie closer together. It is computed from the embeddings of all labelled images, "
        "before t-SNE, which does not keep distances; in brackets, from the map."
    )
    figure = embeddings.grouped_embeddings(panels, views[0].model.class_names, groups)
    return Drawn(figure, {"models": numbers, "groups": _named(tree)}, caption)


def _named(tree: Hierarchy) -> dict[str, list[str]]:
    return {name: [tree.fine[i] for i in members] for name, members in groups_of(tree)}


def _statistics(view: View) -> ClassificationStatistics:
    names = view.model.class_names
    found = ClassificationStatistics(len(names), names)
    return found.update(view.outputs["logits"], view.outputs["expression"])


def _errors(views: Sequence[View], shown: Choices) -> Drawn:
    tree = _tree(views)
    panels, numbers = [], {}
    for view in views:
        confusion = _statistics(view).confusion
        errors = error_kinds.coarse_errors(confusion, tree.coarse_of)
        within = error_kinds.share_within(errors)
        chance = error_kinds.share_within_by_chance(confusion, tree.coarse_of)
        title = f"{int(errors.sum()):,} errors"
        if errors.any():
            title += f", {within:.1%} within\nthe coarse class (by chance {chance:.1%})"
        panels.append((f"{view.name}: {title}" if len(views) > 1 else title, errors))
        numbers[view.name] = {"errors": errors, "within": within, "within_by_chance": chance}
    caption = (
        "Wrong predictions by the coarse classes of label and prediction, and their fraction of "
        "the errors of the row. Those in a frame stay within the coarse class; by chance is their "
        "fraction if every error hit each wrong class equally often."
    )
    return Drawn(
        coarse_errors.coarse_errors(panels, tree.coarse),
        {"models": numbers, "groups": _named(tree)},
        caption,
    )


class _Columns(NamedTuple):
    """Columns of the table of classes: those of a paper first, then those of the models.

    Attributes:
        names: of the K columns.
        published: how many come from the paper.
        accuracy: float64 [N, K], NaN where unknown.
        summary: name of a line below the table -> float64 [K], NaN where unknown.
    """

    names: list[str]
    published: int
    accuracy: np.ndarray
    summary: dict[str, np.ndarray]


_SPEED = "images per second"


def _columns(views: Sequence[View]) -> _Columns:
    classes, paper = views[0].model.class_names, fg_emotions()
    own = [_statistics(view).compute() for view in views]
    names = [view.name for view in views]
    accuracy = np.array([[f.get(f"recall_{name}", np.nan) for f in own] for name in classes])
    unknown, overall = np.full(len(own), np.nan), np.array([f["accuracy"] for f in own])
    rows = paper.rows_of(classes)
    if rows is None:
        summary = {"mean of classes": np.nanmean(accuracy, axis=0), "overall accuracy": overall}
        return _Columns(names, 0, accuracy, summary)
    accuracy = np.hstack([paper.accuracy[rows], accuracy])
    count = len(paper.models)
    summary = {
        "mean of classes": np.nanmean(accuracy, axis=0),
        "mean as printed": np.concatenate([paper.printed_mean, unknown]),
        "overall accuracy": np.concatenate([np.full(count, np.nan), overall]),
        _SPEED: np.concatenate([paper.images_per_second, unknown]),
    }
    return _Columns([*paper.models, *names], count, accuracy, summary)


def _class_table(views: Sequence[View], shown: Choices) -> Drawn:
    classes, columns = views[0].model.class_names, _columns(views)
    tree = tree_of([view.model for view in views])
    if tree is None and columns.published:
        tree = trees.load("fg_emotions").for_classes(classes)
    order, groups = list(range(len(classes))), []
    if tree is not None:
        order = [i for _, members in groups_of(tree) for i in members]
        groups = [(name, len(members)) for name, members in groups_of(tree)]
    lines = [(name, _texts(name, values)) for name, values in columns.summary.items()]
    figure = class_table.class_table(
        columns.names,
        columns.published,
        columns.accuracy[order],
        [classes[i] for i in order],
        groups,
        lines,
    )
    numbers = {
        "class_names": classes,
        "columns": columns.names,
        "published": columns.published,
        "accuracy": columns.accuracy,
        **{name.replace(" ", "_"): values for name, values in columns.summary.items()},
    }
    above = _levels(tree)
    body = [
        [*(level[i] for level in above.values()), classes[i], *_texts("", columns.accuracy[i])]
        for i in order
    ]
    body += [[*[""] * len(above), name, *texts] for name, texts in lines]
    table = ("Accuracy of each class in percent", [*above, "class", *columns.names], body)
    return Drawn(figure, numbers, _table_caption(columns), table)


def _levels(tree: Hierarchy | None) -> dict[str, list[str]]:
    """Return the names above each class, by level."""
    if tree is None:
        return {}
    levels = {"coarse class": [tree.coarse[c] for c in tree.coarse_of]}
    if tree.poles:
        levels = {"pole": [tree.poles[tree.pole_of[c]] for c in tree.coarse_of], **levels}
    return levels


def _texts(name: str, values: np.ndarray) -> list[str]:
    if name == _SPEED:
        return [f"{value:,.0f}" if np.isfinite(value) else "-" for value in values]
    return [f"{100 * value:.2f}" if np.isfinite(value) else "-" for value in values]


def _table_caption(columns: _Columns) -> str:
    caption = (
        "Accuracy of each class in percent, the best of a row in bold. The mean of classes weights "
        "every class alike, the overall accuracy every image."
    )
    if columns.published:
        caption += (
            " Columns left of the line: Liu et al. (RALD, 2024), table 1, on the test split of "
            "FG-Emotions; only a run on that split compares with them. Their printed means of "
            "ResNet-18 and R18+R3HO are not the means of their columns. Their speeds are of one "
            "RTX A4000."
        )
    return caption


def _cases(views: Sequence[View], shown: Choices) -> Drawn:
    tree, names = tree_of([view.model for view in views]), [view.name for view in views]
    index = views[0].outputs["index"]
    known = np.all([view.outputs["expression"] >= 0 for view in views], axis=0)
    labels = np.where(known, views[0].outputs["expression"], MISSING_ID)
    guesses = [view.outputs["logits"].argmax(axis=1) for view in views]
    kinds = error_kinds.outcomes(labels, *guesses)
    may_show = np.isin(index, shown.indices) if shown.indices else known
    rows, found = [], {}
    for kind, title in _CASES.items():
        chosen = kinds[kind] & may_show
        candidates = {"index": index[chosen], "expression": labels[chosen]}
        picks = choose_faces(candidates, max(1, len(shown.faces) // 2))
        images = images_of(views[0].model, shown.split, picks)
        own = [
            _case(face, tree, views[0].model.class_names, [guess[row] for guess in guesses])
            for face, row in zip(
                faces_of(views[0], shown.split, images), rows_of(views[0], images), strict=True
            )
        ]
        rows.append((f"{title.format(*names)}: {kinds[kind].sum():,} images", own))
        found[kind] = {
            "images": kinds[kind].sum(),
            "within": {
                name: error_kinds.share_of_errors_within(
                    labels[kinds[kind]], guess[kinds[kind]], tree.coarse_of
                )
                for name, guess in zip(names, guesses, strict=True)
                if tree is not None
            },
            "shown": [
                {
                    **listed([case.face])[0],
                    "truth": case.truth,
                    "answers": dict(zip(names, case.answers, strict=True)),
                }
                for case in own
            ],
        }
    if not any(own for _, own in rows):
        raise UserError(f"cases: both models are right on all images of the {shown.split} split")
    numbers = {"models": names, "both_right": kinds["both"].sum(), **found}
    return Drawn(case_figures.cases(rows, names), numbers, _cases_caption(names, found))


def _case(
    face: Face, tree: Hierarchy | None, names: Sequence[str], guesses: Sequence[int]
) -> case_figures.Case:
    def text(index: int) -> str:
        return names[index] if tree is None else f"{names[index]} ({_coarse(tree, index)})"

    answers = []
    for guess in guesses:
        if guess == face.label:
            kind = "right"
        elif tree is not None and _coarse(tree, guess) == _coarse(tree, face.label):
            kind = "within"
        else:
            kind = "wrong"
        answers.append((kind, text(guess)))
    return case_figures.Case(face, text(face.label), answers)


def _coarse(tree: Hierarchy, index: int) -> str:
    return tree.coarse[tree.coarse_of[index]]


def _cases_caption(names: Sequence[str], found: Mapping[str, Mapping[str, Any]]) -> str:
    caption = (
        "Images on which one model is right and the other wrong, and on which both are wrong, "
        "spread evenly over the classes, with their number in the split."
    )
    for kind, wrong in (("first", names[1]), ("second", names[0])):
        share = found[kind]["within"].get(wrong, np.nan)
        if np.isfinite(share):
            caption += (
                f" Where only {wrong} is wrong, {share:.1%} of its errors stay within the coarse "
                "class."
            )
    shares = [
        f"{name} {share:.1%}"
        for name, share in found["neither"]["within"].items()
        if np.isfinite(share)
    ]
    if shares:
        caption += f" Where both are wrong: {', '.join(shares)}."
    return caption


PICTURES: dict[str, Picture] = {
    "coarse_embedding": Picture(
        "Embeddings by coarse class", _embedding, ("embedding",), points=True, missing=_no_tree
    ),
    "coarse_errors": Picture("Errors by coarse class", _errors, missing=_no_tree),
    "class_table": Picture("Accuracy of each class", _class_table),
    "cases": Picture("Where the models differ", _cases, faces=True, missing=_no_second),
}
