"""Differences between the arrays of a source and those that a model needs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Shape = tuple[int, ...]
_SHOWN = 10


def shapes_of(tree: Any) -> dict[str, Shape]:
    """Return path -> shape of every array of a nested dict."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@dataclasses.dataclass(frozen=True)
class Differences:
    """Arrays in which a source differs from a model; `str` lists them for a message.

    Attributes:
      missing: only in the model -> shape.
      unexpected: only in the source -> shape.
      reshaped: in both -> (shape in the source, shape in the model).
    """

    missing: dict[str, Shape]
    unexpected: dict[str, Shape]
    reshaped: dict[str, tuple[Shape, Shape]]

    @classmethod
    def between(
        cls, source: Mapping[str, Sequence[int]], model: Mapping[str, Sequence[int]]
    ) -> "Differences":
        """Compare the shapes of arrays of a source and of a model, by name."""
        both = {name: (tuple(source[name]), tuple(model[name])) for name in source if name in model}
        return cls(
            {name: tuple(shape) for name, shape in model.items() if name not in source},
            {name: tuple(shape) for name, shape in source.items() if name not in model},
            {name: pair for name, pair in both.items() if pair[0] != pair[1]},
        )

    def without(
        self, allowed: Callable[[str], bool], allowed_unexpected: Callable[[str], bool]
    ) -> "Differences":
        """Return the differences that remain when some names may differ."""
        return Differences(
            {name: shape for name, shape in self.missing.items() if not allowed(name)},
            {name: s for name, s in self.unexpected.items() if not allowed_unexpected(name)},
            {name: pair for name, pair in self.reshaped.items() if not allowed(name)},
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        groups = {
            "missing": [f"{name} {shape}" for name, shape in self.missing.items()],
            "unexpected": [f"{name} {shape}" for name, shape in self.unexpected.items()],
            "of another shape": [
                f"{name}: {theirs}, the model has {ours}"
                for name, (theirs, ours) in self.reshaped.items()
            ],
        }
        return "\n".join(
            f"{len(lines)} {title}:\n{listed(lines)}" for title, lines in groups.items() if lines
        )


def is_under(path: str, prefixes: Sequence[str]) -> bool:
    """Return whether `path` is one of the prefixes or lies below one."""
    return any(path == p or path.startswith(p.rstrip("/") + "/") for p in prefixes)


def listed(lines: Sequence[str]) -> str:
    """Return the first lines, indented, and the number of the others."""
    rest = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:_SHOWN], *rest])
