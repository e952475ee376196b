"""Evaluation of a model directory, converted or exported, on labelled images.

Nothing is trained, and the architecture is read from the directory.
"""

import logging
import pathlib

import jax
import jax.numpy as jnp
import ml_collections

from affect_jax import batches as data_lib
from affect_jax import models
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.evaluation.evaluator import Evaluation, check_classes, check_input
from affect_jax.experiments.evaluate_run import measure
from affect_jax.models import relations_settings
from affect_jax.models.reliability_settings import to_section
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems import label_tree
from affect_jax.systems.base import Labels, System
from affect_jax.weights import load_run, model_dir
from affect_jax.weights.load_run import LoadedRun
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import NUM_LANDMARKS

log = logging.getLogger(__name__)


class _GivenModel(System):
    """The system of a model that is only evaluated; all labelled outputs are measured."""

    @property
    def supervised(self) -> frozenset[str]:
        return self.has

    @property
    def known(self) -> frozenset[str]:
        return self.has

    def predictions(self, outputs: dict[str, jax.Array], image_size: int) -> dict[str, jax.Array]:
        kept = super().predictions(outputs, image_size)
        if "landmarks" in self.has and "heatmaps" in outputs:
            kept["landmarks"] = self.landmarks(outputs, image_size)
        return kept


def evaluate_model(
    config: ml_collections.ConfigDict, path: str | pathlib.Path, workdir: str | pathlib.Path
) -> Evaluation:
    """Evaluate a model directory on the split `config.eval.split` of `config.data`.

    Name, arguments, classes, image size, framing and normalisation are read from the directory,
    and the tree over the classes. `config.data.hierarchy` may name another, unless the model uses
    one.
    Where the results go is described in `evaluate_run.measure`.

    Raises:
      UserError: `path` is not a model directory, or the model does not fit the data.
    """
    path, workdir = pathlib.Path(path), pathlib.Path(workdir)
    loaded = _load(path, config.eval.checkpoint)
    config = _with_model(config, loaded)
    source = data_lib.evaluation_source(config)
    check_input(source, loaded.model)
    has = _measurable(loaded, frozenset(source.has), path)
    if "expression" in has:
        if not loaded.class_names:
            raise UserError(
                f"the order of the classes of the model in {path} is not known, so its expressions "
                "cannot be compared with labels; convert it again with --classes"
            )
        check_classes(source, loaded.class_names)
    hierarchy = _used_hierarchy(loaded) or loaded.hierarchy
    is_named = config.data.hierarchy and not config.model.hierarchy
    if "expression" in has and (hierarchy is None or is_named):
        hierarchy = label_tree.resolve(config, loaded.class_names, source.hierarchy)
    mapper = Mapper(config.parallel.mapping)
    given = _placed(config, loaded, has, hierarchy, mapper)
    what, digest = f"model {path}", loaded.digest()
    return measure(given, source, workdir, mapper, what, model=path, digest=digest)


def open_model(config: ml_collections.ConfigDict, path: pathlib.Path, mapper: Mapper) -> LoadedRun:
    """Open a model directory, to use it on `config.data` framed as it expects.

    Raises:
      UserError: `path` is not a model directory.
    """
    loaded = _load(path, config.eval.checkpoint)
    tree = _used_hierarchy(loaded)
    return _placed(_with_model(config, loaded), loaded, frozenset(), tree, mapper)


def _placed(
    config: ml_collections.ConfigDict,
    loaded: model_dir.LoadedModel,
    has: frozenset[str],
    hierarchy: Hierarchy | None,
    mapper: Mapper,
) -> LoadedRun:
    """Return a model on the devices, whose label fields `has` are measured."""
    _, params, stats = take_apart(loaded.model)
    labels = Labels(
        has,
        loaded.class_names,
        hierarchy=hierarchy,
        n_features=models.n_features(loaded.model),
    )
    return LoadedRun(
        model=loaded.model,
        system=_GivenModel(config, labels),
        state=mapper.replicate({"params": params, "stats": stats}),
        step=int(loaded.provenance.get("step", 0)),
        class_names=loaded.class_names,
        config=config,
        labels=loaded.provenance.get("label_vectors"),
    )


