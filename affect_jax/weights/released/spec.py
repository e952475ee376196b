"""Description of a release: how its checkpoints map to our models."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from affect_jax.models.preprocessing import Preprocessing
from data_pipelines.schema import LABEL_ORDERS

State = Mapping[str, np.ndarray]
Arguments = Mapping[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def affectnet_classes(count: int) -> tuple[str, ...]:
    """Return AffectNet's label order for 8 and 5 classes, empty for other counts."""
    return LABEL_ORDERS.get(f"affectnet{count}", ()) if count in (5, 8) else ()


class Clues(NamedTuple):
    """What may tell how the weights in a file were trained.

    Attributes:
      file: its name.
      entry: under which the state dict lay in it; "" for a file that is a state dict itself.
      names: of the arrays.
      model_type: in the `config.json` of Hugging Face next to it; "" without one.
    """

    file: str
    entry: str
    names: frozenset[str]
    model_type: str


class Normalisation(NamedTuple):
    """Mean and deviation of a network's input.

    Attributes:
      mean, std: of RGB in [0, 1].
      reason: where they come from.
      certain: False for a guess.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    reason: str
    certain: bool = True


@dataclasses.dataclass(frozen=True)
class Release:
    """A family of released checkpoints.

    Attributes:
      architecture: name on the command line.
      model: name in `models`.
      infer: constructor arguments from the entries' shapes; KeyError or IndexError if an entry
        that every such checkpoint has is missing, ValueError if one does not fit.
      modules: official module name -> path of our module, for these arguments. It may name
        modules that a particular model does not have.
      preprocessing: of the released network.
      licence: of the released weights, recorded with the converted ones.
      class_names: names of that many classes, empty if the release has none.
      entries: official name -> our path of arrays other than a module's weight or bias, such as
        tokens and position tables; our layout must be theirs.
      prepare: rewrites a state dict in the names and layouts of the tables.
      unused: beginnings of entries (after `prepare`) that files may hold and the model does not
        need.
      on_hubs: whether files of Hugging Face and timm come with a description.
      normalisation: mean and deviation by what a file tells; None: always as in
        `preprocessing`.
    """

    architecture: str
    model: str
    infer: Callable[[State], dict[str, Any]]
    modules: Callable[[Arguments], dict[str, str]]
    preprocessing: Preprocessing
    licence: str
    class_names: Callable[[int], tuple[str, ...]] = lambda count: ()
    entries: Callable[[Arguments], dict[str, str]] = lambda arguments: {}
    prepare: Callable[[State], State] = dict
    unused: tuple[str, ...] = ()
    on_hubs: bool = False
    normalisation: Callable[[Clues], Normalisation] | None = None
