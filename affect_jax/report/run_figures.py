"""The figures that every report has: what each shows, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from affect_jax.evaluation.predictions import StoredPredictions, stored_hierarchy
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics, error_curve
from affect_jax.metrics.regression import RegressionStatistics
from affect_jax.report.figures import calibration, circumplex, confusion, curves, faces
from affect_jax.report.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunFigure(NamedTuple):
    """A figure of the report.

    Attributes:
        title, caption: of the figure.
        draw: (run, narrow) -> the figure, `narrow` for small screens; None: nothing to show.
        is_wide: whether small screens need it drawn anew.
        dpi: resolution.
    """

    title: str
    caption: str
    draw: Callable[[Run, bool], Figure | None]
    is_wide: bool = True
    dpi: int = 160


def confusion_figure(
    stored: StoredPredictions, min_count: int, narrow: bool = False
) -> Figure | None:
    """Draw the confusion matrix of stored predictions; None without a labelled one.

    Args:
        stored: the predictions; those that are not numbers are left out.
        min_count: as in `ClassificationStatistics`.
        narrow: draw for small screens.
    """
    statistics = _classification(stored, min_count)
    if statistics is None:
        return None
    hierarchy = stored_hierarchy(stored)
    figures = statistics.compute()
    if hierarchy is not None:
        labelled = {"expression": stored["expression"], "mask": _finite(stored)}
        found = HierarchyStatistics(hierarchy, min_count)
        figures |= found.update({"logits": stored["logits"]}, labelled).compute()
    model = ("", statistics.confusion, figures)
    return confusion.confusion_matrices(
        [model], statistics.class_names, hierarchy=hierarchy, narrow=narrow
    )


def _classification(
    stored: StoredPredictions, min_count: int = 1
) -> ClassificationStatistics | None:
    if "logits" not in stored:
        return None
    names = stored["class_names"].tolist()
    statistics = ClassificationStatistics(len(names), names, min_count)
    statistics.update(stored["logits"], stored["expression"], _finite(stored))
    return statistics if statistics.confusion.any() else None


def _finite(stored: StoredPredictions) -> np.ndarray:
    return np.all(np.isfinite(stored["probabilities"]), axis=1)


def _curves(run: Run, narrow: bool) -> Figure | None:
    if not any(
        r["split"] in ("train", "validation") and r.get("loss") is not None for r in run.rows
    ):
        return None
    return curves.training_curves(run.rows, run.final.get("checkpoint"), narrow=narrow)


def _confusion(run: Run, narrow: bool) -> Figure | None:
    return confusion_figure(run.stored, run.config.get("eval", {}).get("min_count", 1), narrow)


def _calibration(run: Run, narrow: bool) -> Figure | None:
    statistics = _classification(run.stored)
    if statistics is None:
        return None
    ece = statistics.compute()["ece"]
    return calibration.calibration_diagrams([[("", statistics.calibration_bins, ece)]])


def _circumplex(run: Run, narrow: bool) -> Figure | None:
    if "valence_arousal_predicted" not in run.stored:
        return None
    true, predicted = run.stored["valence_arousal"], run.stored["valence_arousal_predicted"]
    finite = np.all(np.isfinite(predicted), axis=1)
    shown = finite & np.all(np.isfinite(true), axis=1)
    if not shown.any():
        return None
    classes = run.stored.get("expression")
    return circumplex.circumplex(
        true[shown],
        predicted[shown],
        RegressionStatistics().update(predicted, true, finite).compute(),
        None if classes is None else classes[shown],
        run.stored["class_names"].tolist(),
        narrow=narrow,
    )


def _landmark_error(run: Run, narrow: bool) -> Figure | None:
    names = LandmarkStatistics.FIGURES
    finite = {n: run.stored[n][np.isfinite(run.stored[n])] for n in names if n in run.stored}
    if not finite or not finite["nme"].size:
        return None
    figures = LandmarkStatistics().add(finite).compute()
    labels = dict(zip(names, ("by inter-ocular distance", "by box size"), strict=True))
    lines = {labels[n]: error_curve(errors) for n, errors in finite.items() if errors.size}
    return curves.landmark_error_curve(lines, figures["nme_auc"], figures["nme_failures"])


def _faces(run: Run, narrow: bool) -> Figure | None:
    stored = run.stored
    if "face_image" not in stored:
        return None
    return faces.landmark_faces(
        stored["face_image"],
        stored.get("face_landmarks_predicted"),
        stored.get("face_landmarks"),
        captions=[_caption(stored, row) for row in stored["face_row"]],
        columns=2 if narrow else 4,
    )


def _caption(stored: Mapping[str, np.ndarray], row: int) -> tuple[str, str, bool | None]:
    first, second, right = "", "", None
    if "probabilities" in stored:
        first, right = faces.prediction_text(
            stored["class_names"].tolist(),
            stored["probabilities"][row],
            int(stored["expression"][row]),
        )
    if "valence_arousal_predicted" in stored:
        pairs = zip(
            "VA", stored["valence_arousal_predicted"][row], stored["valence_arousal"][row],
            strict=True,
        )  # fmt: skip
        second = "  ".join(
            f"{letter} {value:+.2f}" + (f" ({true:+.2f})" if np.isfinite(true) else "")
            for letter, value, true in pairs
        )
    return first, second, right


FIGURES: dict[str, RunFigure] = {
    "training_curves": RunFigure(
        "Training",
        "Loss and validation metrics over training steps. Each stage of a run has its own loss; a "
        "grey line shows where the next stage begins. The training loss is the objective; the "
        "validation loss is the sum of negative log-likelihood, 1 - CCC and NME of the trained "
        "outputs.",
        _curves,
    ),
    "confusion_matrix": RunFigure(
        "Expressions",
        "Fraction of each true class (row) that was given each label, and the number of images. "
        "Classes of a hierarchy are ordered by coarse class; errors inside a frame stay within it.",
        _confusion,
    ),
    "calibration": RunFigure(
        "Calibration",
        "Accuracy of predictions of equal confidence. On the diagonal, a model that is 70 % sure "
        "is right 70 % of the time.",
        _calibration,
        is_wide=False,
    ),
    "valence_arousal": RunFigure(
        "Valence and arousal",
        "Above: labels and predictions on the circumplex. Below: predicted against true values; "
        "on the dashed line they are equal.",
        _circumplex,
    ),
    "landmark_error": RunFigure(
        "Landmark errors",
        "Fraction of images whose mean landmark error is at most the given part of the distance "
        "between the outer eye corners, or of the size of the box around the landmarks (square "
        "root of its area).",
        _landmark_error,
        is_wide=False,
    ),
    "faces": RunFigure(
        "Faces of the test split",
        "Spread evenly over the classes, independently of the predictions. Under each face the "
        "predicted expression with its probability (orange: wrong), and predicted valence (V) and "
        "arousal (A) with the true values in brackets.",
        _faces,
        dpi=120,
    ),
}
