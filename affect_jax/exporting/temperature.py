"""The temperature of an exported model, from what its run has measured on validation images."""

import json
import logging
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.errors import UserError
from affect_jax.evaluation import evaluation_folder, predictions
from affect_jax.metrics.calibration import fit_temperature

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


def of_evaluation(folder: pathlib.Path, model: pathlib.Path) -> float:
    """Return the temperature that fits an evaluation of a model directory best.

    Args:
      folder: that `--mode=eval --config.init_from=MODEL` has written.
      model: the model directory.

    Raises:
      UserError: the folder holds no evaluation, or one of another model or on the test split.
    """
    try:
        record = json.loads((folder / evaluation_folder.RECORD).read_text())
        if record.get("model") != str(model.resolve()):
            of = record.get("model", f"step {record['checkpoint']} of a run")
            raise UserError(f"{_option(folder)}: it is an evaluation of {of}, not of {model}")
        if record["split"] == "test":
            raise UserError(
                f"{_option(folder)}: it is an evaluation on the test split, whose results would "
                "then be too good; evaluate the model on validation images"
            )
        return _fit(folder)
    except _UNREADABLE as error:
        raise UserError(
            f"{_option(folder)}: it holds no evaluation with expressions ({error}); give the "
            "folder that `python -m affect_jax.main --mode=eval --config.init_from="
            f"{model} --config.eval.split={_SPLIT}` names"
        ) from error


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
