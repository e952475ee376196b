"""The pictures that `report.pictures` can draw of a model, and what each takes and tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affect_jax.errors import UserError
from affect_jax.metrics import calibration, clusters
from affect_jax.models import saliency
from affect_jax.report import published
from affect_jax.report.figures import confusion, embeddings
from affect_jax.report.model_runner import Subject, distributions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Choices(NamedTuple):
    """What is shown: the split, indices of the faces, and the most points of an embedding."""

    split: str
    faces: tuple[int, ...]
    points: int


class View(NamedTuple):
    """A model with what it says of a split (`analysis.subject.run_over`)."""

    name: str
    subject: Subject
    passed: Mapping[str, Any]
    fitted: Mapping[str, Any] | None


class Drawn(NamedTuple):
    """A picture: `numbers` and `caption` go into the JSON."""

    figure: Figure
    numbers: dict[str, Any]
    caption: str


class Picture(NamedTuple):
    """How a picture is made and what it takes: outputs, mirror images, the validation split; and
    whether it shows faces."""

    title: str
    draw: Callable[[Sequence[View], Choices], Drawn]
    outputs: tuple[str, ...] = ()
    flip: bool = False
    fits: bool = False
    faces: bool = False


def _stages(passed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Log-probabilities or logits of what may be calibrated."""
    stages = {}
    if "primary" in passed:
        stages["primary"] = calibration.log_probabilities(passed["primary"])
    stages["final"] = passed["logits"]
    stages["flip-averaged"] = calibration.average(passed["logits"], passed["mirrored_logits"])
    return stages


def _calibration(views: Sequence[View], shown: Choices) -> Drawn:
    rows, diagrams, lines = {}, [], []
    for view in views:
        labels, fitted = view.passed["expression"], _stages(view.fitted)
        own: list[tuple[str, np.ndarray]] = []
        rows[view.name] = []
        for stage, logits in _stages(view.passed).items():
            found = calibration.fit_temperature(fitted[stage], view.fitted["expression"])
            scaled = np.asarray(logits, np.float64) / found.value
            rows[view.name] += [
                {"stage": stage, "temperature": None, **calibration.scores(logits, labels)},
                {
                    "stage": stage,
                    "temperature": found.value,
                    "temperature_at_bound": found.at_bound,
                    **calibration.scores(scaled, labels),
                },
            ]
            prefix = f"{view.name}: " if len(views) > 1 else ""
            own.append((prefix + stage, np.exp(calibration.log_softmax(logits))))
            if stage == "final":
                title = f"{prefix}{stage}, T = {found.value:.2f}"
                own.append((title, np.exp(calibration.log_softmax(scaled))))
                before, after = rows[view.name][-2:]
                lines.append(
                    f"{view.name}: temperature {found.value:.3g} takes ECE from "
                    f"{before['ece']:.3f} to {after['ece']:.3f}, NLL from {before['nll']:.3f} to "
                    f"{after['nll']:.3f}."
                )
        diagrams.append(own)
    trues = [view.passed["expression"] for view in views]
    caption = (
        "Accuracy of predictions of equal confidence, plain, with a temperature fitted on the "
        "validation split, and flip-averaged: the mean of the class probabilities of a picture and "
        "of its mirror image. " + " ".join(lines)
    )
    return Drawn(confusion.reliability_diagrams(diagrams, trues), {"rows": rows}, caption)


def _confusion(views: Sequence[View], shown: Choices) -> Drawn:
    names = views[0].subject.class_names
    models = [
        (
            v.name if len(views) > 1 else "",
            v.passed["expression"],
            v.passed["logits"].argmax(axis=1),
        )
        for v in views
    ]
    min_count = views[0].subject.config.eval.min_count
    numbers = {
        view.name: confusion.confusion_counts(true, guess, len(names))
        for view, (_, true, guess) in zip(views, models, strict=True)
    }
    caption = "Share of each true class (row) that was given each label, and the number of images."
    figure = confusion.confusion_matrices(models, names, min_count)
    return Drawn(figure, {"class_names": names, "counts": numbers}, caption)


