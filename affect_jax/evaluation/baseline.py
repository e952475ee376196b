"""Scores of simple baselines, which a run must beat.

The command is `python -m affect_jax.evaluation.baseline --workdir DIR`.

Two simple predictors are fitted on the training images of a run, cropped in the same way: class
frequencies and label means, and linear models (logistic and ridge regression) of 32 x 32 grey
pixels. A score of the run means something only above theirs.
"""

import argparse
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping

import cv2
import ml_collections
import numpy as np
import scipy.optimize

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, runtime
from affect_jax.errors import UserError
from affect_jax.evaluation.evaluator import Predictions
from affect_jax.metrics.base import MetricSet
from data_pipelines.schema import DataError

log = logging.getLogger(__name__)

SIDE = 32
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_LABELS = ("expression", "valence_arousal")
_SHOWN = (
    "accuracy", "balanced_accuracy", "f1_macro", "valence_ccc", "valence_rmse", "arousal_ccc",
    "arousal_rmse",
)  # fmt: skip

Split = dict[str, np.ndarray]  # `pixels` float32 [n, 1024] and the labels


def grey_pixels(images: np.ndarray) -> np.ndarray:
    """Return float32 [B, 1024] in [0, 1] of uint8 RGB images [B, H, W, 3]."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    small = [cv2.resize(g, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for g in grey]
    return np.array(small, np.float32).reshape(len(small), SIDE * SIDE) / 255


def read_split(batches: Iterable[Mapping[str, np.ndarray]]) -> Split:
    """Return pixels and labels of one pass, without padding."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("pixels", *_LABELS)}
    for batch in batches:
        columns = {**batch, "pixels": grey_pixels(batch["image"])}
        for name, rows in parts.items():
            rows.append(np.asarray(columns[name])[batch["mask"]])
    return {name: np.concatenate(rows) for name, rows in parts.items()}


class Standardiser:
    """Makes features of pixels: standardised per image, then over the training images.

    The first step removes brightness and contrast. A constant feature is added at the end.
    """

    def __init__(self, pixels: np.ndarray):
        own = self._own(pixels)
        self._mean, self._deviation = own.mean(0), own.std(0) + 1e-3

    @staticmethod
    def _own(pixels: np.ndarray) -> np.ndarray:
        centred = pixels - pixels.mean(1, keepdims=True)
        return centred / (centred.std(1, keepdims=True) + 1e-3)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        features = (self._own(pixels) - self._mean) / self._deviation
        ones = np.ones((len(features), 1), features.dtype)
        return np.concatenate([features, ones], axis=1)


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float, steps: int = 100
) -> np.ndarray:
    """Return weights [D, N] of logistic regression with an L2 penalty, by L-BFGS.

    Args:
      features: float [n, D]; the last one is constant and not penalised.
      labels: int [n], at least 0.
      num_classes: N.
      penalty: factor of half the squared weights, added to the mean negative log-likelihood.
      steps: iterations at most.
    """
    target = np.eye(num_classes, dtype=features.dtype)[labels]
    shape = (features.shape[1], num_classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape).astype(features.dtype)
        scores = features @ weights
        scores -= scores.max(1, keepdims=True)
        log_probability = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        shrunk = weights.copy()
        shrunk[-1] = 0
        value = -(target * log_probability).sum() / len(target) + penalty / 2 * (shrunk**2).sum()
        gradient = features.T @ (np.exp(log_probability) - target) / len(target)
        return float(value), (gradient + penalty * shrunk).ravel().astype(np.float64)

    found = scipy.optimize.minimize(
        objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps}
    )
    return found.x.reshape(shape)


