"""Models from runs and model directories: for evaluation, teachers and initialisation."""

import dataclasses
import logging
import pathlib
from typing import Any

import ml_collections
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax.checkpoint import Checkpointer, first_differences
from affect_jax.errors import UserError
from affect_jax.parallel import Mapper
from affect_jax.systems.base import System
from affect_jax.train_state import Blueprint, flatten, take_apart

log = logging.getLogger(__name__)


@dataclasses.dataclass
class LoadedModel:
    """A model in evaluation mode, its arrays placed on the devices.

    Attributes:
      blueprint: puts the module together from `arrays`.
      arrays: `params` and `stats`.
      mean, std: of its input, in units of [0, 1].
      class_names: position = class id; empty if the model has no expressions.
    """

    blueprint: Blueprint
    arrays: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]


@dataclasses.dataclass
class LoadedRun:
    """A checkpoint of a run.

    Attributes:
      model: in evaluation mode, holding the weights to use (the moving average where there is one).
      system: the system it belongs to.
      state: `params`, `stats` and perhaps `ema`, placed on the devices.
      step: training steps done.
      class_names: position = class id.
      config: what it was restored with.
    """

    model: nnx.Module
    system: System
    state: dict[str, Any]
    step: int
    class_names: tuple[str, ...]
    config: ml_collections.ConfigDict


def is_workdir(path: str | pathlib.Path) -> bool:
    """True if `path` is the workdir of a run rather than a model directory."""
    return (pathlib.Path(path) / config_lib.CONFIG_FILE).is_file()


def load_run(
    workdir: str | pathlib.Path,
    checkpoint: str,
    mapper: Mapper,
    config: ml_collections.ConfigDict | None = None,
) -> LoadedRun:
    """Restores a checkpoint ("best", "latest" or a step) of a run.

    Args:
      workdir: the run's folder.
      checkpoint: which one.
      mapper: where the arrays go.
      config: describes the model; default: the one recorded in the workdir.

    Raises:
      UserError: if there is no such run or checkpoint, or the config describes another model.
    """
    recorded = config_lib.read_workdir_config(workdir)
    config = config or recorded
    checkpointer = Checkpointer(
        workdir,
        best_metric=recorded.checkpoint.best_metric,
        best_mode=recorded.checkpoint.best_mode,
        read_only=True,
    )
    try:
        step = checkpointer.resolve(checkpoint)
        record = checkpointer.record(step)
        system = systems.create(
            config,
            num_classes=len(record["class_names"]),
            has=frozenset(record["has"]),
            class_counts=tuple(record["class_counts"]),
        )
        model = system.create_model(nnx.Rngs(0), axis_name=None)
        _, params, stats = take_apart(model)
        like = {"params": params, "stats": stats}
        if any(name.startswith("ema/") for name in record["arrays"]):
            like["ema"] = params
        state = checkpointer.restore(step, mapper.replicate(like))
    finally:
        checkpointer.close()
    assign(model, state.get("ema") or state["params"], state["stats"])
    return LoadedRun(model, system, state, step, tuple(record["class_names"]), config)


def assign(model: nnx.Module, params: dict[str, Any], stats: dict[str, Any]) -> None:
    """Writes flat arrays into a model in place."""
    blueprint, _, _ = take_apart(model)
    named = ((blueprint.param_paths, params), (blueprint.stat_paths, stats))
    for paths, flat in named:
        nnx.update(model, nnx.from_flat_state([(paths[k], v) for k, v in flat.items()]))


def load_any(path: str | pathlib.Path, mapper: Mapper) -> LoadedModel:
    """Loads a teacher: the best checkpoint of a workdir, or a model directory.

    Raises:
      UserError: if `path` is neither.
    """
    if is_workdir(path):
        run = load_run(path, "best", mapper)
        arrays = {
            "params": run.state.get("ema") or run.state["params"],
            "stats": run.state["stats"],
        }
        section = run.config.model
        return LoadedModel(
            take_apart(run.model)[0], arrays, section.mean, section.std, run.class_names
        )
    from affect_jax import model_io

    loaded = model_io.load_model(path)
    loaded.model.eval()
    blueprint, params, stats = take_apart(loaded.model)
    arrays = mapper.replicate({"params": params, "stats": stats})
    return LoadedModel(
        blueprint,
        arrays,
        tuple(loaded.preprocessing.mean),
        tuple(loaded.preprocessing.std),
        tuple(loaded.class_names or ()),
    )


def initialise_from(model: nnx.Module, path: str, allow: tuple[str, ...]) -> None:
    """Starts `model` from the weights of a workdir or a model directory.

    Everything in the source must have its place, and every parameter of the model a source, but
    for the names (prefixes) in `allow` and for a head of another number of classes.
    """
    raise NotImplementedError
