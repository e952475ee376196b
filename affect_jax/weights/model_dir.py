"""The model directory, in which a trained or converted model is kept and shared.

DIR/model.json   format version, model name and constructor arguments, preprocessing,
                 class names, tree over them, temperature, provenance, checksums of the
                 files in params/ and of itself
DIR/params/      Orbax checkpoint of {"params": {path: array}, "stats": {path: array}},
                 with paths such as "fan/stem_conv/kernel"

Further texts for people, such as a model card, may lie next to them. They are not read.
"""

import dataclasses
import hashlib
import json
import logging
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models import relations_settings
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.models.relations import BANK_LABELS
from affect_jax.models.state import take_apart
from affect_jax.runtime import forks, replace_folder
from affect_jax.version import __version__
from affect_jax.weights import checksums
from affect_jax.weights.differences import Differences, listed, shapes_of
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import LABELS, DataError

log = logging.getLogger(__name__)

FORMAT = 1
MODEL_FILE = "model.json"
ARRAYS_FOLDER = "params"
_COMMITTED = "commit_success.txt"  # of Orbax
# Label field -> outputs of a model that predict it.
OUTPUTS_OF_LABEL = {
    "expression": ("logits",),
    "valence_arousal": ("valence", "arousal"),
    "landmarks": ("heatmaps",),
}
_DICTS = dict.fromkeys(("arguments", "preprocessing", "checksums", "provenance"), dict)

