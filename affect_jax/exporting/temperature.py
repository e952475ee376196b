"""The temperature of an exported model, from what its run has measured on validation images."""

import json
import logging
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from affect_jax import batches, runtime
from affect_jax import config as config_lib
from affect_jax.errors import UserError
from affect_jax.evaluation import evaluation_folder, predictions
from affect_jax.metrics.calibration import fit_temperature
from affect_jax.weights.model_dir import LoadedModel
from data_pipelines.sources.make import ALL

log = logging.getLogger(__name__)

AUTO = "auto"
_SPLIT = "validation"
_UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile)


def fitted(workdir: pathlib.Path, step: int, config: Mapping[str, Any]) -> float:
    """Return the temperature that fits the validation split best.

    It is fitted on the predictions that `--mode=eval --config.eval.split=validation` has stored.
    Without them it is the one that the run itself has fitted (`config.eval.calibrate`).

    Args:
      workdir: of the run.
      step: of the checkpoint.
      config: of the run, plain.

    Raises:
      UserError: there is neither, or they are of another checkpoint or data.
    """
    for folder in evaluation_folder.all_of(workdir):
        try:
            record = json.loads((folder / evaluation_folder.RECORD).read_text())
            own = "model" not in record and record["checkpoint"] == step
            if not own or record["split"] != _SPLIT or not _same(record["data"], config["data"]):
                continue
            return _fit(folder)
        except _UNREADABLE as error:
            log.warning("%s gives no temperature: %s", folder, error)
    rows = runtime.read_metrics(workdir) if (workdir / runtime.METRICS_FILE).exists() else []
    tested = {row["step"] for row in rows if row.get("final") and row.get("checkpoint") == step}
    for row in reversed(rows):
        if row["split"] == "test_temperature" and row["step"] in tested:
            return float(row["temperature"])
    raise UserError(
        f"--temperature {AUTO}: {workdir} has no predictions of step {step} on its validation "
        "split; make them with `python -m affect_jax.main --mode=eval --config.eval.split="
        f"{_SPLIT} --workdir {workdir}`, or give a number"
    )


def of_evaluation(folder: pathlib.Path, loaded: LoadedModel, model: pathlib.Path) -> float:
    """Return the temperature that fits an evaluation of a model directory best.

    Args:
      folder: that `--mode=eval --config.init_from=MODEL` has written.
      loaded: the model.
      model: its directory.

    Raises:
      UserError: the folder holds no evaluation, or one of another model, or on images that the
        model may have been trained or is tested on.
    """
    try:
        record = json.loads((folder / evaluation_folder.RECORD).read_text())
        _check(record, folder, loaded, model)
        return _fit(folder)
    except _UNREADABLE as error:
        raise UserError(
            f"{_option(folder)}: it holds no evaluation with expressions ({error}); give the "
            "folder that `python -m affect_jax.main --mode=eval --config.init_from="
            f"{model} --config.eval.split={_SPLIT}` names"
        ) from error


def _check(
    record: Mapping[str, Any], folder: pathlib.Path, loaded: LoadedModel, model: pathlib.Path
) -> None:
    """Raise UserError unless a temperature may be fitted on an evaluation of a model."""
    if record.get("model_sha256") != loaded.digest():
        of = record.get("model", f"step {record['checkpoint']} of a run")
        if of == str(model.resolve()):
            of = f"other weights or settings than {model} has now"
        raise UserError(
            f"{_option(folder)}: it is an evaluation of {of}, not of {model}; evaluate {model} "
            f"with --mode=eval --config.init_from={model} --config.eval.split={_SPLIT}"
        )
    split = record["split"]
    if split == _SPLIT or (split == ALL and not _is_of_training(record, loaded)):
        return
    why = "the model was or may have been trained on these images"
    if split == "test":
        why = "results on the test split would then be too good"
    raise UserError(
        f"{_option(folder)}: it is an evaluation on the split {split}, and {why}; evaluate the "
        f"model on validation images, or with --config.eval.split={ALL} on other data"
    )


def _is_of_training(record: Mapping[str, Any], loaded: LoadedModel) -> bool:
    """Return whether an evaluation used the data that the run of a model was made of."""
    if (config := loaded.provenance.get("workdir_config")) is None:
        return False
    place = batches.place_of(ml_collections.ConfigDict(config["data"]))
    return all(record.get(key) == value for key, value in place.items())


def _option(folder: pathlib.Path) -> str:
    return f"--temperature {folder}"


def _fit(folder: pathlib.Path) -> float:
    with np.load(folder / predictions.ARRAYS_FILE) as stored:
        found = fit_temperature(stored["logits"], stored["expression"])
    if found.at_bound:
        log.warning("the temperature %g lies at the end of its range", found.value)
    return found.value


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two `config.data` describe the same images and crops."""

    def kept(data: Mapping[str, Any]) -> dict[str, Any]:
        leaves = config_lib.flatten({"data": data})
        return {key: value for key, value in leaves.items() if not config_lib.is_free(key)}

    return kept(one) == kept(other)
