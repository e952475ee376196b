"""Starting a model from the weights of another one of ours, or from a released checkpoint."""

import dataclasses
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.emofan import EmoFAN
from affect_jax.models.fan import FAN
from affect_jax.models.state import take_apart
from affect_jax.models.vit import SIZES, ViT, resize_positions
from affect_jax.weights import model_dir
from affect_jax.weights.released import convert
from affect_jax.weights.released.files import read_weights
from data_pipelines.schema import canonical_name

_SHOWN = 10
# Parts that a released checkpoint of a backbone does not have.
_NOT_RELEASED = ("se", "emotion/se", "reliability")
Arrays = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass
class InitReport:
    """What `init_from` did.

    Attributes:
      loaded: paths that were taken over.
      resized: those among them that were made to fit, each with how.
      skipped: paths of the source that were not taken over, each with the reason.
      missing: paths of the model that keep their fresh values.
    """

    loaded: list[str] = dataclasses.field(default_factory=list)
    resized: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{len(self.loaded)} arrays loaded, {len(self.skipped)} skipped, "
            f"{len(self.missing)} left at their initial values"
        ]
        lines += [f"  resized {path}: {how}" for path, how in self.resized.items()]
        lines += [f"  skipped {path}: {reason}" for path, reason in self.skipped.items()]
        fresh = [path for path in self.missing if path not in self.skipped]
        lines += [f"  initial {path}" for path in fresh[:_SHOWN]]
        if len(fresh) > _SHOWN:
            lines.append(f"  ... and {len(fresh) - _SHOWN} more")
        return "\n".join(lines)


def init_from(
    model: nnx.Module,
    source: str | pathlib.Path | nnx.Module,
    *,
    allow: Sequence[str] = (),
    classes: Sequence[str] = (),
    source_classes: Sequence[str] = (),
) -> InitReport:
    """Takes over weights and BatchNorm statistics, writing into `model` in place.

    A source of the class of one of the model's parts, such as a FAN for the trunk of an EmoFAN,
    fills that part, without a last layer that the part does not have, and the rest keeps its
    values. Otherwise both must be of one class. Any array without its like on the other side is an
    error, but for these:

    * A last layer for another number of classes keeps its fresh values. Where both label orders are
      known, one for the same classes in another order is reordered, and one for other classes
      keeps its fresh values. That of a file always does: its label order is not known. What of it
      gives valence and arousal is taken over whatever the classes are.
    * Position embeddings of a vision transformer are interpolated to the model's `image_size`.
    * A file, or a model directory converted from one, need not hold squeeze and excitation or
      reliability balancing.

    Args:
      model: to be initialised; it is not changed if this raises.
      source: a model directory, a released checkpoint (.pth, .npz, .safetensors), or a model.
      allow: path prefixes such as "fan/stacks/1" where the two may differ, and "pool" to accept a
        landmark network trained with the other kind of pooling.
      classes: of the model, position = class id; empty if unknown.
      source_classes: of a source that is a model; a model directory knows its own.

    Raises:
      UserError: listing what does not fit, or if the source cannot be read.
    """
    where = "the given model" if isinstance(source, nnx.Module) else str(source)
    report, optional = InitReport(), ()
    if not isinstance(source, nnx.Module):
        if not pathlib.Path(source).exists():
            raise UserError(f"{source} does not exist; there is nothing to start from")
        if pathlib.Path(source).is_file():
            converted, source_classes = _read_release(model, pathlib.Path(source), allow)
            source, optional = converted.model, _NOT_RELEASED
            report.skipped |= converted.skipped
        else:
            loaded = model_dir.load_model(source)
            source, source_classes = loaded.model, loaded.class_names
            if convert.is_converted(loaded):
                optional = _NOT_RELEASED
                source_classes = source_classes or None
    root = _root(model, source, where)
    where = _compare_trunks(model, source, root, where, allow)
    own, given = _arrays(model), _arrays(source)
    head = models.head_of(model)
    if isinstance(model, ViT) and not root:
        _compare_widths(model, source, where)
    if head and not root:
        fresh = own["params"] if _regresses(model) and _regresses(source) else {}
        _match_classes(given, fresh, head, classes, source_classes, report)
    if isinstance(model, ViT) and not root:
        _match_positions(model, source, given["params"], report)
    if root and (last := models.head_of(source)):
        for path in [p for p in given["params"] if _under(p, (last,))]:
            del given["params"][path]
            report.skipped[f"{root}{path}"] = "the model has a last layer of its own"
    given = {
        part: {f"{root}{path}": x for path, x in named.items()} for part, named in given.items()
    }
    reported = (*report.skipped, *optional)
    merged, found = merge(
        own,
        given,
        root=root,
        head=head,
        allow=(*allow, *reported),
        where=where,
        counters=take_apart(model)[0].counters,
    )
    report.loaded, report.missing = found.loaded, found.missing
    report.skipped |= found.skipped
    nnx.update(model, nnx.state(model_dir.with_arrays(model, merged), (nnx.Param, nnx.BatchStat)))
    return report


