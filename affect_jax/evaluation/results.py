"""What an evaluation shows and leaves: table, row of figures, predictions."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ml_collections

from affect_jax import batches as data_lib
from affect_jax import runtime
from affect_jax.evaluation import evaluation_folder
from affect_jax.runtime.parallel import is_main_process
from data_pipelines.schema import Source

if TYPE_CHECKING:
    from affect_jax.evaluation.evaluator import Evaluation


def show(evaluation: Evaluation, title: str) -> None:
    """Prints the results table of an evaluation."""
    rows = {"plain": evaluation.metrics}
    if evaluation.flip is not None:
        rows["flip-averaged"] = evaluation.flip
    if evaluation.video is not None:
        rows["video-smoothed"] = evaluation.video
    if is_main_process():
        print(f"\n{title}\n{runtime.results_table(rows)}\n", flush=True)


def record(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    result: Evaluation,
    source: Source,
    class_names: Sequence[str],
    step: int,
    what: str,
    *,
    model: str | os.PathLike = "",
) -> pathlib.Path | None:
    """Shows an evaluation and adds it to `eval.jsonl` and `report/evaluations` of `workdir`.

    Returns the folder of its predictions; None except on the main process.

    Args:
      config: with the data and the split that were evaluated.
      workdir: where to.
      result: with its predictions.
      source: of the split.
      class_names: the model's.
      step: of its checkpoint.
      what: names the model in the title.
      model: the model directory, if it was none of the run's own checkpoints.
    """
    if not is_main_process():
        return None
    split, place = config.eval.split, data_lib.place_of(config.data)
    title = f"{split} split of {' '.join(place.values())}, {what}"
    show(result, f"{title}: {runtime.count_images(result.images, len(source))}")
    folder = evaluation_folder.write(
        workdir, config, step, result.predictions, source, class_names, model=model
    )
    about = {**place, "report": str(folder.relative_to(workdir))}
    about |= {"model": str(model)} if model else {}
    with runtime.MetricWriter(workdir, append=True) as writer:
        for suffix in ("", "_flip", "_video"):
            metrics = getattr(result, suffix[1:] or "metrics")
            if metrics is not None:
                values = {"checkpoint": step, **counts(result, source), **metrics}
                writer.write(step, f"{split}{suffix}", values, about=about)
    return folder


def counts(result: Evaluation, source: Source) -> dict[str, int]:
    """Fields of a row of metrics: images that were evaluated, and those of the split."""
    return {"images": result.images, "images_total": len(source)}
