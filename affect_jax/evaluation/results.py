"""What an evaluation prints and records: table, row of figures, predictions."""

import os
import pathlib
from collections.abc import Mapping

import ml_collections

from affect_jax import batches as data_lib
from affect_jax import runtime
from affect_jax.evaluation import context_rows, evaluation_folder
from affect_jax.evaluation.evaluator import Evaluation
from affect_jax.runtime.parallel import is_main_process
from affect_jax.systems.base import System
from data_pipelines.schema import Source

# Suffix of a split's name -> column of the results table.
_COLUMNS = {"": "plain", "flip": "flip-averaged", "video": "video-smoothed"}


def show(figures: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Print the results of a split, by `test`, `test_flip`, `test_video`, `test_CONTEXT`."""
    if is_main_process():
        columns = {}
        for name, values in figures.items():
            end = name.partition("_")[2]
            if heading := _COLUMNS.get(end) or context_rows.column(end):
                columns[heading] = values
        note = "".join(dict.fromkeys(map(_left_out, columns.values())))
        print(f"\n{title}\n{runtime.results_table(columns)}\n{note}", flush=True)


def _left_out(figures: Mapping[str, float]) -> str:
    """Return a line that says why macro scores are over some of the classes alone; or ""."""
    there = sum(name.startswith("recall_") for name in figures)
    counted = int(figures.get("classes_counted", there))
    if counted == there:
        return ""
    return (
        f"Macro scores are over {counted} of the {there} classes with images; the others have "
        "fewer than config.eval.min_count.\n"
    )


def record(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    result: Evaluation,
    source: Source,
    system: System,
    step: int,
    what: str,
    *,
    model: str | os.PathLike = "",
    digest: str = "",
) -> pathlib.Path | None:
    """Show an evaluation; add it to `eval.jsonl` and `report/evaluations`.

    Returns the folder of its predictions; None except on the main process.

    Args:
      config: with the data and the split that were evaluated.
      workdir: where to.
      result: with its predictions.
      source: of the split.
      system: of the model; gives the classes and the tree over them.
      step: of its checkpoint.
      what: name of the model in the title.
      model: the model directory, if it was not one of the run's own checkpoints.
      digest: of the model in that directory.
    """
    if not is_main_process():
        return None
    split, place = config.eval.split, data_lib.place_of(config.data)
    title = f"{split} split of {' '.join(place.values())}, {what}"
    show(result.of_split(split), f"{title}: {runtime.count_images(result.images, len(source))}")
    folder = evaluation_folder.write(
        workdir, config, step, result.predictions, source, system, model=model, digest=digest
    )
    about = {**place, "report": str(folder.relative_to(workdir))}
    about |= {"model": str(model)} if model else {}
    with runtime.MetricWriter(workdir, append=True) as writer:
        for name, metrics in result.of_split(split).items():
            values = {"checkpoint": step, **counts(result, source), **metrics}
            writer.write(step, name, values, about=about)
    return folder


def counts(result: Evaluation, source: Source) -> dict[str, int]:
    """Return how many images were evaluated, and how many the split has."""
    return {"images": result.images, "images_total": len(source)}