def _read_release(
    model: nnx.Module, path: pathlib.Path, allow: Sequence[str]
) -> tuple[convert.Converted, tuple[str, ...] | None]:
    """The model in a released checkpoint, of the class of `model` or of one of its parts, and its
    classes if the release has always the same ones.

    Raises:
      UserError: if the file cannot be read or holds something else.
    """
    kinds = {type(part) for _, part in nnx.iter_modules(model)}
    fitting = [
        released
        for released in map(convert.release, convert.architectures())
        if models.entry(released.model).constructor in kinds
    ]
    if not fitting:
        raise UserError(
            f"{path}: no released checkpoints of a {type(model).__name__} are known; there are "
            + ", ".join(convert.architectures())
        )
    state = read_weights(path)
    refused: dict[str, list[str]] = {}
    for released in fitting:
        try:
            found = convert.build_model(released, state, where=str(path), allow=allow)
        except convert.NotOfThisKind as error:
            refused.setdefault(error.reason, []).append(released.architecture)
            continue
        return found, released.class_names(found.arguments.get("n_expression", 0)) or None
    kinds = " or ".join(name for names in refused.values() for name in names)
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in refused.items()]
    reason = next(iter(refused)) if len(refused) == 1 else "; ".join(reasons)
    raise convert.NotOfThisKind(str(path), kinds, reason, list(state))


def _regresses(model: nnx.Module) -> bool:
    """Whether the last two outputs of the last layer are valence and arousal."""
    return isinstance(model, EmoFAN) or getattr(model, "regression", False)


def _compare_widths(model: ViT, source: ViT, where: str) -> None:
    """Raises UserError if the two are of different size: no array would fit."""
    ours, theirs = (m.pos_embed.shape[-1] for m in (model, source))
    if ours != theirs:
        names = {size.width: f"vit_{name}16" for name, size in SIZES.items()}
        raise UserError(
            f"{where} is a {names[theirs]} ({theirs} features), the model a {names[ours]} "
            f"({ours}); set config.model.name to {names[theirs]!r} or take other weights"
        )


def _match_classes(
    given: dict[str, dict[str, Any]],
    fresh: Mapping[str, Any],
    head: str,
    classes: Sequence[str],
    source_classes: Sequence[str] | None,
    report: InitReport,
) -> None:
    """Brings the source's last layer into the model's label order, or takes out its classes.

    `source_classes` is None where nobody can know them: in a file from elsewhere. `fresh` holds the
    model's own arrays if valence and arousal follow the classes in both models.
    """
    per_class = [p for p in given["params"] if _under(p, (head, "reliability"))]
    reason = "its classes are not known"
    if source_classes is not None:
        own = [canonical_name(name) for name in classes]
        theirs = [canonical_name(name) for name in source_classes]
        resized = any(given["params"][p].shape != fresh[p].shape for p in per_class if p in fresh)
        if own == theirs or not (resized or (own and theirs)):
            return
        reason = f"made for {', '.join(source_classes) or 'no classes'}"
        if sorted(own) == sorted(theirs):
            columns = [theirs.index(name) for name in own]
            for path in [p for p in per_class if _under(p, (head,))]:
                value = given["params"][path]
                # Valence and arousal may follow the classes.
                order = np.array([*columns, *range(len(own), value.shape[-1])])
                given["params"][path] = value[..., order]
                report.resized[path] = f"reordered, as {reason}"
    for path in per_class:
        if path in report.resized:
            continue
        value = given["params"].pop(path)
        fits = path in fresh and value.shape[:-1] == fresh[path].shape[:-1]
        if fits and _under(path, (head,)):
            given["params"][path] = np.concatenate([fresh[path][..., :-2], value[..., -2:]], -1)
            report.resized[path] = f"valence and arousal alone: {reason}"
        else:
            report.skipped[path] = reason