def _embedding(views: Sequence[View], shown: Choices) -> Drawn:
    panels, numbers = [], {}
    for view in views:
        if "embedding" not in view.passed:
            raise UserError(f"the model in {view.subject.path} gives no embedding")
        labels, points = view.passed["expression"], view.passed["embedding"]
        rows = clusters.sample(labels, shown.points)
        try:
            indices = {
                "davies_bouldin": clusters.davies_bouldin(points, labels),
                "calinski_harabasz": clusters.calinski_harabasz(points, labels),
            }
        except ValueError as error:
            raise UserError(f"the {shown.split} split of {view.subject.path}: {error}") from error
        places = clusters.tsne(points[rows])
        line = (
            f"Davies-Bouldin {indices['davies_bouldin']:.3f}, "
            f"Calinski-Harabasz {indices['calinski_harabasz']:.1f}"
        )
        panels.append((view.name, places, labels[rows], line))
        numbers[view.name] = {
            **indices,
            "images": int((labels >= 0).sum()),
            "dimensions": points.shape[1],
            "shown": {
                "index": view.passed["index"][rows],
                "expression": labels[rows],
                "place": places.round(3).astype(np.float64),
            },
        }
    paper = ", ".join(
        f"{name} {v['davies_bouldin']:.3f} and {v['calinski_harabasz']:.1f}"
        for name, v in published.ARBEX_CLUSTERS.items()
    )
    caption = (
        f"t-SNE of the embeddings of at most {shown.points:,} images. The indices are taken on the "
        "embeddings of all labelled images, not on the picture: Davies-Bouldin (lower is better) "
        "and Calinski-Harabasz (higher is better; it grows with the number of images). The ARBEx "
        f"paper prints, for Aff-Wild2: {paper}."
    )
    figure = embeddings.embeddings(panels, views[0].subject.class_names)
    return Drawn(figure, {"models": numbers, "published": published.ARBEX_CLUSTERS}, caption)


def _correction(views: Sequence[View], shown: Choices) -> Drawn:
    if not any("corrected" in view.passed for view in views):
        raise UserError(
            f"the model in {views[0].subject.path} has no reliability balancing (model.reliability)"
            "; it corrects nothing"
        )
    models, numbers, lines = {}, {}, []
    rows = _rows(views[0], shown)
    for view in views:
        stages = distributions(view.passed)
        shares = stages
        if "primary" in stages:
            # What the paper calls corrected is what is predicted, not the part blended into it.
            shares = {"primary": stages["primary"], "corrected": stages["final"]}
        models[view.name] = {k: v[rows] for k, v in shares.items()}
        deviations = {k: float(v.std()) for k, v in shares.items()}
        numbers[view.name] = {"deviation": deviations, "faces": models[view.name]}
        lines.append(
            f"{view.name}: " + ", ".join(f"{k} {v:.4f}" for k, v in deviations.items()) + "."
        )
        if "primary" in stages:
            numbers[view.name] |= _changes(stages, view.passed["expression"])
    caption = (
        "Class distributions of faces: primary, that of the head alone, and corrected, that after "
        "reliability balancing, which is the prediction. "
        "Standard deviations of the probabilities over the whole split: "
        + " ".join(lines)
        + " The ARBEx paper prints primary .1316 and corrected .0881 for 60 images of 8 classes."
    )
    faces = _shown_faces(views[0], shown)
    numbers = {
        "models": numbers,
        "class_names": views[0].subject.class_names,
        "faces": [{"index": f.index, "label": f.label, "source": f.source} for f in faces],
        "published": published.ARBEX_DEVIATIONS,
    }
    figure = embeddings.corrections(faces, models, views[0].subject.class_names)
    return Drawn(figure, numbers, caption)


