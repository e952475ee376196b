"""Set-up of a run: its checks, its parts, and the state that it starts from."""

import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax.evaluation.evaluator import Evaluator, tracks_to_smooth
from affect_jax.models.state import take_apart
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import AXIS, Mapper
from affect_jax.systems.base import System
from affect_jax.training import best_metric, initial_weights, mixing
from affect_jax.training.step import Phases, PhaseStep
from affect_jax.weights.checkpoints import Checkpointer
from affect_jax.weights.teacher import load_teacher
from data_pipelines.schema import Source
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunParts:
    """What a run consists of, put together before its first step.

    Attributes:
      sources: split -> examples.
      model: the module, in evaluation mode.
      start: steps done before: the step of the newest checkpoint, or 0.
      total: steps of the whole run.
      phases: makes the train steps.
      evaluator: measures the validation split.
      labels: where the label vectors of a model with relations come from; None without.
      cache: shares sources and decoded images with other runs.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    mapper: Mapper
    sources: dict[str, Source]
    system: System
    model: nnx.Module
    checkpointer: Checkpointer
    start: int
    total: int
    steps_per_epoch: int
    phases: Phases
    evaluator: Evaluator
    labels: dict[str, Any] | None
    cache: DataCache | None


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raise UserError for values that cannot work on these devices."""
    config_lib.check(config)
    parallel.check_batch_size(config.batch_size)
    parallel.check_batch_size(config.eval.batch_size or config.batch_size, "eval.batch_size")
    mixing.check(config.mixing, config.batch_size)


def check_splits(sources: dict[str, Source]) -> None:
    """Raise ConfigError if a split has no examples."""
    for split, source in sources.items():
        if not len(source):
            raise config_lib.ConfigError(
                f"the {split} split is empty; change config.data.validation_fraction, folds or "
                "test_fold, or the split column"
            )


def set_compilation_cache(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Keep compiled programs where the config says, unless JAX has a place.

    By default all runs of a user share them; without a home folder that can be written to, each
    workdir has its own.
    """
    place = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # set by JAX's import
    if config.compilation_cache != "off" and not place:
        folder = config.compilation_cache or _programs_of_user() or workdir / ".jax_cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(folder).absolute()))


def _programs_of_user() -> pathlib.Path | None:
    """Return the user's folder of compiled programs, None if it cannot be written to."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(root) / "affect_jax" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def open_checkpointer(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Checkpointer:
    """Return the checkpoints of the run in `workdir`."""
    section = config.checkpoint
    return Checkpointer(
        workdir, keep=section.keep, best_metric=section.best_metric, best_mode=section.best_mode
    )


def put_together(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    mapper: Mapper,
    sources: dict[str, Source],
    system: System,
    checkpointer: Checkpointer,
    cache: DataCache | None,
) -> RunParts:
    """Return the parts of a run.

    Raises:
      UserError: model, teacher, length or `checkpoint.best_metric` do not fit the data, or weights
        or word vectors do not fit the model.
    """
    model = system.create_model(nnx.Rngs(config.seed), AXIS)
    teacher = None
    if config.loss.teacher:
        class_names = tuple(sources["train"].class_names)
        teacher = load_teacher(
            config.loss.teacher, mapper, class_names, system.supervised, system.labels.n_features
        )
    start = parallel.from_main(checkpointer.latest_step) or 0
    if start:
        _check_hierarchy(system, checkpointer.record(start), workdir)
    with data_lib.train_batches(config, sources["train"], start, cache) as batches:
        steps_per_epoch = max(round(batches.steps_per_epoch), 1)
    total = _count_steps(config, steps_per_epoch)
    phases = Phases(system, model, mapper, total, steps_per_epoch, teacher)
    if start:
        record = checkpointer.record(start)
        labels = record.get("labels")
        phases.resume(record.get("phases", {}), start)
    else:
        labels = initial_weights.initialise(model, config, system, mapper)
    # Every class counts here (`eval.min_count`): few validation persons show the rare ones.
    evaluator = Evaluator(system, mapper, take_apart(model)[0])
    best_metric.check(config, system, evaluator, sources["validation"])
    tracks_to_smooth(config, sources["test"])  # fails now rather than at the end
    log.info(
        "%s with %s parameters; %d training, %d validation, %d test images; "
        "%d steps of %d images on %d device(s)",
        config.model.name,
        f"{sum(np.size(p) for p in take_apart(model)[1].values()):,}",
        *(len(sources[split]) for split in ("train", "validation", "test")),
        total,
        config.batch_size,
        len(mapper.devices),
    )
    return RunParts(
        config=config,
        workdir=workdir,
        mapper=mapper,
        sources=sources,
        system=system,
        model=model,
        checkpointer=checkpointer,
        start=start,
        total=total,
        steps_per_epoch=steps_per_epoch,
        phases=phases,
        evaluator=evaluator,
        labels=labels,
        cache=cache,
    )


def _check_hierarchy(system: System, record: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Refuse to resume a run with another tree over its classes than its checkpoints have."""
    now = None if system.hierarchy is None else system.hierarchy.to_plain()
    if record.get("hierarchy", now) != now:
        raise config_lib.ConfigError(
            f"the run in {workdir} began with another tree over its classes than "
            "config.model.hierarchy or config.data.hierarchy name now; restore the file, or use a "
            "new --workdir"
        )


def _count_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
    total = config.num_steps
    if total is None:
        total = math.ceil(config.num_epochs * steps_per_epoch)
    if total < 1:
        raise config_lib.ConfigError(
            f"the run has {total} steps; set config.num_steps or config.num_epochs above 0"
        )
    return int(total)


def initial_state(run: RunParts) -> tuple[dict[str, Any], PhaseStep]:
    """Return the state to start from, on the devices, and the phase it is in.

    The state is the newest checkpoint of the workdir, else that of the model of a new run.
    """
    # A checkpoint at the border of two phases holds the optimizer state of the first.
    begun = run.phases.begin(run.phases.at(max(run.start - 1, 0)))
    state = run.mapper.replicate(run.phases.fresh_state(begun))
    if run.start:
        restored = run.checkpointer.restore(run.start, run.mapper.to_global(state))
        state = run.mapper.from_global(restored)
        log.info("resumed from step %d of %s", run.start, run.workdir)
    return state, begun
