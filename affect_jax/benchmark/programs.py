"""Train and evaluation steps of a config as programs, without weights in memory.

The model is built abstractly, so a program of any size can be lowered, exported, compiled and read
on a small machine, also for devices that are not there.
"""

from typing import Any

import jax
import ml_collections
from flax import nnx

from affect_jax import config as config_lib
from affect_jax.benchmark import suite
from affect_jax.benchmark.train import random_batch, system_of
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation.evaluator import make_eval_step
from affect_jax.models.state import take_apart
from affect_jax.runtime.parallel import AXIS, AbsentDevices, Program
from affect_jax.training.step import Phases, PhaseStep

_STEPS_PER_EPOCH = 100

# The published systems at full size: name -> config file and what differs from it.
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "emofan": ("emofan_afewva", {}),
    "fan": ("fan_300w", {}),
    "poster": ("poster_v2_rafdb", {}),
    "arbex": ("arbex_rafdb", {}),
    "vit_se": ("vit_se_fer2013", {}),
    "rald": ("rald_fg_emotions", {}),
    "resnet50": ("resnet50_faces", {"system": "classifier", "data.image_size": 224}),
}


def full_size(
    name: str, *, dtype: str = "bfloat16", remat: str = "none"
) -> ml_collections.ConfigDict:
    """Return the config of a system at its published size.

    Args:
      name: of `SYSTEMS`.
      dtype: of the computation.
      remat: see `models.recompute`.

    Raises:
      UserError: an unknown name.
    """
    if name not in SYSTEMS:
        raise UserError(f"no system {name!r}; {nearest(name, SYSTEMS)}")
    file, changes = SYSTEMS[name]
    config = config_lib.load_file(suite.CONFIGS / f"{file}.py")
    config.update_from_flattened_dict(changes)
    config.num_steps = 1000
    config.model.dtype, config.model.remat = dtype, remat
    return config


class Programs:
    """Programs of one config over some devices.

    Args:
      config: of a run.
      devices: to lower or compile for.
    """

    def __init__(self, config: ml_collections.ConfigDict, devices: AbsentDevices):
        self.config, self._devices = config, devices
        self._system = system_of(config)
        self._model = self._abstract()
        self._begun = self._begin(self._model)[1]
        self._state = devices.replicate(jax.eval_shape(self._fresh_state))

    def train(self, batch_size: int) -> Program:
        """Return the train step of the last phase."""
        return self._begun.program(self._state, self._batch(batch_size))

    def evaluation(self, batch_size: int) -> Program:
        """Return the evaluation step of a test split, with its mirrored pass."""
        blueprint = take_apart(self._model)[0]
        config = self.config
        step = make_eval_step(
            self._system, blueprint, config.data.image_size, flip=config.eval.flip
        )
        state = {name: self._state[name] for name in ("params", "stats")}
        mapped = self._devices.map(step, sharded_output=True)
        return mapped.program(state, self._batch(batch_size))

    def _abstract(self) -> nnx.Module:
        """Return the model without arrays.

        Its attributes are in the order of construction, which numbers the layers.
        """
        orders: dict[tuple, list[str]] = {}

        def create() -> nnx.Module:
            model = self._create()
            orders.update((path, list(vars(part))) for path, part in nnx.iter_modules(model))
            return model

        model = nnx.eval_shape(create)
        for path, part in nnx.iter_modules(model):
            for name in orders[path]:
                vars(part)[name] = vars(part).pop(name)
        return model

    def _create(self) -> nnx.Module:
        return self._system.create_model(nnx.Rngs(0), AXIS)

    def _begin(self, model: nnx.Module) -> tuple[Phases, PhaseStep]:
        steps = self.config.num_steps
        phases = Phases(self._system, model, self._devices, steps, _STEPS_PER_EPOCH)
        return phases, phases.begin(phases.all[-1])

    def _fresh_state(self) -> dict[str, Any]:
        phases, begun = self._begin(self._create())
        return phases.fresh_state(begun)

    def _batch(self, batch_size: int) -> dict[str, Any]:
        config = self.config.copy_and_resolve_references()
        config.batch_size = batch_size
        return self._devices.place(random_batch(config, self._system.num_classes))
