"""Models by name."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from affect_jax.errors import nearest
from affect_jax.models import relations_settings, reliability_settings
from affect_jax.models.layers import Layers

_REGISTRY: dict[str, "Entry"] = {}
# Arguments that a run sets itself, by its data.
_SET_BY_RUNS = ("n_expression", "n_features", "image_size")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered model.

    Attributes:
      constructor: class of the model.
      fixed: arguments that the name implies; a caller cannot give them.
      head: path of the layer whose shape depends on the number of classes, if any.
      preset: defaults of the name, which replace the constructor's.
    """

    constructor: type[nnx.Module]
    fixed: Mapping[str, Any]
    head: str | None
    preset: Mapping[str, Any]

    def defaults(self) -> dict[str, Any]:
        """Return every argument of its own that a caller may give, with its default."""
        parameters = inspect.signature(self.constructor.__init__).parameters
        own = {n: p.default for n, p in parameters.items() if n not in {"self", "make"}}
        return {n: self.preset.get(n, v) for n, v in own.items() if n not in self.fixed}


def register(
    name: str, *, head: str | None = None, preset: Mapping[str, Any] | None = None, **fixed: Any
) -> Callable:
    """Return a decorator that makes a class available as `create(name)`; see `Entry`."""

    def decorate(constructor):
        if name in _REGISTRY:
            raise ValueError(f"a model named {name!r} is registered already")
        _REGISTRY[name] = Entry(constructor, fixed, head, preset or {})
        return constructor

    return decorate


def names() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(_REGISTRY)


def entry(name: str) -> Entry:
    """Return the registration of `name`; raise ValueError if there is none."""
    if name not in _REGISTRY:
        raise ValueError(f"no model is named {name!r}; {nearest(name, names())}")
    return _REGISTRY[name]


def takes(name: str, argument: str) -> bool:
    """Return whether there is a model `name` and a caller may give it `argument`."""
    return name in _REGISTRY and argument in _REGISTRY[name].defaults()


def default(name: str, argument: str) -> Any:
    """Return the default of an argument of the model `name`; None without it."""
    return _REGISTRY[name].defaults().get(argument) if name in _REGISTRY else None


def section(name: str) -> dict[str, Any]:
    """Return what a config can set of the model `name`, with the defaults.

    Arguments that depend on the data or the devices are left out. `dtype` is given by name, and
    `relations` and `reliability` as sections with `enabled` and every setting.

    Raises:
      ValueError: an unknown name.
    """
    fields = {n: v for n, v in entry(name).defaults().items() if n not in _SET_BY_RUNS}
    fields["dtype"] = "float32"
    if "reliability" in fields:
        fields["reliability"] = reliability_settings.to_section(fields["reliability"])
    if "relations" in fields:
        fields["relations"] = relations_settings.to_section(fields["relations"])
    return fields


def head_of(model: nnx.Module) -> str | None:
    """Return the path of the layer that depends on the number of classes, if any."""
    heads = {e.head for e in _REGISTRY.values() if e.constructor is type(model)}
    return heads.pop() if heads else None


def input_shape(model: nnx.Module, image_size: int) -> tuple[int, ...]:
    """Return the shape of one example of a model's input.

    It is an image [S, S, 3], or the `input_shape` that a model of other data has as an attribute.
    """
    return getattr(model, "input_shape", (image_size, image_size, 3))


def n_features(model: nnx.Module) -> int:
    """Return the numbers of the feature vectors that a model takes; 0 if it takes images."""
    shape = input_shape(model, 1)
    return shape[0] if len(shape) == 1 else 0


def create(
    name: str,
    *,
    rngs: nnx.Rngs | None = None,
    seed: int = 0,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    axis_name: str | None = None,
    **arguments: Any,
) -> nnx.Module:
    """Build a model with fresh parameters, in training mode.

    Args:
      name: registered name.
      rngs: random streams of the initialisation; default: `nnx.Rngs(seed)`.
      seed: of the initialisation.
      dtype, param_dtype, axis_name: see `Layers`.
      **arguments: of the model.

    Raises:
      ValueError: an unknown name.
      TypeError: an unknown argument. Both messages name the nearest valid one.
    """
    found = entry(name)
    known = found.defaults()
    for keyword in arguments:
        if keyword not in known:
            hint = nearest(keyword, [*known, "dtype", "param_dtype", "axis_name"])
            raise TypeError(f"model {name!r} has no keyword {keyword!r}; {hint}")
    make = Layers(nnx.Rngs(seed) if rngs is None else rngs, dtype, param_dtype, axis_name)
    build: Callable[..., nnx.Module] = found.constructor
    chosen = {**known, **arguments}
    relations_settings.check_together(chosen.get("relations"), chosen.get("reliability"))
    return build(**found.fixed, **{**found.preset, **arguments}, make=make)