def _match_positions(model: ViT, source: ViT, params: dict[str, Any], report: InitReport) -> None:
    """Interpolates the position embeddings, and drops the class token if the model has none."""
    own = model.pos_embed[...]
    if params["pos_embed"].shape == own.shape:
        return
    positions = params["pos_embed"]
    if source.prefix and not model.prefix:
        report.skipped["cls_token"] = "the model pools its patches"
        del params["cls_token"]
        positions = positions[:, 1:]
    if model.prefix and not source.prefix:
        return  # nothing stands for the class token: merge reports it
    side = math.isqrt(own.shape[1] - model.prefix)
    resized = resize_positions(positions, (side, side), model.prefix)
    report.resized["pos_embed"] = f"{params['pos_embed'].shape} to {resized.shape}"
    params["pos_embed"] = resized


def merge(
    own: Arrays,
    given: Arrays,
    *,
    root: str = "",
    head: str | None = None,
    allow: Sequence[str] = (),
    where: str = "the source",
    counters: Collection[str] = (),
) -> tuple[dict[str, dict[str, Any]], InitReport]:
    """`own` with the arrays of `given` that have the same path and shape, and a report.

    Both are `{"params": {path: array}, "stats": {path: array}}`. Paths outside of `root` may be
    missing from `given`; those of `head` may be missing or have another shape; those that begin
    with a prefix in `allow` may differ in any way. Those in `counters` stay those of `own`.

    Raises:
      UserError: listing all other differences.
    """
    report, problems, merged = InitReport(), [], {}
    mine = (*allow, head) if head else allow
    for part, named in own.items():
        source = given.get(part, {})
        merged[part] = dict(named)
        for path, value in named.items():
            if path in counters:
                report.missing.append(path)  # this run begins
            elif path not in source:
                report.missing.append(path)
                if path.startswith(root) and not _under(path, mine):
                    problems.append(f"{path} {value.shape}: only in the model")
            elif source[path].shape == value.shape:
                merged[part][path] = source[path]
                report.loaded.append(path)
            else:
                reason = f"{source[path].shape} in the source, {value.shape} in the model"
                report.skipped[path] = reason
                report.missing.append(path)
                if not _under(path, mine):
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
    for path, part in nnx.iter_modules(model):
        if type(part) is type(source):
            return "".join(f"{name}/" for name in path)
    raise UserError(
        f"{where} is a {type(source).__name__}; it fits neither a {type(model).__name__} nor one "
        "of its parts"
    )


def _compare_trunks(
    model: nnx.Module, source: nnx.Module, root: str, where: str, allow: Sequence[str]
) -> str:
    """`where`, with what its landmark network was built with if the model's is another.

    Raises:
      UserError: one pools otherwise: that leaves no trace in the shapes, but the weights work with
        their own kind only.
    """
    own, notes = _trunks(model), []
    for path, theirs in _trunks(source).items():
        ours = own.get(f"{root}{path}".rstrip("/"), theirs)
        if ours["pool"] != theirs["pool"] and "pool" not in allow:
            raise UserError(
                f"{where} was built with pool={theirs['pool']!r}, the model with "
                f"pool={ours['pool']!r}; build the model like its source (config.model.pool), or "
                'allow "pool" to go on all the same'
            )
        notes += [
            f"{name}={theirs[name]}, the model with {name}={ours[name]}"
            for name in theirs
            if ours[name] != theirs[name] and name != "pool"
        ]
    return f"{where} (built with {'; '.join(notes)})" if notes else where


def _trunks(model: nnx.Module) -> dict[str, dict[str, Any]]:
    """Settings of the landmark networks in a model, by path."""
    return {
        "/".join(map(str, path)): {
            "width": module.width,
            "depth": module.depth,
            "stacks": len(module.stacks),
            "pool": module.pool,
        }
        for path, module in nnx.iter_modules(model)
        if isinstance(module, FAN)
    }


def _arrays(model: nnx.Module) -> dict[str, dict[str, Any]]:
    _, params, stats = take_apart(model)
    return {"params": params, "stats": stats}
