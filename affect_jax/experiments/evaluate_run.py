"""Evaluation of a finished run, on one of its own splits or on other data."""

import dataclasses
import os
import pathlib

import ml_collections

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, report, systems
from affect_jax.config import ConfigError
from affect_jax.evaluation.evaluator import (
    Evaluation,
    Evaluator,
    check_classes,
    check_input,
    tracks_to_smooth,
)
from affect_jax.evaluation.results import record
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.training import bank
from affect_jax.weights import load_run
from affect_jax.weights.load_run import LoadedRun
from data_pipelines.hierarchies.tree import Hierarchy
from data_pipelines.schema import Source
from data_pipelines.sources.make import ALL

# Fields that decide which persons a run was trained on.
# Fields of config.model that may differ from the run's: what is computed stays the same, but for
# rounding, or is asked for.
_FREE_OF_MODEL = (
    *("dtype", "attention", "remat", "decode", "hierarchy"),
    *("relations.context", "relations.vectors", "relations.missing_words"),
)
_CUT = ("protocol", "folds", "test_fold", "split_seed", "validation_fraction")


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Evaluation:
    """Evaluate a checkpoint of a run on one split.

    `config.eval.split` and `config.eval.checkpoint` name them. The model must be the run's, the
    data may be others. Where the results go is described in `measure`.

    Raises:
      UserError: the run, checkpoint or split does not exist, the classes do not match, or the data
        of the run itself have changed since it began.
    """
    workdir = pathlib.Path(workdir)
    mapper = Mapper(config.parallel.mapping)
    loaded = open_run(config, workdir, mapper)
    config = loaded.config
    source = data_lib.evaluation_source(config)
    data_record.warn_of_trained(workdir, config, source)
    check_input(source, loaded.model)
    if loaded.class_names:
        check_classes(source, loaded.class_names)
    labels = loaded.system.labels
    system = systems.create(
        config,
        class_names=loaded.class_names,
        # An output that was not trained is not measured.
        has=frozenset(source.has) & loaded.system.known,
        class_counts=labels.class_counts,
        hierarchy=_hierarchy(config, workdir, loaded, source),
        n_features=labels.n_features,
    )
    what = f"checkpoint {loaded.step} of {workdir}"
    loaded = dataclasses.replace(loaded, system=system)
    trained = config_lib.read_workdir_config(workdir)
    trained.eval.batch_size = config.eval.batch_size
    return measure(loaded, source, workdir, mapper, what, trained=trained)


def open_run(config: ml_collections.ConfigDict, workdir: pathlib.Path, mapper: Mapper) -> LoadedRun:
    """Open the checkpoint `config.eval.checkpoint` of a run, to use it on `config.data`.

    Raises:
      UserError: the run or checkpoint does not exist, or the data of the run itself have changed
        since it began or are divided in another way.
    """
    recorded = config_lib.read_workdir_config(workdir)
    config = _as_trained(config, recorded)
    _check_same_model(config, recorded)
    loaded = load_run.load_run(workdir, config.eval.checkpoint, mapper, config=config)
    has_own_data = data_lib.place_of(config.data) == data_lib.place_of(recorded.data)
    sources = data_lib.make_sources(config) if has_own_data else {}
    data_record.check_own(workdir, config, sources)
    _check_same_split(config, recorded)
    return loaded


def _hierarchy(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, loaded: LoadedRun, source: Source
) -> Hierarchy | str:
    """Return the tree of the run; the name of the data set's if the run has none.

    `config.data.hierarchy` may name another, unless the model uses one.
    """
    own, recorded = loaded.system.hierarchy, config_lib.read_workdir_config(workdir)
    is_other = config.data.hierarchy not in ("", recorded.data.hierarchy)
    if own is None or (is_other and not config.model.get("hierarchy")):
        return source.hierarchy
    return own


def measure(
    loaded: LoadedRun,
    source: Source,
    workdir: pathlib.Path,
    mapper: Mapper,
    what: str,
    *,
    model: str | os.PathLike = "",
    digest: str = "",
    trained: ml_collections.ConfigDict | None = None,
) -> Evaluation:
    """Run a model over a split and record the results.

    The metrics are added to `eval.jsonl` of `workdir`; predictions and confusion matrix go to a
    new folder in `report/evaluations`.

    Args:
      loaded: the model, with the config of this evaluation.
      source: of the split.
      workdir: for the results.
      mapper: of the model's arrays.
      what: names the model in the title.
      model: its directory, unless it is a run's checkpoint.
      digest: of the model in that directory.
      trained: config of the run, for `config.eval.bank_sizes`; None: its data are not known.
    """
    config = loaded.config
    evaluator = Evaluator(
        loaded.system,
        mapper,
        take_apart(loaded.model)[0],
        flip=config.eval.flip,
        min_count=config.eval.min_count,
    )
    tracks = tracks_to_smooth(config, source)
    with data_lib.eval_batches(config, source) as batches:
        result = evaluator.run(loaded.state, batches, keep_predictions=True, tracks=tracks)
    banks = bank.of_sizes(
        config.eval.bank_sizes,
        loaded.state,
        evaluator,
        trained or config,
        None if trained is None else lambda: data_lib.make_sources(trained)["train"],
    )
    result.contexts = evaluator.in_contexts(loaded.state, result.predictions, banks)
    folder = record(
        config,
        workdir,
        result,
        source,
        loaded.system,
        loaded.step,
        what,
        model=model,
        digest=digest,
    )
    report.draw_evaluation(folder, config.eval.min_count)
    return result


def _as_trained(
    config: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Return `config` with the run's own values of what it was trained for.

    Its length is one of them: `reliability.correction = "trust"` is ramped in over the run. So is
    the size of its batches, in which images are compared in the context "batch".
    """
    config = config.copy_and_resolve_references()
    config.eval.batch_size = config.eval.batch_size or config.batch_size
    with config.unlocked():
        for key in ("init_from", "landmark_stage", "loss", "optimizer", "num_steps", "batch_size"):
            config[key] = recorded[key]
        if "hierarchy" in recorded.model and not config.model.get("hierarchy"):
            config.model.hierarchy = recorded.model.hierarchy
        if "train_trunk" in recorded.model:
            config.model.train_trunk = recorded.model.train_trunk
    return config


def _check_same_model(
    config: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict
) -> None:
    """Refuse a model that computes something else with the run's arrays."""
    own, then = (
        config_lib.flatten(config_lib.to_plain(given)["model"]) for given in (config, recorded)
    )
    for key, value in own.items():
        if key in then and value != then[key] and key not in _FREE_OF_MODEL:
            raise ConfigError(
                f"config.model.{key} = {value!r}, but the run was trained with {then[key]!r}; "
                f"repeat its value, --config.model.{key}={then[key]}"
            )


def _check_same_split(
    config: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict
) -> None:
    """Refuse another division of the run's data: it would test trained persons."""
    data, then = config.data, recorded.data
    if data_lib.place_of(data) != data_lib.place_of(then):
        return
    why = "it would be tested on persons of its training; leave out this option"
    if config.eval.split == ALL:
        raise ConfigError(
            f"config.eval.split = {ALL!r}, but the run was trained on a part of these data: {why}"
        )
    for key in _CUT:
        if data[key] != then[key]:
            raise ConfigError(
                f"config.data.{key} = {data[key]}, but the run was trained with {then[key]}: {why}"
            )
