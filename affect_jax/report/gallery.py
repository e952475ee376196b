"""The pictures that `report.pictures` can draw: outputs, numbers and captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from affect_jax.errors import UserError
from affect_jax.evaluation.evaluator import Predictions
from affect_jax.metrics import calibration, clusters
from affect_jax.metrics.classification import CalibrationBins, ClassificationStatistics, softmax
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.metrics.reliability import ReliabilityStatistics
from affect_jax.models import saliency
from affect_jax.report.figures import calibration as calibration_figures
from affect_jax.report.figures import confusion, embeddings
from affect_jax.report.figures import faces as face_figures
from affect_jax.report.views import Choices, Drawn, Picture, View, faces_of, listed, rows_of

# Wasi et al. (ARBEx, 2023), Aff-Wild2 with 8 classes: clusters of the embeddings (figure 6), and
# standard deviation of the class probabilities over 60 images (figure 5 and its text).
_ARBEX_CLUSTERS = {
    "ARBEx": {"davies_bouldin": 1.969, "calinski_harabasz": 1227.8},
    "POSTER++": {"davies_bouldin": 1.990, "calinski_harabasz": 1199.5},
    "SCN": {"davies_bouldin": 2.534, "calinski_harabasz": 915.2},
}
_ARBEX_DEVIATIONS = {"primary": 0.1316, "corrected": 0.0881}


def distributions(outputs: Predictions) -> dict[str, np.ndarray]:
    """Return the class distributions of a model, float64 [n, N], in their order.

    `primary` and `corrected` where the model has reliability balancing, and always `final`.
    """
    stages: dict[str, np.ndarray] = {
        k: np.asarray(outputs[k], np.float64) for k in ("primary", "corrected") if k in outputs
    }
    return stages | {"final": softmax(outputs["logits"])}


def _stages(outputs: Predictions) -> dict[str, np.ndarray]:
    """Return log-probabilities or logits of what may be calibrated."""
    stages = {}
    if "primary" in outputs:
        stages["primary"] = calibration.log_probabilities(outputs["primary"])
    stages["final"] = outputs["logits"]
    if "mirrored_logits" in outputs:
        both = outputs["logits"], outputs["mirrored_logits"]
        stages["flip-averaged"] = calibration.average(*both)
    return stages


def _calibration(views: Sequence[View], shown: Choices) -> Drawn:
    rows: dict[str, list[dict[str, float | str | None]]] = {}
    diagrams, lines = [], []
    for view in views:
        labels, fitted = view.outputs["expression"], _stages(view.fitted)
        prefix = f"{view.name}: " if len(views) > 1 else ""
        rows[view.name], own = [], []
        for stage, logits in _stages(view.outputs).items():
            found = calibration.fit_temperature(fitted[stage], view.fitted["expression"])
            scaled = np.asarray(logits, np.float64) / found.value
            before, after = (calibration.scores(z, labels) for z in (logits, scaled))
            at = {"temperature": found.value, "temperature_at_bound": found.at_bound}
            rows[view.name] += [
                {"stage": stage, "temperature": None, **before},
                {"stage": stage, **at, **after},
            ]
            own.append(_diagram(prefix + stage, logits, labels))
            if stage == "final":
                own.append(_diagram(f"{prefix}{stage}, T = {found.value:.2f}", scaled, labels))
                lines.append(
                    f"{view.name}: temperature {found.value:.3g} takes ECE from "
                    f"{before['ece']:.3f} to {after['ece']:.3f}, NLL from {before['nll']:.3f} to "
                    f"{after['nll']:.3f}."
                )
        diagrams.append(own)
    flipped = ""
    if any("mirrored_logits" in view.outputs for view in views):
        flipped = (
            ", and flip-averaged: the mean of the class probabilities of an image and its mirror "
            "image"
        )
    caption = (
        "Accuracy of predictions of equal confidence, plain, with a temperature fitted on the "
        f"validation split{flipped}. " + " ".join(lines)
    )
    return Drawn(calibration_figures.calibration_diagrams(diagrams), {"rows": rows}, caption)


def _diagram(
    title: str, logits: np.ndarray, labels: np.ndarray
) -> tuple[str, CalibrationBins, float]:
    statistics = ClassificationStatistics(logits.shape[1]).update(logits, labels)
    return title, statistics.calibration_bins, statistics.compute()["ece"]


def _confusion(views: Sequence[View], shown: Choices) -> Drawn:
    names, min_count = views[0].model.class_names, views[0].model.config.eval.min_count
    hierarchy = views[0].model.hierarchy
    models = []
    for view in views:
        statistics = ClassificationStatistics(len(names), names, min_count)
        statistics.update(view.outputs["logits"], view.outputs["expression"])
        figures = statistics.compute()
        if hierarchy is not None:
            labelled = {"expression": view.outputs["expression"]}
            figures |= HierarchyStatistics(hierarchy).update(view.outputs, labelled).compute()
        title = view.name if len(views) > 1 else ""
        models.append((title, statistics.confusion, figures))
    counts = {view.name: own for view, (_, own, _) in zip(views, models, strict=True)}
    caption = (
        "Fraction of each true class (row) that was given each label, and the number of images. "
        "Classes of a hierarchy are ordered by coarse class; errors inside a frame stay within it."
    )
    figure = confusion.confusion_matrices(models, names, hierarchy=hierarchy)
    return Drawn(figure, {"class_names": names, "counts": counts}, caption)


def _embedding(views: Sequence[View], shown: Choices) -> Drawn:
    panels, numbers = [], {}
    for view in views:
        if "embedding" not in view.outputs:
            raise UserError(
                f"the model in {view.model.path} has no embedding; leave out this picture"
            )
        labels, points = view.outputs["expression"], view.outputs["embedding"]
        rows = clusters.sample(labels, shown.points)
        try:
            indices = {
                "davies_bouldin": clusters.davies_bouldin(points, labels),
                "calinski_harabasz": clusters.calinski_harabasz(points, labels),
            }
        except ValueError as error:
            raise UserError(f"the {shown.split} split of {view.model.path}: {error}") from error
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
                "index": view.outputs["index"][rows],
                "expression": labels[rows],
                "place": places.round(3).astype(np.float64),
            },
        }
    paper = ", ".join(
        f"{name} {v['davies_bouldin']:.3f} and {v['calinski_harabasz']:.1f}"
        for name, v in _ARBEX_CLUSTERS.items()
    )
    caption = (
        f"t-SNE of the embeddings of at most {shown.points:,} images. The indices are computed "
        "from the embeddings of all labelled images, before t-SNE: Davies-Bouldin (lower is "
        "better) and Calinski-Harabasz (higher is better; it grows with the number of images). The "
        f"ARBEx paper prints, for Aff-Wild2: {paper}."
    )
    figure = embeddings.embeddings(panels, views[0].model.class_names)
    return Drawn(figure, {"models": numbers, "published": _ARBEX_CLUSTERS}, caption)


def _correction(views: Sequence[View], shown: Choices) -> Drawn:
    if not any("corrected" in view.outputs for view in views):
        raise UserError(
            f"the model in {views[0].model.path} has no reliability balancing; use a run "
            "with config.model.reliability.enabled = True"
        )
    models, lines = {}, []
    found: dict[str, dict[str, Any]] = {}
    rows = rows_of(views[0], views[0].faces)
    for view in views:
        stages = distributions(view.outputs)
        shown_stages = stages
        if "primary" in stages:
            # The paper calls the prediction corrected, not the distribution blended into it.
            shown_stages = {"primary": stages["primary"], "corrected": stages["final"]}
        models[view.name] = {k: v[rows] for k, v in shown_stages.items()}
        deviations = {k: float(v.std()) for k, v in shown_stages.items()}
        found[view.name] = {"deviation": deviations, "faces": models[view.name]}
        lines.append(
            f"{view.name}: " + ", ".join(f"{k} {v:.4f}" for k, v in deviations.items()) + "."
        )
        if "primary" in stages:
            found[view.name] |= _changes(view.outputs)
    caption = (
        "Class distributions of faces: primary (of the head alone) and corrected (after balancing; "
        "the prediction). Standard deviations of the probabilities over the whole "
        "split: "
        + " ".join(lines)
        + " The ARBEx paper prints primary .1316 and corrected .0881 for 60 images of 8 classes."
    )
    faces = faces_of(views[0], shown.split, views[0].faces)
    numbers = {
        "models": found,
        "class_names": views[0].model.class_names,
        "faces": listed(faces),
        "published": _ARBEX_DEVIATIONS,
    }
    figure = face_figures.corrections(faces, models, views[0].model.class_names)
    return Drawn(figure, numbers, caption)


def _changes(outputs: Predictions) -> dict[str, float]:
    """Return fractions of labelled images that the correction changes."""
    labelled = {"expression": outputs["expression"], "mask": outputs["expression"] >= 0}
    found = ReliabilityStatistics(outputs["logits"].shape[1], 0).update(outputs, labelled).compute()
    names = {"changed": "changed", "mended": "better", "spoilt": "worse"}
    return {name: found[f"correction_{end}"] for name, end in names.items()}


# (view, images, labels) -> maps [m, h, w] and logits [m, N]
Maps = Callable[[View, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _overlay(maps_of: Maps, caption: str) -> Callable[[Sequence[View], Choices], Drawn]:
    def draw(views: Sequence[View], shown: Choices) -> Drawn:
        models, numbers = {}, {}
        faces = faces_of(views[0], shown.split, views[0].faces)
        labels = np.array([face.label for face in faces])
        for view in views:
            images, names = np.stack(list(view.faces.values())), view.model.class_names
            maps, logits = maps_of(view, images, labels)
            probabilities = softmax(logits)
            captions = [
                face_figures.prediction_text(names, p, label, "\n")
                for p, label in zip(probabilities, labels, strict=True)
            ]
            models[view.name] = (images, maps, captions)
            numbers[view.name] = [
                {"predicted": names[p.argmax()], "probability": p.max(), "map": m}
                for p, m in zip(probabilities, np.asarray(maps, np.float64).round(4), strict=True)
            ]
        figure = face_figures.overlays(faces, models)
        return Drawn(figure, {"faces": listed(faces), "models": numbers}, caption)

    return draw


def _predicted_class(
    view: View, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return view.model.compiled(saliency.class_activation)(images)


def _true_class(
    view: View, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return view.model.compiled(saliency.class_activation)(images, labels)


def _rollout(view: View, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = view.model.compiled(saliency.attention_of)(images)
    grid = (int(found["grid"][0]), int(found["grid"][1]))
    return saliency.rollout(found["attention"], grid, int(found["prefix"])), found["logits"]


_OWN_MAXIMUM = "each map scaled to its own maximum."
PICTURES: dict[str, Picture] = {
    "calibration": Picture(
        "Calibration before and after correction", _calibration, ("primary",), flip=True, fits=True
    ),
    "embedding": Picture("Embeddings", _embedding, ("embedding",), points=True),
    "correction": Picture(
        "Reliability balancing", _correction, ("primary", "corrected"), faces=True
    ),
    "cam": Picture(
        "Class activation",
        _overlay(
            _predicted_class,
            "Where the score of the class that each model predicts comes from (Grad-CAM on the "
            f"last feature map), {_OWN_MAXIMUM}",
        ),
        faces=True,
    ),
    "cam_true": Picture(
        "Class activation of the true class",
        _overlay(
            _true_class,
            "Where the score of the true class comes from (Grad-CAM on the last feature map; of a "
            f"face without a label, the predicted class), {_OWN_MAXIMUM}",
        ),
        faces=True,
    ),
    "attention": Picture(
        "Attention",
        _overlay(
            _rollout,
            "Attention rollout: how much of the output comes from each patch, through all blocks, "
            f"{_OWN_MAXIMUM}",
        ),
        faces=True,
    ),
    "confusion": Picture("Confusions", _confusion),
}
