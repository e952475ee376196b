"""Models from runs and model directories: for evaluation, teachers and initialisation."""

import dataclasses
import logging
import pathlib
from typing import Any

import ml_collections
from flax import nnx

from affect_jax import config as config_lib
from affect_jax import systems
from affect_jax import weights as weights_lib
from affect_jax.errors import UserError
from affect_jax.models.state import Blueprint, take_apart
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import System
from affect_jax.weights import model_dir
from affect_jax.weights.checkpoints import Checkpointer
from data_pipelines.schema import canonical_name, same_classes

log = logging.getLogger(__name__)

# Outputs that a teacher gives in place of the labels of a field.
TAUGHT = {"expression": ("logits",), "valence_arousal": ("valence", "arousal")}


@dataclasses.dataclass
class Teacher:
    """A model in evaluation mode whose outputs train another one.

    Attributes:
      blueprint: puts the module together from `arrays`.
      arrays: `params` and `stats`, placed on the devices.
      mean, std: of its input, RGB in [0, 1].
      teaches: label fields that it was trained for and the student learns; see `lessons`.
    """

    blueprint: Blueprint
    arrays: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    teaches: frozenset[str]

    def lessons(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """The outputs to learn from: a head that was never supervised must not teach."""
        names = [name for field in self.teaches for name in TAUGHT[field]]
        return {name: outputs[name] for name in names if name in outputs}


@dataclasses.dataclass
class LoadedRun:
    """A checkpoint of a run.

    Attributes:
      model: in evaluation mode, holding the weights to use (the moving average where there is one).
      system: the system it belongs to.
      state: `params`, `stats` and perhaps `ema`, placed on the devices.
      step: training steps done.
      class_names: position = class id; empty for a system without classes.
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

    Every process whose devices `mapper` has must call this.

    Raises:
      UserError: if there is no such run or checkpoint, or the config describes another model.
    """
    recorded = config_lib.read_workdir_config(workdir)
    config = config or recorded
    # `read_workdir_config` has put "auto" where a metric tells the mode by itself.
    checkpointer = Checkpointer(
        workdir,
        best_metric=recorded.checkpoint.best_metric,
        best_mode=recorded.checkpoint.best_mode,
        read_only=True,
    )
    try:
        # A run that is going on may write the next checkpoint between two processes' looks.
        together = len({device.process_index for device in mapper.devices}) > 1
        choose = parallel.from_main if together else lambda decide: decide()
        step = choose(lambda: checkpointer.resolve(checkpoint))
        record = checkpointer.record(step)
        system = systems.create(
            config,
            class_names=tuple(record["class_names"]),
            has=frozenset(record["has"]),
            class_counts=tuple(record["class_counts"]),
        )
        model = system.create_model(nnx.Rngs(0), axis_name=None)
        _, params, stats = take_apart(model)
        like = {"params": params, "stats": stats}
        if any(name.startswith("ema/") for name in record["arrays"]):
            like["ema"] = {"params": params, "stats": stats}
        like = mapper.to_global(mapper.replicate(like))
        state = mapper.from_global(checkpointer.restore(step, like))
    finally:
        checkpointer.close()
    weights = state.get("ema", state)
    assign(model, weights["params"], weights["stats"])
    return LoadedRun(model, system, state, step, system.class_names, config)


def assign(model: nnx.Module, params: dict[str, Any], stats: dict[str, Any]) -> None:
    """Writes flat arrays into a model in place."""
    blueprint, _, _ = take_apart(model)
    for paths, flat in ((blueprint.param_paths, params), (blueprint.stat_paths, stats)):
        nnx.update(model, nnx.from_flat_state([(paths[k], v) for k, v in flat.items()]))


def load_teacher(
    path: str | pathlib.Path,
    mapper: Mapper,
    class_names: tuple[str, ...],
    learns: frozenset[str],
) -> Teacher:
    """The best checkpoint of a workdir, or a model directory, as a teacher.

    Args:
      path: of the workdir or the model directory.
      mapper: where the arrays go.
      class_names: of the data, position = class id.
      learns: label fields that the student's loss trains, see `System.supervised`.

    Raises:
      UserError: if `path` is neither, the teacher knows nothing that the student learns, or its
        classes are not `class_names`.
    """
    if is_workdir(path):
        run = load_run(path, "best", mapper)
        model, names, section = run.model, run.class_names, run.config.model
        mean, std = tuple(section.mean), tuple(section.std)
        known = run.system.known
    else:
        loaded = model_dir.load_model(path)
        model, names = loaded.model, loaded.class_names
        mean, std = tuple(loaded.preprocessing.mean), tuple(loaded.preprocessing.std)
        known = weights_lib.trained_for(loaded)
    where = f"config.loss.teacher = {str(path)!r}"
    teaches = known & learns & TAUGHT.keys()
    if not teaches:
        raise UserError(
            f"{where} was trained for {', '.join(sorted(known)) or 'nothing that is known'}, and "
            f"this run learns {', '.join(sorted(learns))}: there is nothing to teach. If the "
            'teacher knows more, say so in its model.json: "provenance": {"trained_for": [...]}'
        )
    if "expression" in teaches and not same_classes(names, class_names):
        raise UserError(
            f"{where} knows the classes {', '.join(names) or '(not named)'}; the data have "
            f"{', '.join(class_names)}. They must be the same, in the same order"
            + _to_same_classes(names, class_names)
        )
    log.info("%s teaches %s", where, ", ".join(sorted(teaches)))
    for field in sorted(learns & TAUGHT.keys() - teaches):
        log.warning("%s was not trained for %s, which is learnt from labels alone", where, field)
    blueprint, params, stats = take_apart(model)
    arrays = mapper.replicate({"params": params, "stats": stats})
    return Teacher(blueprint, arrays, mean, std, teaches)


def _to_same_classes(names: tuple[str, ...], class_names: tuple[str, ...]) -> str:
    """What to do about a teacher whose classes are not those of the data."""
    if not names:
        return ": name the teacher's in its model.json, as class_names"
    if sorted(map(canonical_name, names)) == sorted(map(canonical_name, class_names)):
        return f": add --config.data.classes={','.join(names)}"
    return ""


def initialise_from(
    model: nnx.Module,
    path: str,
    allow: tuple[str, ...],
    mapper: Mapper,
    class_names: tuple[str, ...] = (),
) -> None:
    """Starts `model`, which is for `class_names`, from the best checkpoint of a workdir, from a
    model directory, or from a released checkpoint; from several, one after the other, for a model
    whose parts have weights of their own ("ir50.pth,mobilefacenet.pth").

    See `pretrained.init_from` for what may differ.

    Raises:
      UserError: if the weights do not fit.
    """
    several = [path] if pathlib.Path(path).exists() else path.split(",")
    for one in (part.strip() for part in several):
        if is_workdir(one):
            run = load_run(one, "best", mapper)
            source, source_classes = run.model, run.class_names
        else:
            source, source_classes = one, ()
        report = weights_lib.init_from(
            model, source, allow=allow, classes=class_names, source_classes=source_classes
        )
        log.info("initialised from %s: %s", one, report)
