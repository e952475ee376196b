"""A checkpoint of a run, opened as a model."""

import dataclasses
import pathlib
from typing import Any

import ml_collections
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import System
from affect_jax.weights import model_dir
from affect_jax.weights.checkpoints import Checkpointer


@dataclasses.dataclass
class LoadedRun:
    """A checkpoint of a run.

    Attributes:
      model: in evaluation mode, with the weights to use (the moving average if there is one).
      system: the system it belongs to.
      state: `params`, `stats` and perhaps `ema`, placed on the devices.
      step: training steps done.
      class_names: position = class id; empty for a system without classes.
      config: what it was restored with.
      labels: where the label vectors of a model with relations come from; None without.
    """

    model: nnx.Module
    system: System
    state: dict[str, Any]
    step: int
    class_names: tuple[str, ...]
    config: ml_collections.ConfigDict
    labels: dict[str, Any] | None


def is_workdir(path: str | pathlib.Path) -> bool:
    """Return whether `path` is the workdir of a run rather than a model directory."""
    return (pathlib.Path(path) / config_lib.CONFIG_FILE).is_file()


def load_run(
    workdir: str | pathlib.Path,
    checkpoint: str,
    mapper: Mapper,
    config: ml_collections.ConfigDict | None = None,
) -> LoadedRun:
    """Restore a checkpoint of a run, on every process that has devices of `mapper`.

    Args:
      workdir: the run's folder.
      checkpoint: "best", "latest" or a step.
      mapper: where the arrays go.
      config: describes the model; default: the one recorded in the workdir.

    Raises:
      UserError: the run or checkpoint does not exist, or the config describes another model.
    """
    recorded = config_lib.read_workdir_config(workdir)
    config = config or recorded
    # `read_workdir_config` has put "auto" if the metric determines the mode.
    checkpointer = Checkpointer(
        workdir,
        best_metric=recorded.checkpoint.best_metric,
        best_mode=recorded.checkpoint.best_mode,
        read_only=True,
    )
    # A run in progress may write its next checkpoint before the second process looks.
    together = len({device.process_index for device in mapper.devices}) > 1
    if together:
        step = parallel.from_main(lambda: checkpointer.resolve(checkpoint))
    else:
        step = checkpointer.resolve(checkpoint)
    record = checkpointer.record(step)
    system = systems.create(
        config,
        class_names=tuple(record["class_names"]),
        has=frozenset(record["has"]),
        class_counts=tuple(record["class_counts"]),
        hierarchy=model_dir.recorded_hierarchy(record),
        n_features=record.get("n_features", 0),  # runs of earlier versions had images
    )
    model = system.create_model(nnx.Rngs(0), axis_name=None)
    like: dict[str, Any] = {**model_dir.arrays_of(model)}
    if any(name.startswith("ema/") for name in record["arrays"]):
        like["ema"] = dict(like)
    like = mapper.to_global(mapper.replicate(like))
    state = mapper.from_global(checkpointer.restore(step, like))
    model_dir.assign(model, state.get("ema", state))
    return LoadedRun(model, system, state, step, system.class_names, config, record.get("labels"))
