"""Models by name."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from affect_jax.errors import nearest

_REGISTRY: dict[str, "Entry"] = {}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered model: its constructor, the keywords its name fixes, and its last layer.

    `head` is the path of the layer whose shape depends on the number of classes, None if none does;
    `preset` holds defaults of the name that a caller may replace.
    """

    constructor: type[nnx.Module]
    fixed: Mapping[str, Any]
    head: str | None
    preset: Mapping[str, Any]

    def keywords(self) -> list[str]:
        """The constructor keywords a caller may give."""
        parameters = inspect.signature(self.constructor.__init__).parameters
        return [name for name in parameters if name not in {"self", "rngs", *self.fixed}]


def register(
    name: str, *, head: str | None = None, preset: Mapping[str, Any] | None = None, **fixed: Any
) -> Callable:
    """Decorator: make a module class available as `create(name)`, with `fixed` keywords set.

    `preset` replaces defaults of the constructor; unlike `fixed` ones its keywords may be given.
    """

    def decorate(constructor):
        if name in _REGISTRY:
            raise ValueError(f"a model named {name!r} is registered already")
        _REGISTRY[name] = Entry(constructor, fixed, head, preset or {})
        return constructor

    return decorate


def names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def entry(name: str) -> Entry:
    """The registration of `name`; ValueError naming the nearest name if there is none."""
    if name not in _REGISTRY:
        raise ValueError(f"no model is named {name!r}; {nearest(name, names())}")
    return _REGISTRY[name]


def takes(name: str, keyword: str) -> bool:
    """Whether there is a model `name` and a caller may give it `keyword`."""
    return name in _REGISTRY and keyword in _REGISTRY[name].keywords()


def default(name: str, keyword: str) -> Any:
    """What the model `name` takes where `keyword` is not given; None without such a keyword."""
    if not takes(name, keyword):
        return None
    found = _REGISTRY[name]
    if keyword in found.preset:
        return found.preset[keyword]
    return inspect.signature(found.constructor.__init__).parameters[keyword].default


def head_of(model: nnx.Module) -> str | None:
    """Path of the layer of `model` whose shape depends on the number of classes, if any."""
    heads = {e.head for e in _REGISTRY.values() if e.constructor is type(model)}
    return heads.pop() if heads else None


def create(name: str, *, rngs: nnx.Rngs | None = None, seed: int = 0, **kwargs: Any) -> nnx.Module:
    """Build a model with fresh parameters, in training mode.

    `rngs` defaults to `nnx.Rngs(seed)`; the other keywords are those of the model, among them for
    every model `dtype` (of the computation), `param_dtype` and `axis_name` (over which BatchNorm
    averages). Raises ValueError for an unknown name and TypeError for an unknown keyword, each
    with the nearest valid one.
    """
    found = entry(name)
    for keyword in kwargs:
        if keyword not in found.keywords():
            hint = nearest(keyword, found.keywords())
            raise TypeError(f"model {name!r} has no keyword {keyword!r}; {hint}")
    rngs = nnx.Rngs(seed) if rngs is None else rngs
    return found.constructor(**found.fixed, **{**found.preset, **kwargs}, rngs=rngs)
