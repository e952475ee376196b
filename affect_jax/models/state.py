"""Take models apart into flat dicts of arrays, and put them together again.

`params` and `stats` (BatchNorm statistics) map readable paths such as `fan/stem_conv/kernel` to
arrays, so that parts are selected, compared and saved by name.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from flax import nnx

from affect_jax.models.layers import Constant, Counter

Flat = dict[str, jax.Array]


def flatten(state: nnx.State) -> Flat:
    """Return path -> array of an `nnx.State`, sorted by path."""
    flat = {"/".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
    return dict(sorted(flat.items()))


class Blueprint(NamedTuple):
    """What a traced function needs, together with the arrays, to call a model.

    `constants` are the paths of the statistics that are not averaged, and `counters` of those that
    stay with their run, see `models.layers`.
    """

    graphdef: Any
    param_paths: dict[str, tuple]
    stat_paths: dict[str, tuple]
    rest: nnx.State
    constants: frozenset[str] = frozenset()
    counters: frozenset[str] = frozenset()

    def build(self, params: Flat, stats: Flat) -> nnx.Module:
        """Return the module with these arrays; tracing leaves `rest` unchanged."""
        param_state = nnx.from_flat_state([(self.param_paths[k], v) for k, v in params.items()])
        stat_state = nnx.from_flat_state([(self.stat_paths[k], v) for k, v in stats.items()])
        return nnx.merge(self.graphdef, param_state, stat_state, self.rest, copy=True)


def take_apart(model: nnx.Module) -> tuple[Blueprint, Flat, Flat]:
    """Return (blueprint, params, stats) of a model; its train or eval mode is kept."""
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = states

    def paths(state: nnx.State) -> dict[str, tuple]:
        return {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}

    def of_kind(kind: type[nnx.BatchStat]) -> frozenset[str]:
        leaves = nnx.to_flat_state(stats)
        return frozenset(
            "/".join(map(str, path)) for path, leaf in leaves if isinstance(leaf, kind)
        )

    blueprint = Blueprint(
        graphdef, paths(params), paths(stats), rest, of_kind(Constant), of_kind(Counter)
    )
    return blueprint, flatten(params), flatten(stats)


def current_stats(model: nnx.Module) -> Flat:
    """Return the BatchNorm statistics of a model, as after a forward pass."""
    return flatten(nnx.state(model, nnx.BatchStat))


def select(flat: Flat, keep: Callable[[str], bool]) -> tuple[Flat, Flat]:
    """Split a flat dict into (kept, others) by path."""
    kept = {k: v for k, v in flat.items() if keep(k)}
    return kept, {k: v for k, v in flat.items() if k not in kept}


def path_name(path: tuple) -> str:
    """Return `a/b/kernel` for a key path of `jax.tree_util`, without `/value`."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def matches(patterns: Iterable[str], name: str) -> bool:
    """Return whether a pattern matches the start; it is a regex or a plain prefix."""
    return any(re.match(pattern, name) for pattern in patterns)
