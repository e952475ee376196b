"""Features of all splits from a trained model, stored as data for heads that train on them alone.

The file is described in `data_pipelines.sources.features`.
"""

import io
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import batches as data_lib
from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.evaluation.evaluator import Evaluator, Predictions, check_input
from affect_jax.models.state import take_apart
from affect_jax.runtime import parallel, write_atomically
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import Labels, System
from affect_jax.systems.objective import Arrays
from affect_jax.version import __version__
from affect_jax.weights.load_run import LoadedRun
from data_pipelines.schema import Source
from data_pipelines.sources import fingerprint
from data_pipelines.sources.features import FeatureFile

log = logging.getLogger(__name__)

# Outputs of a model in the order in which they are looked for.
_OUTPUTS = ("image_features", "embedding")
# Label fields that are taken from the batches: a source need not list them without its images.
_OF_BATCHES = ("valence_arousal", "expression_probs", "attributes")


class _FeatureSystem(System):
    """The system of a model that gives features: nothing is learnt or measured."""

    def __init__(self, config: ml_collections.ConfigDict, labels: Labels, output: str):
        config = config.copy_and_resolve_references()
        config.loss.class_weights = "none"
        super().__init__(config, labels)
        self._output = output
        self.relations = None  # features come before them, in any context

    def predictions(self, outputs: Arrays, image_size: int) -> Arrays:
        return {"features": outputs[self._output]}


def write_features(loaded: LoadedRun, mapper: Mapper, made_by: Mapping[str, Any]) -> pathlib.Path:
    """Write the features of the splits of `config.data` to the file `config.eval.features`.

    Images are framed as in evaluation, without augmentation. Images that cannot be read are left
    out. With several processes all take part, and the main one writes.

    Args:
      loaded: the model, with the config that names data and file.
      mapper: of the model's arrays.
      made_by: JSON-able facts about the model, for the file.

    Raises:
      UserError: the file cannot be of that name, the model has no features or not for these data,
        or a feature is not a finite number.
      DataError: the data cannot be used.
    """
    config = loaded.config
    path = pathlib.Path(config.eval.features).expanduser()
    if path.suffix != ".npz" or path.is_dir():
        raise UserError(f"config.eval.features = {str(path)!r}; give a file name ending in .npz")
    sources = data_lib.make_sources(config)
    check_input(sources["train"], loaded.model)
    output = output_name(loaded.model, config.data.image_size)
    labels = Labels(
        frozenset(),
        hierarchy=loaded.system.hierarchy,
        n_features=data_lib.n_features(sources["train"]),
    )
    system = _FeatureSystem(config, labels, output)
    evaluator = Evaluator(system, mapper, take_apart(loaded.model)[0])
    splits = {}
    for split, source in sources.items():
        if not len(source):
            raise UserError(f"the {split} split is empty, and a file of features holds all splits")
        with data_lib.eval_batches(config, source) as batches:
            result = evaluator.run(loaded.state, batches, keep_predictions=True)
        splits[split] = _columns(source, result.predictions)
        log.info("%s: features of %d of %d images", split, result.images, len(source))
    train = sources["train"]
    file = FeatureFile(
        class_names=tuple(train.class_names),
        splits=splits,
        attribute_names=tuple(train.attribute_names),
        attribute_values=tuple(map(tuple, train.attribute_values)),
        group_names=tuple(train.group_names),
        hierarchy=config.model.get("hierarchy") or config.data.hierarchy or train.hierarchy,
        learns_votes=data_lib.learns_votes(config, train),
        made_from={
            **made_by,
            "output": output,
            "data": data_lib.place_of(config.data),
            "data_digest": fingerprint.of_sources(sources).digest,
            "image_size": config.data.image_size,
            "affect_jax": __version__,
        },
    )
    parallel.from_main(lambda: _write(path, file))
    log.info(
        "%s: %d features, the output %r of %s",
        path,
        file.n_features,
        output,
        json.dumps(dict(made_by)),
    )
    return path


def output_name(model: nnx.Module, image_size: int) -> str:
    """Return which output of a model holds its features [B, D].

    It is `image_features`, as a model with relations names the output of its backbone, else
    `embedding`, what its head sees.

    Raises:
      UserError: the model has neither.
    """
    shape = models.input_shape(model, image_size)
    outputs = nnx.eval_shape(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    flat = [name for name, value in outputs.items() if getattr(value, "ndim", 0) == 2]
    for name in _OUTPUTS:
        if name in flat:
            return name
    raise UserError(
        f"the model has no features: it gives {', '.join(sorted(outputs))}, and one of "
        f"{', '.join(_OUTPUTS)} is needed"
    )


def _columns(source: Source, found: Predictions) -> dict[str, np.ndarray]:
    """Return the columns of a split in the file, of the records that could be read."""
    rows = found["index"]
    features = found["features"]
    if not (finite := np.isfinite(features).all(axis=1)).all():
        raise UserError(
            f"{np.count_nonzero(~finite)} feature vectors are not finite; the first is of "
            f"{source.describe(int(rows[np.argmin(finite)]))}. Choose another checkpoint"
        )
    columns = {
        "features": features.astype(np.float32),
        "expression": np.asarray(source.labels)[rows].astype(np.int32),
        "group": np.asarray(source.groups)[rows].astype(np.int32),
        "track": np.asarray(source.tracks)[rows].astype(np.int32),
        "name": np.array([source.describe(i) for i in rows.tolist()], np.str_),
    }
    if (true := getattr(source, "true_labels", None)) is not None:
        columns["true_expression"] = np.asarray(true)[rows].astype(np.int32)
    if source.has_persons:
        columns["person"] = np.asarray(source.persons, np.str_)[rows]
    return columns | {name: found[name] for name in _OF_BATCHES if name in source.has}


def _write(path: pathlib.Path, file: FeatureFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **file.to_arrays())  # type: ignore[arg-type]  # the stub sees `allow_pickle`
    write_atomically(path, buffer.getvalue())