def _load(path: pathlib.Path, checkpoint: str) -> model_dir.LoadedModel:
    if checkpoint != "best":
        raise ConfigError(
            f"config.eval.checkpoint = {checkpoint!r} has no effect on the model directory {path}, "
            "which holds one; leave it out"
        )
    if load_run.is_workdir(path):
        problem = "is the workdir of a run; evaluate it as --workdir"
    elif path.is_file():
        problem = (
            "is a file; make a model directory of it with python -m affect_jax.convert, and "
            "evaluate that"
        )
    elif not model_dir.is_model_dir(path):
        problem = f"is not a model directory: it holds no {model_dir.MODEL_FILE}"
    else:
        return model_dir.load_model(path)
    raise ConfigError(f"config.init_from = {str(path)!r} {problem}")


def _with_model(
    config: ml_collections.ConfigDict, loaded: model_dir.LoadedModel
) -> ml_collections.ConfigDict:
    """Return a copy of the config with the model and the framing of the directory."""
    made = ml_collections.ConfigDict(config.to_dict())
    expected = loaded.preprocessing
    # The evaluation divides by 255 before it subtracts the mean.
    factor = expected.scale / 255
    arguments = dict(loaded.arguments)
    if "reliability" in arguments:
        arguments["reliability"] = to_section(arguments["reliability"])
    if "relations" in arguments:
        arguments["relations"] = relations_settings.to_section(arguments["relations"])
    own = (arguments.get("relations") or {}).get("context")
    asked = config.model.get("relations", {}).get("context", own)
    if own not in (None, asked):
        log.warning(
            "the model compares images by its own context %r, not by "
            "config.model.relations.context = %r; see the rows of all contexts",
            own,
            asked,
        )
    used = _used_hierarchy(loaded)
    made.model = ml_collections.ConfigDict(
        {
            "name": loaded.name,
            **arguments,
            "hierarchy": "" if used is None else used.name,
            "mean": tuple(factor * m for m in expected.mean),
            "std": tuple(factor * s for s in expected.std),
        }
    )
    made.loss.class_weights = "none"
    made.eval.batch_size = made.eval.batch_size or made.batch_size
    # In the context "batch" images are compared in batches of this size.
    trained = loaded.provenance.get("workdir_config", {})
    made.batch_size = trained.get("batch_size", made.batch_size)
    made.data.image_size = expected.image_size
    made.data.augment_overrides.update({"fit": expected.fit, "margin": expected.margin})
    if expected.crop_scale:
        made.data.crop_scale = expected.crop_scale
    # Others' networks without a crop of their own are evaluated on images that are crops.
    if expected.crop_scale or not loaded.is_converted:
        # As predict frames a given box. "auto" also suits images that have landmarks alone.
        was_auto = trained.get("data", {}).get("crop") == "auto" and expected.crop == "box"
        made.data.crop = "auto" if was_auto else expected.face_crop
    log.info(
        "images as the model expects them: %d x %d, fit %s, margin %g, mean %s, std %s; cropped by "
        "data.crop = %s",
        expected.image_size,
        expected.image_size,
        expected.fit,
        expected.margin,
        expected.mean,
        expected.std,
        made.data.crop,
    )
    return made


def _used_hierarchy(loaded: model_dir.LoadedModel) -> Hierarchy | None:
    """Return the tree that the model computes with; None: it uses none."""
    plain = (loaded.arguments.get("relations") or {}).get("hierarchy")
    return None if plain is None else Hierarchy.from_plain(plain)


def _measurable(
    loaded: model_dir.LoadedModel, labelled: frozenset[str], path: pathlib.Path
) -> frozenset[str]:
    """Return the label fields of the data that the model predicts.

    Raises:
      UserError: there are none.
    """
    shape = models.input_shape(loaded.model, loaded.preprocessing.image_size)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    outputs: dict[str, jax.ShapeDtypeStruct] = jax.eval_shape(loaded.model, images)
    given = set()
    if "logits" in outputs and outputs["logits"].shape[-1]:
        given.add("expression")
    if "valence" in outputs:
        given.add("valence_arousal")
    if "heatmaps" in outputs and outputs["heatmaps"].shape[-1] == NUM_LANDMARKS:
        given.add("landmarks")
    # A head that had no labels in training gives noise.
    given &= loaded.trained_for()
    if not given & labelled:
        raise UserError(
            f"the model in {path} predicts {', '.join(sorted(given)) or 'nothing measurable'}; "
            f"the data are labelled with {', '.join(sorted(labelled)) or 'nothing'}; use data that "
            "have labels for these predictions"
        )
    return frozenset(given & labelled)
