"""The model directory: what a trained or converted model is kept and handed on as.

DIR/model.json   format version, model name and constructor arguments, preprocessing,
                 class names, provenance, checksums of the files in params/
DIR/params/      Orbax checkpoint of {"params": {path: array}, "stats": {path: array}},
                 with paths such as "fan/stem_conv/kernel"
"""

import dataclasses
import json
import logging
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

import affect_jax
from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.models.state import describe_arrays, first_differences, take_apart
from affect_jax.runtime import forks, swap_folder
from affect_jax.weights import checksums

log = logging.getLogger(__name__)

FORMAT = 1
MODEL_FILE = "model.json"
ARRAYS_FOLDER = "params"
_SHOWN = 10
_FIELDS = {"name": str, "arguments": dict, "preprocessing": dict}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model from a directory, in evaluation mode. It can be pickled.

    Attributes:
      model: the module.
      name, arguments: what `models.create` was called with.
      preprocessing: of its input.
      class_names: position = class id; empty if unknown or if there are no classes.
      provenance: where the weights come from, as recorded when they were saved.
    """

    model: nnx.Module
    name: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    provenance: dict[str, Any]

    def __reduce__(self):
        # Modules hold functions that cannot be pickled: made anew from the arrays.
        _, params, stats = take_apart(self.model)
        arrays = {
            part: {path: np.asarray(x) for path, x in named.items()}
            for part, named in (("params", params), ("stats", stats))
        }
        known = (self.preprocessing, self.class_names, self.provenance)
        return _assembled, (self.name, self.arguments, arrays, *known)


def _assembled(
    name: str,
    arguments: dict[str, Any],
    arrays: dict[str, dict[str, np.ndarray]],
    *known: Any,
) -> LoadedModel:
    forks.check()
    model = with_arrays(models.create(name, **arguments), arrays)
    return LoadedModel(model, name, arguments, *known)


def is_model_dir(path: str | pathlib.Path) -> bool:
    """True if `path` is a model directory."""
    return (pathlib.Path(path) / MODEL_FILE).is_file()


def check_writable(directory: str | pathlib.Path) -> None:
    """Raises UserError unless `directory` is new, empty or a model directory to be replaced."""
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a directory for the model")
    if directory.is_dir() and any(directory.iterdir()) and not is_model_dir(directory):
        raise UserError(
            f"{directory} is not empty and holds no {MODEL_FILE}; refusing to overwrite it"
        )


def save_model(
    directory: str | pathlib.Path,
    name: str,
    arguments: Mapping[str, Any],
    state: nnx.Module | Mapping[str, Mapping[str, Any]],
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model directory; it appears whole or not at all, and replaces an older one.

    Args:
      directory: where to.
      name, arguments: of `models.create`; dtypes may be given as objects, `axis_name` is dropped.
      state: the model, or `{"params": {path: array}, "stats": {path: array}}`.
      preprocessing: of the model's input.
      class_names: position = class id.
      provenance: JSON-able facts about the weights.

    Raises:
      UserError: if `directory` is something else than a model directory, `state` does not fit
        `name` and `arguments`, or there are not as many class names as classes.
    """
    directory = pathlib.Path(directory).absolute()
    check_writable(directory)
    # With the name's preset as it is today: a later one must not change what was saved.
    arguments = {**models.entry(name).preset, **arguments}
    arguments = {k: _jsonable(v) for k, v in arguments.items() if k != "axis_name"}
    _check_class_names(class_names, name, arguments, f"the model for {directory}")
    if isinstance(state, nnx.Module):
        _, params, stats = take_apart(state)
        state = {"params": params, "stats": stats}
    else:
        _check_fit(state, models.create(name, **arguments), f"the state given for {directory}")
    arrays = {
        part: {path: np.asarray(x) for path, x in state[part].items()}
        for part in ("params", "stats")
    }
    record = {
        "format": FORMAT,
        "affect_jax": affect_jax.__version__,
        "name": name,
        "arguments": arguments,
        "preprocessing": dataclasses.asdict(preprocessing),
        "class_names": list(class_names),
        "provenance": dict(provenance or {}),
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / ARRAYS_FOLDER, arrays)
        record["checksums"] = checksums.digests(partial / ARRAYS_FOLDER)
        (partial / MODEL_FILE).write_text(json.dumps(record, indent=2) + "\n")
        swap_folder(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    return jnp.dtype(value).name


def read_record(directory: str | pathlib.Path) -> dict[str, Any]:
    """The contents of `model.json`, checked for the format version and the kinds of its fields.

    Raises:
      UserError: if `directory` is no model directory or was written by a newer version.
    """
    path = pathlib.Path(directory) / MODEL_FILE
    if not path.is_file():
        raise UserError(f"{directory} is not a model directory: it has no {MODEL_FILE}")
    try:
        record = json.loads(path.read_text())
        version = record["format"]
        for key, kind in _FIELDS.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"{key} is not a {kind.__name__}")
        if not isinstance(record.get("checksums", {}), dict):
            raise TypeError("checksums is not a dict")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error!r}") from error
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version}, this version of affect_jax reads {FORMAT}; "
            f"it was written by affect_jax {record.get('affect_jax', '?')}"
        )
    return record


