"""Evaluation of a model directory, converted or exported, on labelled pictures.

`--mode=eval` with `config.init_from` and a workdir that holds no run: nothing is trained, and the
architecture is that of the directory.
"""

import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import weights
from affect_jax.config import ConfigError
from affect_jax.errors import UserError
from affect_jax.evaluation import evaluator as evaluator_lib
from affect_jax.evaluation.evaluator import Evaluation, Evaluator
from affect_jax.evaluation.results import record
from affect_jax.experiments import evaluate_run
from affect_jax.models.reliability_settings import to_section
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import Labels, System
from affect_jax.weights import load_run, model_dir
from data_pipelines.schema import NUM_LANDMARKS

log = logging.getLogger(__name__)

_RESULTS = pathlib.Path("runs")


class _Given(System):
    """A model that is there already: what it gives is measured, with any training behind it."""

    @property
    def supervised(self) -> frozenset[str]:
        return self.has

    @property
    def known(self) -> frozenset[str]:
        return self.has

    def predictions(self, outputs: dict[str, jax.Array], image_size: int) -> dict[str, jax.Array]:
        kept = super().predictions(outputs, image_size)
        if "landmarks" in self.has:
            kept["landmarks"] = self.landmarks(outputs, image_size)
        return kept


def evaluate_any(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None
) -> Evaluation:
    """Evaluates the run in `workdir`; where there is none, the model `config.init_from`.

    Raises:
      UserError: if there is neither, both are meant, or it does not fit the data.
    """
    if workdir is not None and load_run.is_workdir(workdir):
        began = config_lib.read_workdir_config(workdir).init_from
        if config.init_from and config.init_from != began:
            raise ConfigError(
                f"config.init_from = {config.init_from!r}, but {workdir} holds a run, whose own "
                "checkpoints are evaluated; name another --workdir for the results of that model"
            )
        return evaluate_run.evaluate_workdir(config, workdir)
    if not config.init_from:
        where = "no --workdir is given" if workdir is None else f"{workdir} is no workdir of a run"
        raise ConfigError(
            f"{where}: there is no {config_lib.CONFIG_FILE} in it; give --workdir of a finished "
            "run, or a model directory as --config.init_from"
        )
    path = pathlib.Path(config.init_from)
    return evaluate_model(config, path, workdir or _RESULTS / f"eval_{path.resolve().name}")


def evaluate_model(
    config: ml_collections.ConfigDict, path: str | pathlib.Path, workdir: str | pathlib.Path
) -> Evaluation:
    """Evaluates a model directory on the split `config.eval.split` of `config.data`.

    Name, arguments, classes, picture size, framing and normalisation are those of the directory.
    The figures are added to `eval.jsonl` of `workdir`; predictions and confusion matrix go to a
    folder of their own in `report/evaluations`, as those of a run.

    Raises:
      UserError: if `path` is no model directory, or it does not fit the data.
    """
    workdir = pathlib.Path(workdir)
    if config.eval.checkpoint != "best":
        raise ConfigError(
            f"config.eval.checkpoint = {config.eval.checkpoint!r} has no effect on the model "
            f"directory {path}, which holds one; leave it out"
        )
    loaded = _load(path)
    config = _with_model(config, loaded)
    source = data_lib.evaluation_source(config)
    has = _measurable(loaded, frozenset(source.has), path)
    if "expression" in has:
        _check_classes(loaded, source, path)
    mapper = Mapper(config.parallel.mapping)
    blueprint, params, stats = take_apart(loaded.model)
    system = _Given(config, Labels(has, loaded.class_names))
    evaluator = Evaluator(
        system, mapper, blueprint, flip=config.eval.flip, min_count=config.eval.min_count
    )
    tracks = evaluator_lib.tracks_to_smooth(config, source)
    with data_lib.eval_batches(config, source) as batches:
        result = evaluator.run(
            mapper.replicate({"params": params, "stats": stats}),
            batches,
            keep_predictions=True,
            tracks=tracks,
        )
    step = int(loaded.provenance.get("step", 0))
    record(config, workdir, result, source, loaded.class_names, step, f"model {path}", model=path)
    return result


def _load(path: str | pathlib.Path) -> model_dir.LoadedModel:
    path = pathlib.Path(path)
    if load_run.is_workdir(path):
        raise ConfigError(
            f"config.init_from = {str(path)!r} is the workdir of a run; evaluate it as --workdir"
        )
    if path.is_file():
        raise ConfigError(
            f"config.init_from = {str(path)!r} is a file; make a model directory of it with "
            "python -m affect_jax.convert, and evaluate that"
        )
    if not model_dir.is_model_dir(path):
        raise ConfigError(
            f"config.init_from = {str(path)!r} is no model directory: there is no "
            f"{model_dir.MODEL_FILE} in it"
        )
    return model_dir.load_model(path)


def _with_model(
    config: ml_collections.ConfigDict, loaded: model_dir.LoadedModel
) -> ml_collections.ConfigDict:
    """A copy of the config, its model and the framing of its pictures those of the directory."""
    made = ml_collections.ConfigDict(config.to_dict())
    seen = loaded.preprocessing
    # The evaluation divides by 255 before it takes the mean away.
    factor = seen.scale / 255
    arguments = dict(loaded.arguments)
    if "reliability" in arguments:
        arguments["reliability"] = to_section(arguments["reliability"])
    made.model = ml_collections.ConfigDict(
        {
            "name": loaded.name,
            **arguments,
            "mean": tuple(factor * m for m in seen.mean),
            "std": tuple(factor * s for s in seen.std),
        }
    )
    made.loss.class_weights = "none"
    made.data.image_size = seen.image_size
    made.data.augment_overrides.update({"fit": seen.fit, "margin": seen.margin})
    if seen.crop_scale:
        made.data.crop_scale = seen.crop_scale
    if not weights.is_converted(loaded):  # of others' networks the crop is not known
        made.data.crop = seen.crop
    log.info(
        "pictures as the model expects them: %d x %d, fit %s, margin %g, mean %s, std %s; cut out "
        "by data.crop = %s",
        seen.image_size,
        seen.image_size,
        seen.fit,
        seen.margin,
        seen.mean,
        seen.std,
        made.data.crop,
    )
    return made


def _measurable(
    loaded: model_dir.LoadedModel, labelled: frozenset[str], path: str | pathlib.Path
) -> frozenset[str]:
    """The label fields of the data that the model gives.

    Raises:
      UserError: if there are none.
    """
    size = loaded.preprocessing.image_size
    outputs: dict[str, Any] = jax.eval_shape(
        loaded.model, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    )
    given = set()
    if "logits" in outputs and outputs["logits"].shape[-1]:
        given.add("expression")
    if "valence" in outputs:
        given.add("valence_arousal")
    if "heatmaps" in outputs and outputs["heatmaps"].shape[-1] == NUM_LANDMARKS:
        given.add("landmarks")
    # A head that had no labels in training gives noise.
    given &= weights.trained_for(loaded)
    if not given & labelled:
        raise UserError(
            f"the model in {path} gives {', '.join(sorted(given)) or 'nothing that is measured'}; "
            f"the data are labelled with {', '.join(sorted(labelled)) or 'nothing'}"
        )
    return frozenset(given & labelled)


def _check_classes(loaded: model_dir.LoadedModel, source: Any, path: str | pathlib.Path) -> None:
    if not loaded.class_names:
        raise UserError(
            f"the order of the classes of the model in {path} is not known, so its expressions "
            "cannot be compared with labels; convert it again with --classes"
        )
    evaluator_lib.check_classes(source, loaded.class_names)
