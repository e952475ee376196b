"""Changes that make the arrays of a source fit another model of the same kind."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.emofan import EmoFAN
from affect_jax.models.fan import FAN
from affect_jax.models.poster import Poster
from affect_jax.models.relations import LABEL_VECTORS, Relations
from affect_jax.models.resnet import ResNet
from affect_jax.models.vit import SIZES, ViT, resize_positions
from affect_jax.weights.differences import is_under, listed
from affect_jax.weights.model_dir import arrays_of
from data_pipelines.schema import canonical_name

# Settings of relations that change what the same arrays compute.
_FUNCTION_OF_RELATIONS = ("heads", "scale", "normalise", "residual")


@dataclasses.dataclass
class InitReport:
    """What was loaded into a model, and how it was made to fit.

    Attributes:
      loaded: paths whose arrays were loaded.
      resized: loaded paths whose arrays were made to fit, each with how.
      skipped: paths of the source that were not loaded, each with the reason.
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
        if fresh := [f"initial {path}" for path in self.missing if path not in self.skipped]:
            lines.append(listed(fresh))
        return "\n".join(lines)


def remove_head(params: dict[str, Any], head: str | None, root: str, report: InitReport) -> None:
    """Remove the last layer of a source that fills the part `root` of a model."""
    for path in [p for p in params if head and is_under(p, (head,))]:
        del params[path]
        report.skipped[f"{root}{path}"] = "the model has a last layer of its own"


def match_classes(
    model: nnx.Module,
    source: nnx.Module,
    params: dict[str, Any],
    classes: Sequence[str],
    source_classes: Sequence[str] | None,
    report: InitReport,
) -> None:
    """Bring the last layer into the model's label order, or remove its classes.

    Args:
      model: whose values the outputs for classes keep if valence and arousal follow them.
      source: whose `params` are changed in place.
      params: path -> array.
      classes: of the model, empty if unknown.
      source_classes: None if they cannot be known, as in a file from elsewhere.
      report: where changes are noted.
    """
    head = models.head_of(model)
    if not head:
        return
    fresh = arrays_of(model)["params"] if _regresses(model) and _regresses(source) else {}
    per_class = [p for p in params if is_under(p, (head, "reliability"))]
    reason = "its classes are not known"
    if source_classes is not None:
        own = [canonical_name(name) for name in classes]
        theirs = [canonical_name(name) for name in source_classes]
        resized = any(params[p].shape != fresh[p].shape for p in per_class if p in fresh)
        if own == theirs or not (resized or (own and theirs)):
            return
        reason = f"made for {', '.join(source_classes) or 'no classes'}"
        if sorted(own) == sorted(theirs):
            columns = [theirs.index(name) for name in own]
            for path in [p for p in per_class if is_under(p, (head,))]:
                value = params[path]
                # Valence and arousal may follow the classes.
                order = np.array([*columns, *range(len(own), value.shape[-1])])
                params[path] = value[..., order]
                report.resized[path] = f"reordered, as {reason}"
    for path in [p for p in per_class if p not in report.resized]:
        value = params.pop(path)
        fits = path in fresh and value.shape[:-1] == fresh[path].shape[:-1]
        if fits and is_under(path, (head,)):
            params[path] = np.concatenate([fresh[path][..., :-2], value[..., -2:]], -1)
            report.resized[path] = f"valence and arousal alone: {reason}"
        else:
            report.skipped[path] = reason


def match_label_vectors(
    model: nnx.Module,
    source: nnx.Module,
    stats: dict[str, Any],
    classes: Sequence[str],
    source_classes: Sequence[str] | None,
    report: InitReport,
) -> None:
    """Remove the label vectors unless both models have the same labels in order.

    The labels are the classes, which must be known, and the nodes of the tree above them.

    Args:
      model, source: both may have relations.
      stats: of the source, path -> array; changed in place.
      classes, source_classes: as in `match_classes`.
      report: where changes are noted.
    """
    if LABEL_VECTORS not in stats or LABEL_VECTORS not in arrays_of(model)["stats"]:
        return
    own = [canonical_name(name) for name in classes]
    theirs = [canonical_name(name) for name in source_classes or ()]
    if not own or own != theirs:
        report.skipped[LABEL_VECTORS] = "made for " + (
            ", ".join(source_classes) if source_classes else "classes that are not known"
        )
    elif _tree(model) != _tree(source):
        report.skipped[LABEL_VECTORS] = "made for another label tree"
    elif stats[LABEL_VECTORS].shape != (shape := arrays_of(model)["stats"][LABEL_VECTORS].shape):
        there = stats[LABEL_VECTORS].shape
        report.skipped[LABEL_VECTORS] = f"{there} in the source, {shape} in the model"
    if LABEL_VECTORS in report.skipped:
        del stats[LABEL_VECTORS]