def read_arrays(directory: str | pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """`{"params": {path: array}, "stats": {path: array}}` of a model directory.

    Raises:
      UserError: if the arrays are missing, or not those that were saved.
    """
    folder = pathlib.Path(directory).absolute() / ARRAYS_FOLDER
    recorded = read_record(directory).get("checksums")
    if not recorded:
        log.info("%s has no checksums: it cannot be told whether its files are whole", directory)
    elif folder.is_dir() and (faults := checksums.verify(folder, recorded)):
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(
            f"{folder} is damaged; copy or export the model again:\n  "
            + "\n  ".join(faults[:_SHOWN])
            + more
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder)
    except Exception as error:  # Orbax raises many kinds for missing and truncated files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder} cannot be read: {reason[0]}") from error


def load_model(directory: str | pathlib.Path, **overrides: Any) -> LoadedModel:
    """Opens a model directory.

    Args:
      directory: written by `save_model` or `python -m affect_jax.convert`.
      **overrides: constructor arguments to replace, such as `dtype="bfloat16"`.

    Raises:
      UserError: if it is missing, damaged, or its arrays or class names do not fit its own
        description.
    """
    forks.check()
    record = read_record(directory)
    described = f"{pathlib.Path(directory) / MODEL_FILE}"
    arguments = {**record["arguments"], **overrides}
    try:
        model = models.create(record["name"], **arguments)
        preprocessing = Preprocessing(**record["preprocessing"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{described}: {error}") from error
    arrays = read_arrays(directory)
    _check_fit(arrays, model, str(directory))
    class_names = record.get("class_names", ())
    _check_class_names(class_names, record["name"], arguments, described)
    return LoadedModel(
        with_arrays(model, arrays),
        record["name"],
        arguments,
        preprocessing,
        tuple(class_names),
        record.get("provenance", {}),
    )


def with_arrays(model: nnx.Module, arrays: Mapping[str, Mapping[str, Any]]) -> nnx.Module:
    """A copy of `model` with these parameters and statistics, in evaluation mode.

    Arrays take the dtypes of the model's own.
    """
    blueprint, *own = take_apart(model)
    converted = (
        {path: jnp.asarray(arrays[part][path], like.dtype) for path, like in named.items()}
        for part, named in zip(("params", "stats"), own, strict=True)
    )
    built = blueprint.build(*converted)
    built.eval()
    return built


def _check_class_names(
    class_names: Sequence[str], name: str, arguments: Mapping[str, Any], where: str
) -> None:
    if not isinstance(class_names, list | tuple) or not all(
        isinstance(one, str) and one.strip() for one in class_names
    ):
        raise UserError(f"{where}: class_names must be a list of names, got {class_names!r}")
    twice = sorted({one for one in class_names if list(class_names).count(one) > 1})
    if twice:
        raise UserError(f"{where}: class_names holds {', '.join(twice)} more than once")
    classes = arguments.get("n_expression", models.default(name, "n_expression"))
    if class_names and classes and len(class_names) != classes:
        raise UserError(
            f"{where}: {len(class_names)} class_names ({', '.join(class_names)}), but the model "
            f"has {classes} classes; name each, in the order of their ids, or give an empty list"
        )


def _check_fit(arrays: Mapping[str, Mapping[str, Any]], model: nnx.Module, where: str) -> None:
    _, params, stats = take_apart(model)
    lines = first_differences(
        describe_arrays(arrays), describe_arrays({"params": params, "stats": stats})
    )
    if lines:
        more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise UserError(
            f"{where} does not hold the arrays of its model:\n  "
            + "\n  ".join(lines[:_SHOWN])
            + more
        )