Arrays = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model from a directory, in evaluation mode. It can be pickled.

    Attributes:
      model: the module.
      name, arguments: what `models.create` was called with.
      preprocessing: of its input.
      class_names: position = class id; empty without classes or if unknown.
      provenance: where the weights come from, as recorded when they were saved.
      hierarchy: tree over the classes, in the order of their ids; None: none.
      temperature: divisor of the logits before they become probabilities.
    """

    model: nnx.Module
    name: str
    arguments: dict[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    provenance: dict[str, Any]
    hierarchy: Hierarchy | None = None
    temperature: float = 1.0

    def __reduce__(self):
        # Modules hold functions that cannot be pickled, so the model is rebuilt from its arrays.
        arrays = jax.tree.map(np.asarray, arrays_of(self.model))
        known = (self.preprocessing, self.class_names, self.provenance, self.hierarchy)
        return _rebuild, (self.name, self.arguments, arrays, *known, self.temperature)

    @property
    def is_converted(self) -> bool:
        """Whether `convert` wrote the directory and the model has not been trained since."""
        return "source_sha256" in self.provenance

    def digest(self) -> str:
        """Return a SHA-256 of all that decides the logits: not of the temperature or provenance."""
        known = {
            "name": self.name,
            "arguments": _jsonable(self.arguments),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "class_names": list(self.class_names),
        }
        found = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        for part, arrays in arrays_of(self.model).items():
            for path, array in sorted(arrays.items()):
                found.update(f"{part} {path} {array.dtype} {array.shape}".encode())
                found.update(np.asarray(array).tobytes())
        return found.hexdigest()

    def trained_for(self) -> frozenset[str]:
        """Return the label fields that the model was trained for, as far as is known.

        A model exported from a run says so itself. Released weights come with all heads trained.
        Otherwise class names show that the classes were trained, and valence and arousal count as
        trained if the model gives nothing else.

        Raises:
          UserError: if what the directory says is not a list of label fields.
        """
        said = self.provenance.get("trained_for")
        if said is not None:
            fields = {said} if isinstance(said, str) else set(said)
            if not fields <= LABELS | {"attributes", "expression_probs"}:
                raise UserError(
                    f"provenance.trained_for in {MODEL_FILE} is {said!r}; it may hold "
                    + ", ".join(sorted(LABELS))
                )
            return frozenset(fields & LABELS)
        shape = models.input_shape(self.model, self.preprocessing.image_size)
        outputs = nnx.eval_shape(self.model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        heads = frozenset(k for k, names in OUTPUTS_OF_LABEL.items() if names[0] in outputs)
        if self.is_converted:
            return heads
        if "expression" in heads:
            return frozenset({"expression"} if self.class_names else ())
        return heads & {"valence_arousal"}


def _rebuild(name: str, arguments: dict[str, Any], arrays: Arrays, *known: Any) -> LoadedModel:
    forks.check()
    model = models.create(name, **arguments)
    assign(model, arrays)
    model.eval()
    return LoadedModel(model, name, arguments, *known)


def arrays_of(model: nnx.Module) -> dict[str, dict[str, jax.Array]]:
    """Return the arrays of a model: {"params": {path: array}, "stats": {path: array}}."""
    _, params, stats = take_apart(model)
    return {"params": params, "stats": stats}


def assign(model: nnx.Module, arrays: Arrays) -> None:
    """Write arrays into a model, cast to its dtypes; see `arrays_of` for the form."""
    blueprint, params, stats = take_apart(model)
    for part, paths, own in (
        ("params", blueprint.param_paths, params),
        ("stats", blueprint.stat_paths, stats),
    ):
        cast = [(paths[k], jnp.asarray(v, own[k].dtype)) for k, v in arrays[part].items()]
        nnx.update(model, nnx.from_flat_state(cast))


def is_model_dir(path: str | pathlib.Path) -> bool:
    """Return whether `path` is a model directory."""
    return (pathlib.Path(path) / MODEL_FILE).is_file()


def check_writable(directory: str | pathlib.Path) -> None:
    """Raise UserError unless `directory` is new, empty or a model directory."""
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a directory for the model")
    if directory.is_dir() and any(directory.iterdir()) and not is_model_dir(directory):
        raise UserError(f"{directory} is not empty and has no {MODEL_FILE}; name a new directory")


def save_model(
    directory: str | pathlib.Path,
    name: str,
    arguments: Mapping[str, Any],
    model: nnx.Module,
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    hierarchy: Hierarchy | None = None,
    temperature: float = 1.0,
    texts: Mapping[str, str] | None = None,
    further: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Write a model directory atomically; an older one is replaced.

    Args:
      directory: where to.
      name, arguments: of `models.create`; dtypes may be objects, `axis_name` is dropped.
      model: the module that they made.
      preprocessing: of the model's input.
      class_names: position = class id.
      provenance: JSON-able facts about the weights.
      hierarchy: tree over the classes, in the order of their ids.
      temperature: divisor of the logits before they become probabilities.
      texts: file name -> content of further files for people.
      further: writes more files into the folder before it takes its place.

    Raises:
      UserError: if `directory` holds something else, class names or tree do not fit the model, or
        the temperature is not positive.
    """
    directory = pathlib.Path(directory).absolute()
    check_writable(directory)
    # The preset of the name is recorded, so that a later preset does not change a saved model.
    arguments = {**models.entry(name).preset, **arguments}
    arguments = {k: _jsonable(v) for k, v in arguments.items() if k != "axis_name"}
    _check_class_names(class_names, name, arguments, f"the model for {directory}")
    _check_hierarchy(hierarchy, class_names, f"the model for {directory}")
    _check_temperature(temperature, f"the model for {directory}")
    record = {
        "format": FORMAT,
        "affect_jax": __version__,
        "name": name,
        "arguments": arguments,
        "preprocessing": dataclasses.asdict(preprocessing),
        "class_names": list(class_names),
        "hierarchy": None if hierarchy is None else hierarchy.to_plain(),
        "temperature": float(temperature),
        "provenance": dict(provenance or {}),
    }
    with replace_folder(directory) as partial:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = jax.tree.map(np.asarray, arrays_of(model))
            checkpointer.save(partial / ARRAYS_FOLDER, arrays)
        if (mark := partial / ARRAYS_FOLDER / _COMMITTED).exists():
            # It names this unfinished folder, and so a place on the machine that wrote it.
            mark.write_text(f"Checkpoint commit was successful to {ARRAYS_FOLDER}")
        record["checksums"] = checksums.digests(partial / ARRAYS_FOLDER)
        for file, text in (texts or {}).items():
            (partial / file).write_text(text, encoding="utf-8")
        (partial / MODEL_FILE).write_text(json.dumps(checksums.signed(record), indent=2) + "\n")
        if further is not None:
            further(partial)


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    return jnp.dtype(value).name