def _changes(stages: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Shares of the labelled images whose prediction the correction changes, to what end."""
    labelled = labels >= 0
    before, after = (stages[k][labelled].argmax(axis=1) for k in ("primary", "final"))
    changed, labels = before != after, labels[labelled]
    return {
        "changed": float(changed.mean()),
        "mended": float((changed & (after == labels)).mean()),
        "spoilt": float((changed & (before == labels)).mean()),
    }


def _rows(view: View, shown: Choices) -> np.ndarray:
    """Rows of the faces that could be read."""
    return np.searchsorted(view.passed["index"], list(view.passed["faces"]))


def _shown_faces(view: View, shown: Choices) -> list[embeddings.Face]:
    source = view.subject.source(shown.split)
    labels = view.passed["expression"][_rows(view, shown)]
    return [
        embeddings.Face(index, image, int(label), source.describe(index))
        for (index, image), label in zip(view.passed["faces"].items(), labels, strict=True)
    ]


Maps = Callable[[View, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _overlay(maps_of: Maps) -> Callable:
    def draw(views: Sequence[View], shown: Choices) -> Drawn:
        models, numbers = {}, {}
        faces = _shown_faces(views[0], shown)
        for view in views:
            images = np.stack(list(view.passed["faces"].values()))
            maps, logits = maps_of(view, images, np.array([face.label for face in faces]))
            probabilities = np.exp(calibration.log_softmax(logits))
            names, guess = view.subject.class_names, probabilities.argmax(axis=1)
            captions = []
            for face, best, p in zip(faces, guess, probabilities, strict=True):
                text = f"{names[best]} {p[best]:.0%}" if np.isfinite(p).all() else "no number"
                wrong = face.label >= 0 and best != face.label
                text += f"\ntrue: {names[face.label]}" if wrong else ""
                captions.append((text, None if face.label < 0 else not wrong))
            models[view.name] = (images, maps, captions)
            numbers[view.name] = [
                {"predicted": names[b], "probability": p[b], "map": m}
                for b, p, m in zip(guess, probabilities, np.float64(maps).round(4), strict=True)
            ]
        listed = [{"index": f.index, "label": f.label, "source": f.source} for f in faces]
        return Drawn(embeddings.overlays(faces, models), {"faces": listed, "models": numbers}, "")

    return draw


def _predicted_class(
    view: View, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return view.subject.compiled(saliency.class_activation)(images)


def _true_class(
    view: View, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return view.subject.compiled(saliency.class_activation)(images, labels)


def _rollout(view: View, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = view.subject.compiled(saliency.attention_of)(images)
    grid = (int(found["grid"][0]), int(found["grid"][1]))
    return saliency.rollout(found["attention"], grid, int(found["prefix"])), found["logits"]


def _captioned(draw: Callable, caption: str) -> Callable:
    return lambda views, shown: draw(views, shown)._replace(caption=caption)


PICTURES: dict[str, Picture] = {
    "calibration": Picture(
        "Calibration before and after correction", _calibration, ("primary",), flip=True, fits=True
    ),
    "embedding": Picture("Embeddings", _embedding, ("embedding",)),
    "correction": Picture(
        "Reliability balancing", _correction, ("primary", "corrected"), faces=True
    ),
    "cam": Picture(
        "Class activation",
        _captioned(
            _overlay(_predicted_class),
            "Where the score of the class that each model predicts comes from (Grad-CAM on the "
            "last feature map), each map scaled to its own maximum.",
        ),
        faces=True,
    ),
    "cam_true": Picture(
        "Class activation of the true class",
        _captioned(
            _overlay(_true_class),
            "Where the score of the true class comes from, whatever is predicted (Grad-CAM on the "
            "last feature map; of a face without a label, the predicted class), each map scaled to "
            "its own maximum.",
        ),
        faces=True,
    ),
    "attention": Picture(
        "Attention",
        _captioned(
            _overlay(_rollout),
            "Attention rollout: how much of the output comes from each patch, through all blocks, "
            "each map scaled to its own maximum.",
        ),
        faces=True,
    ),
    "confusion": Picture("Confusions", _confusion),
}
