"""A trained model whose outputs train another one."""

import dataclasses
import logging
import pathlib
from typing import Any

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.relations import leave_batch
from affect_jax.models.state import Blueprint, take_apart
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run, model_dir
from affect_jax.weights.model_dir import OUTPUTS_OF_LABEL
from data_pipelines.schema import canonical_name, same_classes

log = logging.getLogger(__name__)

# Label fields in place of which a teacher's outputs can be learnt.
_TEACHABLE = frozenset({"expression", "valence_arousal"})


@dataclasses.dataclass
class Teacher:
    """A model in evaluation mode whose outputs train another one.

    Attributes:
      blueprint: builds the module from `arrays`.
      arrays: `params` and `stats`, placed on the devices.
      mean, std: of its input, RGB in [0, 1].
      teaches: label fields that it was trained for and the student learns.
    """

    blueprint: Blueprint
    arrays: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    teaches: frozenset[str]

    def lessons(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs to learn from; a head without supervision must not teach."""
        names = [name for field in self.teaches for name in OUTPUTS_OF_LABEL[field]]
        return {name: outputs[name] for name in names if name in outputs}


def load_teacher(
    path: str | pathlib.Path,
    mapper: Mapper,
    class_names: tuple[str, ...],
    learns: frozenset[str],
    n_features: int = 0,
) -> Teacher:
    """Open the best checkpoint of a workdir, or a model directory, as a teacher.

    Args:
      path: of the workdir or the model directory.
      mapper: where the arrays go.
      class_names: of the data, position = class id.
      learns: label fields that the student's loss trains, see `System.supervised`.
      n_features: numbers of a feature vector of the data; 0: they are images.

    Raises:
      UserError: if `path` is neither, the teacher knows nothing that the student learns, it takes
        other data, or its classes are not `class_names`.
    """
    if load_run.is_workdir(path):
        run = load_run.load_run(path, "best", mapper)
        model, names, known = run.model, run.class_names, run.system.known
        seen = run.config.model
    else:
        loaded = model_dir.load_model(path)
        model, names, known = loaded.model, loaded.class_names, loaded.trained_for()
        seen = loaded.preprocessing
    where = f"config.loss.teacher = {str(path)!r}"
    if models.n_features(model) != n_features:
        taken = models.n_features(model)
        raise UserError(
            f"{where} takes {f'vectors of {taken} features' if taken else 'images'}, and the data "
            f"are {f'vectors of {n_features} features' if n_features else 'images'}; use a teacher "
            "that was trained on the same kind of data"
        )
    teaches = known & learns & _TEACHABLE
    if not teaches:
        raise UserError(
            f"{where} was trained for {', '.join(sorted(known)) or 'nothing that is known'}, and "
            f"this run learns {', '.join(sorted(learns))}; use another teacher. If this "
            'teacher knows more, say so in its model.json: "provenance": {"trained_for": [...]}'
        )
    if "expression" in teaches and not same_classes(names, class_names):
        advice = ""
        if not names:
            advice = ": name the teacher's in its model.json, as class_names"
        elif sorted(map(canonical_name, names)) == sorted(map(canonical_name, class_names)):
            advice = f": add --config.data.classes={','.join(names)}"
        raise UserError(
            f"{where} knows the classes {', '.join(names) or '(not named)'}; the data have "
            f"{', '.join(class_names)}. They must be the same, in the same order{advice}"
        )
    log.info("%s teaches %s", where, ", ".join(sorted(teaches)))
    for field in sorted(learns & _TEACHABLE - teaches):
        log.warning("%s does not teach %s, which is learnt from labels alone", where, field)
    if leave_batch(model):  # a device sees a part of the batch
        log.info("%s compares images with its bank, not with their batch", where)
    blueprint, params, stats = take_apart(model)
    arrays = mapper.replicate({"params": params, "stats": stats})
    return Teacher(blueprint, arrays, tuple(seen.mean), tuple(seen.std), teaches)
