"""One run as `--mode=train` does it: trained and tested, then shown."""

import logging
import pathlib

import ml_collections

from affect_jax import report, runtime
from affect_jax.evaluation.results import show
from affect_jax.runtime.parallel import is_main_process
from affect_jax.training import loop
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)


def train_run(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    show_test: bool = True,
    cache: DataCache | None = None,
) -> loop.Results:
    """Train and test a run, print its results table and draw its report.

    A finished run is only shown; its report is drawn if there is none.

    Args:
      config: see `configs/base.py`.
      workdir: folder of the run.
      show_test: print the test figures, which are recorded in any case.
      cache: shares sources and decoded images with other runs.

    Raises:
      UserError, Stopped: as `loop.train_and_evaluate`.
    """
    results = loop.train_and_evaluate(config, workdir, cache=cache)
    if not is_main_process():
        return results
    if show_test:
        images = runtime.count_images(results.images, results.images_total)
        show(results.splits, f"test split, {images}, checkpoint of step {results.step}")
    folder = results.workdir / runtime.REPORT_FOLDER
    drawn = results.evaluation is None and (folder / report.RESULTS_FILE).exists()
    if config.report.pictures and not drawn:
        report.render(results.workdir)
        log.info("report: %s", folder)
    return results