def fit_ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Return weights [D, K] of ridge regression; the last feature is constant."""
    shrink = np.full(features.shape[1], penalty * len(features))
    shrink[-1] = 0
    return np.linalg.solve(features.T @ features + np.diag(shrink), features.T @ targets)


def _constant(train: Split, count: int, num_classes: int, has: frozenset[str]) -> Predictions:
    """Return `count` equal predictions: class frequencies and label means."""
    outputs = {}
    if "expression" in has:
        labels = train["expression"]
        frequency = np.bincount(labels[labels >= 0], minlength=num_classes) + 1e-9
        outputs["logits"] = np.tile(np.log(frequency / frequency.sum()), (count, 1))
    if "valence_arousal" in has:
        mean = np.nanmean(train["valence_arousal"], axis=0)
        outputs |= _circumplex(np.tile(mean, (count, 1)))
    return outputs


def _linear(splits: Mapping[str, Split], num_classes: int, has: frozenset[str]) -> Predictions:
    """Return test predictions of linear models, penalties chosen on validation."""
    standardise = Standardiser(splits["train"]["pixels"])
    features = {name: standardise(split["pixels"]) for name, split in splits.items()}

    def predict(field: str, known: Callable, fit: Callable, error: Callable) -> np.ndarray:
        labels = {name: split[field] for name, split in splits.items()}
        rows = {name: known(column) for name, column in labels.items()}
        x, y = features["train"][rows["train"]], labels["train"][rows["train"]]
        fits = [fit(x, y, penalty) for penalty in _PENALTIES]
        held_out = rows["validation"]
        errors = [
            error((features["validation"] @ weights)[held_out], labels["validation"][held_out])
            for weights in fits
        ]
        return features["test"] @ fits[int(np.argmin(errors))]

    outputs = {}
    if "expression" in has:
        outputs["logits"] = predict(
            "expression",
            known=lambda labels: labels >= 0,
            fit=lambda x, y, penalty: fit_logistic(x, y, num_classes, penalty),
            error=lambda scores, labels: (scores.argmax(1) != labels).sum(),
        )
    if "valence_arousal" in has:
        values = predict(
            "valence_arousal",
            known=lambda values: np.isfinite(values).all(1),
            fit=fit_ridge,
            error=lambda values, true: np.square(values - true).sum(),
        )
        outputs |= _circumplex(values)
    return outputs


def _circumplex(values: np.ndarray) -> Predictions:
    return {"valence": values[:, 0], "arousal": values[:, 1]}


def measure(config: ml_collections.ConfigDict) -> dict[str, dict[str, float]]:
    """Return the test metrics of both predictors on the data of a config.

    `images` and `images_total` count the test images that could be read, and all of them.

    Raises:
      UserError, DataError: if the data cannot be read.
    """
    sources = data_lib.make_sources(config)
    train = sources["train"]
    if data_lib.n_features(train):
        raise UserError(
            "these baselines are linear models of images, and the run was trained on stored "
            "features; a linear model of those is configs/linear_probe.py"
        )
    class_names = tuple(train.class_names)
    has = frozenset(train.has) & set(_LABELS)
    splits = {}
    for name, source in sources.items():
        with data_lib.eval_batches(config, source) as batches:
            splits[name] = read_split(batches)
        log.info("%s: %s", name, runtime.count_images(len(splits[name]["pixels"]), len(source)))
    images = len(splits["test"]["pixels"])
    predictions = {
        "constant": _constant(splits["train"], images, len(class_names), has),
        "linear, 32 x 32 grey pixels": _linear(splits, len(class_names), has),
    }
    results = {}
    for name, outputs in predictions.items():
        metrics = MetricSet(
            has=has,
            num_classes=len(class_names),
            class_names=class_names,
            min_count=config.eval.min_count,
        ).update(outputs, splits["test"])
        counts = {"images": images, "images_total": len(sources["test"])}
        results[name] = counts | metrics.compute()
    return results


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write `report/baseline.json`; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m affect_jax.evaluation.baseline", description=__doc__
    )
    parser.add_argument("--workdir", required=True, help="folder of a run")
    workdir = pathlib.Path(parser.parse_args(arguments).workdir)
    runtime.setup_logging()
    try:
        config = config_lib.read_workdir_config(workdir)
        data_record.check_own(workdir, config, data_lib.make_sources(config))
        results = measure(config)
        path = workdir / "report" / "baseline.json"
        path.parent.mkdir(exist_ok=True)
        runtime.write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    except (UserError, DataError, OSError) as error:
        log.error("%s", error)
        return 2
    rows = results
    if (workdir / runtime.METRICS_FILE).exists():
        final = [row for row in runtime.read_metrics(workdir) if row.get("final")]
        rows = {"this run": final[-1], **results} if final else results
    first = next(iter(results.values()))
    images = runtime.count_images(int(first["images"]), int(first["images_total"]))
    shown = [m for m in _SHOWN if any(m in row for row in results.values())]
    print(runtime.results_table(rows, metrics=shown, title=f"test split, {images}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
