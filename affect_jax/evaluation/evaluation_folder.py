"""The folder that `--mode=eval` writes for each data set, split and checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import ml_collections
import numpy as np

from affect_jax import config as config_lib
from affect_jax.batches import place_of
from affect_jax.evaluation import predictions
from affect_jax.runtime import REPORT_FOLDER, replace_folder, write_atomically
from affect_jax.systems.base import System
from data_pipelines.schema import Source

_FOLDER = f"{REPORT_FOLDER}/evaluations"
RECORD = "evaluation.json"


def write(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    step: int,
    outputs: Mapping[str, np.ndarray],
    source: Source,
    system: System,
    *,
    model: str | os.PathLike = "",
    digest: str = "",
) -> Path:
    """Store the predictions of an evaluation and return their folder.

    The folder appears complete and replaces an earlier one of the same evaluation. It holds
    `predictions.npz`, `predictions.csv` and `evaluation.json`, which says what was measured.

    Args:
        workdir: of the run.
        config: with the data that were evaluated.
        step: of the checkpoint.
        outputs: per-example labels and predictions, as in `predictions.gather`.
        source: of the examples.
        system: of the model; gives the classes and the tree over them.
        model: the model directory, unless a checkpoint of the run was evaluated.
        digest: of the model in that directory, see `LoadedModel.digest`.
    """
    names = [source.describe(int(i)) for i in outputs["index"]]
    stored = predictions.gather(
        outputs,
        system.class_names,
        names,
        hierarchy=system.hierarchy,
        attributes=predictions.attributes_of(source),
    )
    own = {"model": str(Path(model).resolve())} if model else {}
    record = {
        **own,
        **({"model_sha256": digest} if digest else {}),
        **place_of(config.data),
        "split": config.eval.split,
        "checkpoint": step,
        "images": len(stored["index"]),
        "images_total": len(source),
        "data": config_lib.to_plain(config)["data"],
    }
    folder = Path(workdir) / _FOLDER / _name(config, step, own)
    with replace_folder(folder) as partial:
        predictions.save(partial, stored)
        content = json.dumps(record, indent=1) + "\n"
        write_atomically(partial / RECORD, content.encode())
    return folder


def all_of(workdir: str | os.PathLike) -> list[Path]:
    """Return the folders of all evaluations of a run."""
    return sorted(path.parent for path in (Path(workdir) / _FOLDER).glob(f"*/{RECORD}"))


def _name(config: ml_collections.ConfigDict, step: int, own: Mapping[str, str]) -> str:
    """Return a folder name unique to data, split, crop, step and model directory."""
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