def load_model(
    directory: str | pathlib.Path, *, context: str | None = None, **overrides: Any
) -> LoadedModel:
    """Open a model directory.

    Args:
      directory: written by `save_model`, `affect_jax.export` or `affect_jax.convert`.
      context: what images are compared with ("self", "bank" or "batch"), for a model that relates
        images; default: as it was trained.
      **overrides: constructor arguments to replace, such as `dtype="bfloat16"`.

    Raises:
      UserError: if it is missing or damaged, its arrays or class names do not fit its own
        description, or it has no such context.
    """
    forks.check()
    record = read_record(directory)
    described = f"{pathlib.Path(directory) / MODEL_FILE}"
    if not checksums.is_as_signed(record):
        log.warning("%s is not as it was written: %s", described, checksums.EDITED)
    name, arguments = record["name"], {**record["arguments"], **overrides}
    try:
        if context is not None:
            arguments["relations"] = _in_context(arguments.get("relations"), context)
        model = models.create(name, **arguments)
        preprocessing = Preprocessing(**record["preprocessing"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{described}: {error}") from error
    arrays = read_arrays(directory)
    if differences := Differences.between(shapes_of(arrays), shapes_of(arrays_of(model))):
        raise UserError(
            f"{directory} lacks arrays of its model; export or copy it again:\n{differences}"
        )
    class_names = record.get("class_names", ())
    _check_class_names(class_names, name, arguments, described)
    try:
        hierarchy = recorded_hierarchy(record)
    except DataError as error:
        raise UserError(f"{described}: {error}") from error
    _check_hierarchy(hierarchy, class_names, described)
    temperature = record.get("temperature", 1.0)
    _check_temperature(temperature, described)
    assign(model, arrays)
    model.eval()
    if context == "bank" and (arrays["stats"][BANK_LABELS] < 0).all():
        raise UserError(
            f'{directory}: context = "bank", but the model has no bank: it was not trained by a '
            "run; leave it out, or use another"
        )
    known = (preprocessing, tuple(class_names), record.get("provenance", {}), hierarchy)
    return LoadedModel(model, name, arguments, *known, float(temperature))


def recorded_hierarchy(record: Mapping[str, Any]) -> Hierarchy | None:
    """Return the tree in `model.json` or in the record of a checkpoint; None: none.

    Raises:
      DataError: it is damaged.
    """
    plain = record.get("hierarchy")
    return None if plain is None else Hierarchy.from_plain(plain)


def _in_context(relations: Any, context: str) -> dict[str, Any]:
    """Return the argument `relations` of a model with another context.

    Raises:
      ValueError: the model does not relate images.
    """
    if not relations or not relations_settings.parse(relations).itrr:
        raise ValueError(
            f"context = {context!r}, but the model does not relate images to each other; leave it "
            "out"
        )
    return {**relations, "context": context}


def read_record(directory: str | pathlib.Path) -> dict[str, Any]:
    """Read `model.json`, and check the format version and the types of its fields.

    Raises:
      UserError: if `directory` is not a model directory or a newer version wrote it.
    """
    path = pathlib.Path(directory) / MODEL_FILE
    if not path.is_file():
        raise UserError(f"{directory} is not a model directory: it has no {MODEL_FILE}")
    try:
        record = {"checksums": {}, "provenance": {}, **json.loads(path.read_text())}
        version = record["format"]
        for key, kind in {"name": str, **_DICTS}.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"{key} is not a {kind.__name__}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error!r}") from error
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version}, this version of affect_jax reads {FORMAT}; "
            f"it was written by affect_jax {record.get('affect_jax', '?')}"
        )
    return record


def read_arrays(directory: str | pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the arrays of a model directory: {"params": {path: array}, "stats": ...}.

    Raises:
      UserError: if they are missing, or not those that were saved.
    """
    folder = pathlib.Path(directory).absolute() / ARRAYS_FOLDER
    recorded = read_record(directory).get("checksums")
    if not recorded:
        log.info("%s has no checksums: damage to its files cannot be noticed", directory)
    elif folder.is_dir() and (faults := checksums.verify(folder, recorded)):
        raise UserError(f"{folder} is damaged; copy or export the model again:\n{listed(faults)}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder)
    except Exception as error:  # Orbax raises many kinds for missing and truncated files
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder} cannot be read: {reason[0]}") from error


def _check_class_names(
    class_names: Sequence[str], name: str, arguments: Mapping[str, Any], where: str
) -> None:
    if not isinstance(class_names, list | tuple) or not all(
        isinstance(one, str) and one.strip() for one in class_names
    ):
        raise UserError(f"{where}: class_names must be a list of names, got {class_names!r}")
    if twice := sorted({one for one in class_names if list(class_names).count(one) > 1}):
        raise UserError(f"{where}: class_names holds {', '.join(twice)} more than once")
    classes = arguments.get("n_expression", models.default(name, "n_expression"))
    if class_names and classes and len(class_names) != classes:
        raise UserError(
            f"{where}: {len(class_names)} class_names ({', '.join(class_names)}), but the model "
            f"has {classes} classes; name each, in the order of their ids, or give an empty list"
        )


def _check_temperature(temperature: Any, where: str) -> None:
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not (number and 0 < temperature < math.inf):
        raise UserError(f"{where}: temperature is {temperature!r}; it must be a positive number")


def _check_hierarchy(hierarchy: Hierarchy | None, class_names: Sequence[str], where: str) -> None:
    if hierarchy is not None and hierarchy.fine != tuple(class_names):
        raise UserError(
            f"{where}: the fine classes of the hierarchy ({', '.join(hierarchy.fine)}) are not the "
            f"class_names ({', '.join(class_names)}); give both in the order of the class ids"
        )
