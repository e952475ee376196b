"""The test of a run's selected checkpoint: read once, at the end, and recorded."""

import contextlib
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from affect_jax import batches as data_lib
from affect_jax import runtime
from affect_jax.evaluation.evaluator import Evaluation, Evaluator
from affect_jax.evaluation.results import counts, show
from affect_jax.metrics import calibration
from affect_jax.runtime import parallel
from data_pipelines.schema import Source
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)

PREDICTIONS = "report/predictions.npz"


def is_finished(workdir: pathlib.Path, total: int) -> bool:
    """True if the run in `workdir` has been to its end, `total` steps, and was tested there.

    A run without its predictions is not: it is tested again.
    """
    if not all((workdir / name).exists() for name in (runtime.METRICS_FILE, PREDICTIONS)):
        return False
    rows = runtime.read_metrics(workdir)
    return bool(rows) and bool(rows[-1].get("final")) and rows[-1]["step"] == total


def repeat(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, show_test: bool
) -> dict[str, float]:
    """Returns (and shows) what a finished run found, without reading the test split again.

    On the main process; the others have no metrics.
    """
    log.info("%s is finished; nothing is left to do", workdir)
    if not parallel.is_main_process():
        return {}
    final = runtime.read_metrics(workdir)[-1]
    metrics = {k: v for k, v in final.items() if k not in runtime.NOT_METRICS}
    if show_test:
        images = runtime.count_images(final.get("images", 0), final.get("images_total"))
        show(Evaluation(metrics), _title(images, final["checkpoint"]))
    if config.report.pictures and not _has_report(workdir):
        _draw_report(workdir)
    return metrics


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    evaluator: Evaluator,
    state: dict[str, Any],
    sources: Mapping[str, Source],
    writer: runtime.MetricWriter,
    *,
    at: tuple[int, int],
    tracks: np.ndarray | None,
    show_test: bool,
    cache: DataCache | None,
) -> Evaluation:
    """Tests a checkpoint; writes predictions, rows and, last of all, the report's pictures.

    Args:
      config: of the run.
      workdir: its folder.
      evaluator: of its model.
      state: of the checkpoint, on the devices.
      sources: split -> examples.
      writer: of the run's metrics.
      at: steps of the whole run, and of the checkpoint.
      tracks: of the test split's records, to smooth over; see `evaluate.tracks_to_smooth`.
      show_test: print the figures.
      cache: shares decoded images with other pipelines.
    """
    total, step = at
    source = sources["test"]
    with contextlib.ExitStack() as open_pipelines:
        batches = open_pipelines.enter_context(data_lib.eval_batches(config, source, cache))
        evaluation = evaluator.run(state, batches, keep_predictions=True, tracks=tracks)
        # Before the last row: a run that has it has its predictions too. A full disk ends all
        # processes alike.
        parallel.from_main(lambda: _write(config, workdir, evaluation, sources, batches))
        if evaluation.flip is not None:
            writer.write(total, "test_flip", evaluation.flip)
        if evaluation.video is not None:
            writer.write(total, "test_video", evaluation.video)
        if config.eval.calibrate and "logits" in evaluation.predictions:
            validation = data_lib.eval_batches(config, sources["validation"], cache)
            batches = open_pipelines.enter_context(validation)
            fitted = evaluator.run(state, batches, keep_predictions=True).predictions
            for split, figures in _calibrated(fitted, evaluation.predictions).items():
                writer.write(total, split, figures)
    final = {"checkpoint": step, **counts(evaluation, source), **evaluation.metrics}
    writer.write(total, "test", final, final=True)
    if show_test:
        images = runtime.count_images(evaluation.images, len(source))
        show(evaluation, _title(images, step))
    if parallel.is_main_process() and config.report.pictures:
        _draw_report(workdir)
    return evaluation


def _calibrated(
    fitted: Mapping[str, np.ndarray], tested: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    try:
        return calibration.baselines(fitted, tested)
    except ValueError as error:  # a split without labels must not cost the test
        log.warning("config.eval.calibrate: %s", error)
        return {}


def _write(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    evaluation: Evaluation,
    sources: Mapping[str, Source],
    batches: Any,
) -> None:
    from affect_jax import report

    report.write_about(workdir, sources)
    report.write_report(
        workdir,
        evaluation.predictions,
        sources["test"],
        batches=batches,
        face_count=config.report.faces,
        draw=False,
    )


def _title(images: str, step: int) -> str:
    return f"test split, {images}, checkpoint of step {step}"


def _has_report(workdir: pathlib.Path) -> bool:
    from affect_jax import report

    return (workdir / report.FOLDER / report.RESULTS_FILE).exists()


def _draw_report(workdir: pathlib.Path) -> None:
    from affect_jax import report

    report.render(workdir)
    log.info("report: %s", workdir / report.FOLDER)