def _tree(model: nnx.Module) -> dict[str, list]:
    """Return the nodes above the classes of a model with relations."""
    parts = [part for _, part in nnx.iter_modules(model) if isinstance(part, Relations)]
    hierarchy = parts[0].settings.hierarchy or {}
    return {key: list(hierarchy.get(key, ())) for key in ("coarse", "coarse_of")}


def _regresses(model: nnx.Module) -> bool:
    """Return whether the last two outputs of the last layer are valence and arousal."""
    if isinstance(model, Poster | ResNet | ViT):
        return model.regression
    return isinstance(model, EmoFAN)


def match_positions(model: ViT, source: ViT, params: dict[str, Any], report: InitReport) -> None:
    """Interpolate position embeddings; drop the class token if the model has none."""
    own, given = model.pos_embed[...], params["pos_embed"]
    if given.shape == own.shape:
        return
    positions = given
    if source.prefix and not model.prefix:
        report.skipped["cls_token"] = "the model pools its patches"
        del params["cls_token"]
        positions = given[:, 1:]
    if model.prefix and not source.prefix:
        return  # the source has no class token: `merge` reports it
    side = math.isqrt(own.shape[1] - model.prefix)
    params["pos_embed"] = resize_positions(positions, (side, side), model.prefix)
    report.resized["pos_embed"] = f"{given.shape} to {params['pos_embed'].shape}"


def compare_widths(model: ViT, source: ViT, where: str) -> None:
    """Raise UserError if the two differ in size: no array would fit then."""
    ours, theirs = (m.pos_embed.shape[-1] for m in (model, source))
    if ours != theirs:
        names = {size.width: f"vit_{name}16" for name, size in SIZES.items()}
        raise UserError(
            f"{where} is a {names[theirs]} ({theirs} features), the model a {names[ours]} "
            f"({ours}); set config.model.name to {names[theirs]!r} or use other weights"
        )


def compare_relations(
    model: nnx.Module, source: nnx.Module, where: str, allow: Sequence[str]
) -> None:
    """Raise UserError if the relations of two models compute something else.

    That leaves no trace in the shapes. `allow` with "relations" accepts it.
    """
    found = [
        [part.settings for _, part in nnx.iter_modules(one) if isinstance(part, Relations)]
        for one in (model, source)
    ]
    for own, theirs in zip(*found, strict=False):
        for name in _FUNCTION_OF_RELATIONS:
            here, there = getattr(own, name), getattr(theirs, name)
            if here != there and "relations" not in allow:
                raise UserError(
                    f"{where} was built with relations.{name} = {there}, the model with {here}; "
                    f"set config.model.relations.{name} = {there}, or name relations in "
                    "config.init_allow to use the weights nevertheless"
                )


def compare_trunks(
    model: nnx.Module, source: nnx.Module, root: str, where: str, allow: Sequence[str]
) -> str:
    """Return how the settings of two landmark networks differ, in words; "" if equal.

    Raises:
      UserError: the pooling differs. That leaves no trace in the shapes, but weights work only
        with the kind of pooling that they were trained with.
    """
    own, notes = _trunks(model), []
    for path, theirs in _trunks(source).items():
        ours = own.get(f"{root}{path}".rstrip("/"), theirs)
        if ours["pool"] != theirs["pool"] and "pool" not in allow:
            raise UserError(
                f"{where} was built with pool={theirs['pool']!r}, the model with "
                f"pool={ours['pool']!r}; build the model like its source (config.model.pool), or "
                'allow "pool" to use it nevertheless'
            )
        notes += [
            f"{name}={theirs[name]}, the model with {name}={ours[name]}"
            for name in theirs
            if ours[name] != theirs[name] and name != "pool"
        ]
    return f" (built with {'; '.join(notes)})" if notes else ""


def _trunks(model: nnx.Module) -> dict[str, dict[str, Any]]:
    """Return the settings of the landmark networks in a model, by path."""
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
