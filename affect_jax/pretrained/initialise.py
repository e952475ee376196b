"""Starting a model from the weights of another one of ours."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from affect_jax import model_io, models
from affect_jax.errors import UserError
from affect_jax.models.fan import FAN
from affect_jax.train_state import take_apart

_SHOWN = 10
Arrays = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass
class InitReport:
    """What `init_from` did.

    Attributes:
      loaded: paths that were taken over.
      skipped: paths of the source that were not, each with the reason.
      missing: paths of the model that keep their fresh values.
    """

    loaded: list[str] = dataclasses.field(default_factory=list)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{len(self.loaded)} arrays loaded, {len(self.skipped)} skipped, "
            f"{len(self.missing)} left at their initial values"
        ]
        lines += [f"  skipped {path}: {reason}" for path, reason in self.skipped.items()]
        return "\n".join(lines)


def init_from(
    model: nnx.Module, source: str | pathlib.Path | nnx.Module, *, allow: Sequence[str] = ()
) -> InitReport:
    """Takes over weights and BatchNorm statistics, writing into `model` in place.

    A source of the class of one of the model's parts, such as a FAN for the trunk of an EmoFAN,
    fills that part, and the rest keeps its fresh values. Otherwise both must be of one class. A
    last layer for another number of classes keeps its fresh values. Any other array without its
    like on the other side is an error.

    Args:
      model: to be initialised; it is not changed if this raises.
      source: a model directory, or a model.
      allow: path prefixes such as "fan/stacks/1" where the two may differ, and "pool" to accept a
        landmark network trained with the other kind of pooling.

    Raises:
      UserError: listing what does not fit, or if the source cannot be read.
    """
    where = "the given model" if isinstance(source, nnx.Module) else str(source)
    if not isinstance(source, nnx.Module):
        source = model_io.load_model(source).model
    root = _root(model, source, where)
    _check_pools(model, source, root, where, allow)
    own, given = _arrays(model), _arrays(source)
    given = {
        part: {f"{root}{path}": x for path, x in named.items()} for part, named in given.items()
    }
    merged, report = merge(
        own, given, root=root, head=models.head_of(model), allow=allow, where=where
    )
    nnx.update(model, nnx.state(model_io.with_arrays(model, merged), (nnx.Param, nnx.BatchStat)))
    return report


def merge(
    own: Arrays,
    given: Arrays,
    *,
    root: str = "",
    head: str | None = None,
    allow: Sequence[str] = (),
    where: str = "the source",
) -> tuple[dict[str, dict[str, Any]], InitReport]:
    """`own` with the arrays of `given` that have the same path and shape, and a report.

    Both are `{"params": {path: array}, "stats": {path: array}}`. Paths outside of `root` may be
    missing from `given`; those of `head` may have another shape; those that begin with a prefix in
    `allow` may differ in any way.

    Raises:
      UserError: listing all other differences.
    """
    report, problems, merged = InitReport(), [], {}
    for part, named in own.items():
        source = given.get(part, {})
        merged[part] = dict(named)
        for path, value in named.items():
            if path not in source:
                report.missing.append(path)
                if path.startswith(root) and not _under(path, allow):
                    problems.append(f"{path} {value.shape}: only in the model")
            elif source[path].shape == value.shape:
                merged[part][path] = source[path]
                report.loaded.append(path)
            else:
                reason = f"{source[path].shape} in the source, {value.shape} in the model"
                report.skipped[path] = reason
                report.missing.append(path)
                if not _under(path, (*allow, head) if head else allow):
                    problems.append(f"{path}: {reason}")
        for path in source.keys() - named.keys():
            report.skipped[path] = "not in the model"
            if not _under(path, allow):
                problems.append(f"{path} {source[path].shape}: only in the source")
    if problems:
        problems.sort()
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{where} does not fit the model:\n  "
            + "\n  ".join(problems[:_SHOWN])
            + more
            + "\nallow the names that may differ, or build the model like its source"
        )
    return merged, report


def _under(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == p or path.startswith(p.rstrip("/") + "/") for p in prefixes)


def _root(model: nnx.Module, source: nnx.Module, where: str) -> str:
    if type(model) is type(source):
        return ""
    for name, part in vars(model).items():
        if type(part) is type(source):
            return f"{name}/"
    raise UserError(
        f"{where} is a {type(source).__name__}; it fits neither a {type(model).__name__} nor one "
        "of its parts"
    )


def _check_pools(
    model: nnx.Module, source: nnx.Module, root: str, where: str, allow: Sequence[str]
) -> None:
    """Pooling leaves no trace in the shapes, but the weights work with their own kind only."""
    own, given = _pools(model), _pools(source)
    for path, kind in given.items():
        path = f"{root}{path}".rstrip("/")
        if path in own and own[path] != kind and "pool" not in allow:
            raise UserError(
                f"{where} was built with pool={kind!r}, the model with pool={own[path]!r}; build "
                'the model like its source, or allow "pool" to go on all the same'
            )


def _pools(model: nnx.Module) -> dict[str, str]:
    return {
        "/".join(map(str, path)): module.pool
        for path, module in nnx.iter_modules(model)
        if isinstance(module, FAN)
    }


def _arrays(model: nnx.Module) -> dict[str, dict[str, Any]]:
    _, params, stats = take_apart(model)
    return {"params": params, "stats": stats}
