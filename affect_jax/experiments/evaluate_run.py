"""Evaluation of a finished run, on its own test split or on other data."""

import pathlib

import ml_collections

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, systems
from affect_jax.evaluation.evaluator import Evaluation, Evaluator, check_classes, tracks_to_smooth
from affect_jax.evaluation.results import record
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run
from data_pipelines.schema import Source


def _check_same_split(
    config: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict
) -> None:
    """Refuses to cut the data of a run otherwise than it did: test persons would be known ones."""
    data, then = config.data, recorded.data
    if data_lib.place_of(data) != data_lib.place_of(then):
        return
    if config.eval.split == data_lib.ALL:
        raise config_lib.ConfigError(
            f"config.eval.split = {data_lib.ALL!r}, but the run was trained on a part of these "
            "data: persons it was trained on would be tested"
        )
    for key in ("protocol", "folds", "test_fold", "split_seed", "validation_fraction"):
        if data[key] != then[key]:
            raise config_lib.ConfigError(
                f"config.data.{key} = {data[key]}, but the run was trained with {then[key]}: "
                "persons it was trained on would be tested"
            )


def _as_trained(
    config: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns `config` with what tells which outputs the run was trained for, and how long: the
    ramp of `reliability.correction = "trust"` is a share of it."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for key in ("init_from", "landmark_stage", "loss", "optimizer", "num_steps"):
            config[key] = recorded[key]
        if "train_trunk" in recorded.model:
            config.model.train_trunk = recorded.model.train_trunk
    return config


def _own_sources(
    config: ml_collections.ConfigDict, recorded: ml_collections.ConfigDict
) -> dict[str, Source]:
    """All splits of the run's own data; none if the config names others."""
    own = data_lib.place_of(config.data) == data_lib.place_of(recorded.data)
    return data_lib.make_sources(config) if own else {}


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Evaluation:
    """Evaluates a checkpoint of a run on one split, as `--mode=eval` does.

    `config.eval.split` and `config.eval.checkpoint` say what; the model must be that of the
    workdir, the data may be others. The figures are added to `eval.jsonl`; predictions and
    confusion matrix go to a folder of their own in `report/evaluations`.

    Raises:
      UserError: if there is no such run, checkpoint or split, the classes do not match, or the
        run's own data have changed since it began.
    """
    workdir = pathlib.Path(workdir)
    mapper = Mapper(config.parallel.mapping)
    recorded = config_lib.read_workdir_config(workdir)
    config = _as_trained(config, recorded)
    loaded = load_run.load_run(workdir, config.eval.checkpoint, mapper, config=config)
    data_record.check_own(workdir, config, _own_sources(config, recorded))
    source = data_lib.evaluation_source(config)
    if loaded.class_names:
        check_classes(source, loaded.class_names)
    _check_same_split(config, recorded)
    # What the model was not trained for, it is not measured by.
    system = systems.create(
        config,
        class_names=loaded.class_names,
        has=frozenset(source.has) & loaded.system.known,
        class_counts=loaded.system.labels.class_counts,
    )
    evaluator = Evaluator(
        system,
        mapper,
        take_apart(loaded.model)[0],
        flip=config.eval.flip,
        min_count=config.eval.min_count,
    )
    with data_lib.eval_batches(config, source) as batches:
        result = evaluator.run(
            loaded.state, batches, keep_predictions=True, tracks=tracks_to_smooth(config, source)
        )
    what = f"checkpoint {loaded.step} of {workdir}"
    record(config, workdir, result, source, loaded.class_names, loaded.step, what)
    return result
