"""The model directory: what a trained or converted model is kept and handed on as.

DIR/model.json   format version, model name and constructor arguments, preprocessing,
                 class names, provenance
DIR/params/      Orbax checkpoint of {"params": {path: array}, "stats": {path: array}},
                 with paths such as "fan/stem_conv/kernel"
"""

import dataclasses
import json
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
from affect_jax.checkpoint import describe_arrays, first_differences
from affect_jax.errors import UserError
from affect_jax.observe import swap_folder
from affect_jax.train_state import take_apart

FORMAT = 1
MODEL_FILE = "model.json"
ARRAYS_FOLDER = "params"
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a uint8 RGB picture becomes the network's input.

    The picture is resized to `image_size` on both sides, divided by `scale`, and then
    (x - mean) / std is taken per channel. `fit` says how a picture that is no square gets there:
    "stretch" scales its sides apart, "cover" takes the largest square in its middle, "contain" the
    whole on black. With a `margin` only the middle 1 / (1 + margin) of the sides of that is seen.
    `crop_scale` is the side of the square that training cut around a face's landmarks, over the
    mean side of the box around them; 0: the model expects another frame, or it is not known.
    """

    image_size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 255.0
    fit: str = "stretch"
    crop_scale: float = 0.0
    margin: float = 0.0

    def __post_init__(self):
        if self.fit not in ("stretch", "cover", "contain"):
            raise UserError(
                f'preprocessing.fit is {self.fit!r}; use "stretch", "cover" or "contain"'
            )
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UserError(
                "preprocessing needs 3 means and 3 positive deviations, got "
                f"{self.mean}, {self.std}"
            )
        if self.image_size < 1 or not self.scale > 0 or min(self.crop_scale, self.margin) < 0:
            raise UserError(
                "preprocessing needs a positive image_size and scale, and no negative crop_scale "
                f"or margin, got {self.image_size}, {self.scale}, {self.crop_scale}, {self.margin}"
            )

    def normalise(self, images: Any, dtype: Any = jnp.float32) -> Any:
        """Network input from uint8 pictures [..., 3]; the size is left as it is."""
        scaled = jnp.asarray(images, dtype) / jnp.asarray(self.scale, dtype)
        return (scaled - jnp.asarray(self.mean, dtype)) / jnp.asarray(self.std, dtype)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model from a directory, in evaluation mode.

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
      UserError: if `directory` is something else than a model directory, or `state` does not fit
        `name` and `arguments`.
    """
    directory = pathlib.Path(directory).absolute()
    check_writable(directory)
    # With the name's preset as it is today: a later one must not change what was saved.
    arguments = {**models.entry(name).preset, **arguments}
    arguments = {k: _jsonable(v) for k, v in arguments.items() if k != "axis_name"}
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
    """The contents of `model.json`, checked for the format version.

    Raises:
      UserError: if `directory` is no model directory or was written by a newer version.
    """
    path = pathlib.Path(directory) / MODEL_FILE
    if not path.is_file():
        raise UserError(f"{directory} is not a model directory: it has no {MODEL_FILE}")
    try:
        record = json.loads(path.read_text())
        version = record["format"]
        for key in ("name", "arguments", "preprocessing"):
            record[key]
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
      UserError: if the arrays are missing or damaged.
    """
    folder = pathlib.Path(directory).absolute() / ARRAYS_FOLDER
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
      UserError: if it is missing, damaged, or its arrays do not fit its own description.
    """
    record = read_record(directory)
    arguments = {**record["arguments"], **overrides}
    try:
        model = models.create(record["name"], **arguments)
        preprocessing = Preprocessing(**record["preprocessing"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{pathlib.Path(directory) / MODEL_FILE}: {error}") from error
    arrays = read_arrays(directory)
    _check_fit(arrays, model, str(directory))
    return LoadedModel(
        with_arrays(model, arrays),
        record["name"],
        arguments,
        preprocessing,
        tuple(record.get("class_names", ())),
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
