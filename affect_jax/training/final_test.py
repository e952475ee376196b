"""The test of a run's best checkpoint: read once, at the end, and recorded."""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from affect_jax import batches as data_lib
from affect_jax import runtime
from affect_jax.evaluation import predictions, provenance
from affect_jax.evaluation.evaluator import Evaluation, Evaluator, tracks_to_smooth
from affect_jax.evaluation.results import counts
from affect_jax.metrics import calibration
from affect_jax.models.state import take_apart
from affect_jax.runtime import MetricWriter, parallel
from affect_jax.training import bank
from affect_jax.training.setup import RunParts

log = logging.getLogger(__name__)

PREDICTIONS = "report/predictions.npz"


@dataclasses.dataclass(frozen=True)
class Results:
    """What a finished run found.

    Attributes:
      workdir: its folder.
      step: of the best checkpoint, which was tested.
      splits: `test` and, where measured, `test_flip`, `test_video`, `test_temperature` and
        `test_mirror`, and `test_CONTEXT` (see `evaluation.contexts`) -> metric -> value.
      images: test images that were evaluated, and `images_total` of the split.
      state: the model of the best checkpoint, on the devices.
      evaluation: the test pass; None if the run was finished before this call.
    """

    workdir: pathlib.Path
    step: int
    splits: Mapping[str, Mapping[str, float]]
    images: int
    images_total: int
    state: dict[str, Any]
    evaluation: Evaluation | None = None

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics of the test split."""
        return self.splits["test"]


def is_finished(workdir: pathlib.Path, total: int) -> bool:
    """Return whether the run in `workdir` was trained for `total` steps and tested.

    A run without its predictions is not finished: it is tested again.
    """
    if not all((workdir / name).exists() for name in (runtime.METRICS_FILE, PREDICTIONS)):
        return False
    rows = runtime.read_metrics(workdir)
    return bool(rows) and bool(rows[-1].get("final")) and rows[-1]["step"] == total


def read(run: RunParts, step: int, state: dict[str, Any]) -> Results:
    """Return what a finished run found, from its rows; arguments as in `test`.

    Only the main process has figures: the others may not see the file.
    """
    if not parallel.is_main_process():
        return Results(run.workdir, step, {"test": {}}, 0, 0, state)
    rows = runtime.read_metrics(run.workdir)
    final = rows[-1]
    splits = {
        row["split"]: {k: v for k, v in row.items() if k not in runtime.NOT_METRICS}
        for row in (final, *rows)  # in the order of `test`
        if row["step"] == final["step"] and row["split"].startswith("test")
    }
    images = final.get("images", 0)
    total = final.get("images_total", images)
    return Results(run.workdir, final["checkpoint"], splits, images, total, state)


def test(run: RunParts, step: int, state: dict[str, Any], writer: MetricWriter) -> Results:
    """Test the best checkpoint; write predictions and rows, the final one last.

    Args:
      run: the run.
      step: of the best checkpoint.
      state: its model, on the devices.
      writer: of the run's metrics.
    """
    config, source = run.config, run.sources["test"]
    evaluator = Evaluator(
        run.system,
        run.mapper,
        take_apart(run.model)[0],
        flip=config.eval.flip,
        min_count=config.eval.min_count,
    )
    tracks = tracks_to_smooth(config, source)
    with data_lib.eval_batches(config, source, run.cache) as batches:
        evaluation = evaluator.run(state, batches, keep_predictions=True, tracks=tracks)
        # Before the final row, so that a run that has it has its predictions too. A full disk
        # ends all processes alike.
        parallel.from_main(lambda: _store(run, evaluation, batches))
    banks = bank.of_sizes(
        config.eval.bank_sizes, state, evaluator, config, lambda: run.sources["train"], run.cache
    )
    evaluation.contexts = evaluator.in_contexts(state, evaluation.predictions, banks)
    splits = evaluation.of_split("test")
    if config.eval.calibrate and "logits" in evaluation.predictions:
        with data_lib.eval_batches(config, run.sources["validation"], run.cache) as batches:
            fitted = evaluator.run(state, batches, keep_predictions=True).predictions
        splits |= _calibrated(fitted, evaluation.predictions)
    for split, figures in splits.items():
        if split != "test":
            writer.write(run.total, split, figures)
    final = {"checkpoint": step, **counts(evaluation, source), **evaluation.metrics}
    writer.write(run.total, "test", final, final=True)
    return Results(run.workdir, step, splits, evaluation.images, len(source), state, evaluation)


def _calibrated(
    fitted: Mapping[str, np.ndarray], tested: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    try:
        return calibration.baselines(fitted, tested)
    except ValueError as error:  # a split without labels must not cost the test
        log.warning("config.eval.calibrate: %s", error)
        return {}


def _store(run: RunParts, evaluation: Evaluation, batches: Iterable[Mapping[str, Any]]) -> None:
    """Write `about.json` and the predictions, with the images of a few faces."""
    provenance.write_about(run.workdir, run.sources)
    faces = run.config.report.faces
    if faces and run.system.labels.n_features:
        log.info("the data are features, so the report shows no faces")
        faces = 0
    predictions.write(
        run.workdir,
        evaluation.predictions,
        run.sources["test"],
        hierarchy=run.system.hierarchy,
        batches=batches,
        face_count=faces,
    )
