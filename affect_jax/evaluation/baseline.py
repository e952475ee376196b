"""`python -m affect_jax.evaluation.baseline --workdir DIR`: what the test split of a run is worth.

Two predictors that look at hardly anything are fitted on the same training pictures, cut out in the
same way: the class frequencies and label means, and linear models (logistic and ridge regression)
of 32 x 32 grey pixels. A score only means something above these.
"""

import argparse
import json
import logging
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import ml_collections
import numpy as np
import scipy.optimize

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, runtime
from affect_jax.errors import UserError
from affect_jax.metrics.base import MetricSet
from data_pipelines.schema import DataError

log = logging.getLogger(__name__)

SIDE = 32
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_LABELS = ("expression", "valence_arousal")

Split = dict[str, np.ndarray]


def grey_pixels(images: np.ndarray) -> np.ndarray:
    """float32 [B, 1024] in [0, 1] of uint8 RGB pictures [B, H, W, 3]."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    small = [cv2.resize(g, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for g in grey]
    return np.float32(small).reshape(len(small), SIDE * SIDE) / 255


def read_split(batches: Iterable[Mapping[str, np.ndarray]]) -> Split:
    """`pixels` [n, 1024] and the labels of one pass, without padding."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        real = np.asarray(batch["mask"])
        columns = {"pixels": grey_pixels(batch["image"])}
        columns |= {name: np.asarray(batch[name]) for name in _LABELS}
        for name, column in columns.items():
            parts.setdefault(name, []).append(column[real])
    return {name: np.concatenate(columns) for name, columns in parts.items()}


class Standardiser:
    """Pixels with mean 0 and deviation 1 over the training pictures, after the same for each
    picture (which takes brightness and contrast away)."""

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
    """Weights [D, N] of multinomial logistic regression with an L2 penalty, by L-BFGS.

    Args:
      features: float [n, D], the last one constant (it is not penalised).
      labels: int [n], at least 0.
      penalty: of half the squared weights, beside the mean negative log-likelihood.
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
    """Weights [D, K] of ridge regression; the last feature is constant and not penalised."""
    shrink = np.full(features.shape[1], penalty * len(features))
    shrink[-1] = 0
    return np.linalg.solve(features.T @ features + np.diag(shrink), features.T @ targets)


def _outputs(scores: np.ndarray | None, values: np.ndarray | None) -> dict[str, np.ndarray]:
    outputs = {} if scores is None else {"logits": scores}
    if values is not None:
        outputs |= {"valence": values[:, 0], "arousal": values[:, 1]}
    return outputs


def _constant(train: Split, count: int, num_classes: int, has: frozenset[str]) -> dict:
    scores = values = None
    if "expression" in has:
        labels = train["expression"]
        frequency = np.bincount(labels[labels >= 0], minlength=num_classes) + 1e-9
        scores = np.tile(np.log(frequency / frequency.sum()), (count, 1))
    if "valence_arousal" in has:
        values = np.tile(np.nanmean(train["valence_arousal"], axis=0), (count, 1))
    return _outputs(scores, values)


def _linear(splits: Mapping[str, Split], num_classes: int, has: frozenset[str]) -> dict:
    """Predictions for the test split; each penalty is the best one on the validation split."""
    standardise = Standardiser(splits["train"]["pixels"])
    features = {name: standardise(split["pixels"]) for name, split in splits.items()}
    scores = values = None
    if "expression" in has:
        known = {name: split["expression"] >= 0 for name, split in splits.items()}
        fits = [
            fit_logistic(
                features["train"][known["train"]],
                splits["train"]["expression"][known["train"]],
                num_classes,
                penalty,
            )
            for penalty in _PENALTIES
        ]
        rows, labels = known["validation"], splits["validation"]["expression"]
        right = [
            ((features["validation"] @ w).argmax(1) == labels)[rows].mean() if rows.any() else 0.0
            for w in fits
        ]
        scores = features["test"] @ fits[int(np.argmax(right))]
    if "valence_arousal" in has:
        whole = {k: np.isfinite(s["valence_arousal"]).all(1) for k, s in splits.items()}
        fits = [
            fit_ridge(
                features["train"][whole["train"]],
                splits["train"]["valence_arousal"][whole["train"]],
                penalty,
            )
            for penalty in _PENALTIES
        ]
        wrong = [
            np.square(features["validation"] @ w - splits["validation"]["valence_arousal"])[
                whole["validation"]
            ].sum()
            for w in fits
        ]
        values = features["test"] @ fits[int(np.argmin(wrong))]
    return _outputs(scores, values)


def measure(config: ml_collections.ConfigDict) -> dict[str, dict[str, float]]:
    """Test metrics of both predictors on the data of a config, and `images` and `images_total`:
    the test images that could be read, and all of them.

    Args:
      config: see `configs/base.py`; `data`, `eval` and `batch_size` are read.

    Raises:
      UserError, DataError: if the data cannot be read.
    """
    sources = data_lib.make_sources(config)
    train = sources["train"]
    has = frozenset(train.has) & {"expression", "valence_arousal"}
    splits = {}
    for name, source in sources.items():
        with data_lib.eval_batches(config, source) as batches:
            splits[name] = read_split(batches)
        log.info("%s: %s", name, runtime.count_images(len(splits[name]["pixels"]), len(source)))
    counts = {"images": len(splits["test"]["pixels"]), "images_total": len(sources["test"])}
    predictions = {
        "constant": _constant(
            splits["train"], len(splits["test"]["pixels"]), len(train.class_names), has
        ),
        "linear, 32 x 32 grey pixels": _linear(splits, len(train.class_names), has),
    }
    results = {}
    for name, outputs in predictions.items():
        metrics = MetricSet(
            has=has,
            num_classes=len(train.class_names),
            class_names=tuple(train.class_names),
            min_count=config.eval.min_count,
        )
        results[name] = counts | metrics.update(outputs, splits["test"]).compute()
    return results


def _own_rows(workdir: pathlib.Path) -> dict[str, Any]:
    if not (workdir / runtime.METRICS_FILE).exists():
        return {}
    final = [row for row in runtime.read_metrics(workdir) if row.get("final")]
    return {"this run": final[-1]} if final else {}


def main(arguments: list[str] | None = None) -> int:
    """Prints the table and writes `report/baseline.json`; returns the exit status."""
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
        content = json.dumps(results, indent=1) + "\n"
        runtime.write_atomically(path, content.encode())
    except (UserError, DataError, OSError) as error:
        log.error("%s", error)
        return 2
    shown = [m for m in _SHOWN if any(m in row for row in results.values())]
    rows = _own_rows(workdir) | results
    first = next(iter(results.values()))
    images = runtime.count_images(first["images"], first["images_total"])
    print(runtime.results_table(rows, metrics=shown, title=f"test split, {images}"))
    return 0


_SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "valence_ccc",
    "valence_rmse",
    "arousal_ccc",
    "arousal_rmse",
)


if __name__ == "__main__":
    sys.exit(main())
