"""What is known of a released checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from affect_jax.weights.model_dir import Preprocessing
from data_pipelines.schema import LABEL_ORDERS


def affectnet_names(count: int) -> tuple[str, ...]:
    """AffectNet's label order for 8 and 5 classes, none for other counts."""
    return LABEL_ORDERS.get(f"affectnet{count}", ()) if count in (5, 8) else ()


class Clues(NamedTuple):
    """What may tell how the weights in a file were trained.

    Attributes:
      file: its name.
      entry: under which the state dict lay in it; "" for a file that is one itself.
      names: of the arrays.
      model_type: of the `config.json` of Hugging Face next to it; "" without one.
    """

    file: str
    entry: str
    names: frozenset[str]
    model_type: str


class Normalisation(NamedTuple):
    """Mean and deviation of a network's input, and how they are known.

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
class Released:
    """A family of released checkpoints.

    Attributes:
      architecture: name on the command line.
      model: name in `models`.
      infer: constructor arguments from the entries' shapes; KeyError or IndexError where an entry
        that every such checkpoint has is missing.
      modules: official module name -> path of our module, for these arguments. It may name
        modules that a particular model does not have.
      preprocessing: of the released network.
      licence: of the released weights, kept with the converted ones.
      class_names: names of that many classes, empty if the release has none.
      entries: official name -> our path of arrays that are no module's weight or bias, such as
        tokens and position tables; our layout must be theirs.
      prepare: rewrites a state dict in the names and layouts that the tables are written in.
      unused: beginnings of entries (after `prepare`) that files may hold and nobody needs.
      on_hubs: whether files of Hugging Face and timm come with a description.
      normalisation: mean and deviation by what a file tells; None: always those of
        `preprocessing`.
    """

    architecture: str
    model: str
    infer: Callable[[Mapping[str, np.ndarray]], dict[str, Any]]
    modules: Callable[[Mapping[str, Any]], dict[str, str]]
    preprocessing: Preprocessing
    licence: str
    class_names: Callable[[int], tuple[str, ...]] = lambda count: ()
    entries: Callable[[Mapping[str, Any]], dict[str, str]] = lambda arguments: {}
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    unused: tuple[str, ...] = ()
    on_hubs: bool = False
    normalisation: Callable[[Clues], Normalisation] | None = None
