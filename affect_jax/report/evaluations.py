"""What `--mode=eval` leaves beside its figures: a folder for each data set, split and step."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from affect_jax import config as config_lib
from affect_jax.batches import place_of
from affect_jax.evaluation import predictions
from affect_jax.report.build import Source
from affect_jax.report.figures import confusion, style
from affect_jax.report.run import FOLDER
from affect_jax.runtime import replace_folder, write_atomically

EVALUATIONS_FOLDER = f"{FOLDER}/evaluations"


def write(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    step: int,
    outputs: Mapping[str, np.ndarray],
    source: Source,
    class_names: Sequence[str],
    *,
    model: str | os.PathLike = "",
) -> Path:
    """Stores the predictions of an evaluation and draws its confusion matrix.

    The folder appears whole and replaces that of the same evaluation: `predictions.npz` and
    `predictions.csv` as those of the test, `confusion_matrix.png` where there are classes, and
    `evaluation.json`, which says what was measured.

    Args:
        workdir: of the run.
        config: with the data that were evaluated.
        step: of the checkpoint.
        outputs: per-example labels and predictions, in the form that `predictions.gather` reads.
        source: what the examples come from.
        class_names: the model's.
        model: the model directory, if it was none of the run's own checkpoints.

    Returns:
        The folder.
    """
    names = [source.describe(int(i)) for i in outputs["index"]]
    stored = predictions.gather(outputs, class_names, names)
    plain = config_lib.to_plain(config)
    own = {"model": str(Path(model).resolve())} if model else {}
    record = {
        **own,
        **place_of(config.data),
        "split": config.eval.split,
        "checkpoint": step,
        "images": len(stored["index"]),
        "images_total": len(source),
        "data": plain["data"],
    }
    folder = Path(workdir) / EVALUATIONS_FOLDER / _name(config, step, own)
    with replace_folder(folder) as partial:
        predictions.save(partial, stored)
        if confusion.has_labels(stored):
            picture = style.png(confusion.stored_confusion_matrix(stored, config.eval.min_count))
            write_atomically(partial / "confusion_matrix.png", picture)
        content = json.dumps(record, indent=1) + "\n"
        write_atomically(partial / "evaluation.json", content.encode())
    return folder


def _name(config: ml_collections.ConfigDict, step: int, own: Mapping[str, str]) -> str:
    """A folder name that no other data, split, crop, step or model directory has."""
    place = place_of(config.data)
    data = {
        key: value
        for key, value in config_lib.flatten(config_lib.to_plain(config)).items()
        if key.startswith("data.") and not config_lib.is_free(key)
    }
    data |= {f"data.{key}": value for key, value in place.items()} | dict(own)
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:6]
    named = place.get("dataset", "").replace("/", "-")
    named = named or Path(place.get(config.data.source, config.data.source)).stem
    of = Path(own["model"]).name if own else f"step{step}"
    return f"{named}_{config.eval.split}_{of}_{digest}"
