"""Start a model from the weights of a run, a model directory or a released file."""

import logging
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.state import take_apart
from affect_jax.models.vit import ViT
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import adapt, model_dir
from affect_jax.weights.adapt import InitReport
from affect_jax.weights.differences import Differences, is_under, shapes_of
from affect_jax.weights.load_run import is_workdir, load_run
from affect_jax.weights.model_dir import Arrays, arrays_of
from affect_jax.weights.released import convert
from affect_jax.weights.released.files import read_weights

log = logging.getLogger(__name__)

# Parts that a released checkpoint of a backbone does not have.
_NOT_RELEASED = ("se", "emotion/se", "relations", "reliability")


def initialise_from(
    model: nnx.Module,
    paths: str,
    allow: tuple[str, ...],
    mapper: Mapper,
    class_names: tuple[str, ...] = (),
) -> None:
    """Start `model`, which is for `class_names`, from what `config.init_from` names.

    That is the workdir of a run, whose best checkpoint is used, a model directory or a released
    checkpoint; or several, separated by commas and loaded one after the other, for a model whose
    parts have weights of their own ("ir50.pth,mobilefacenet.pth"). Rules as in `init_from`.

    Raises:
      UserError: if the weights do not fit.
    """
    several = [paths] if pathlib.Path(paths).exists() else paths.split(",")
    for path in (part.strip() for part in several):
        source: str | nnx.Module = path
        source_classes: tuple[str, ...] = ()
        if is_workdir(path):
            run = load_run(path, "best", mapper)
            source, source_classes = run.model, run.class_names
        report = init_from(
            model, source, allow=allow, classes=class_names, source_classes=source_classes
        )
        log.info("initialised from %s: %s", path, report)


def init_from(
    model: nnx.Module,
    source: str | pathlib.Path | nnx.Module,
    *,
    allow: Sequence[str] = (),
    classes: Sequence[str] = (),
    source_classes: Sequence[str] = (),
) -> InitReport:
    """Load weights and BatchNorm statistics of a source into `model` in place.

    A source of the class of one of the model's parts, such as a FAN for the trunk of an EmoFAN,
    fills that part, and the rest keeps its values; a last layer that the part does not have is
    skipped. Otherwise both must be of one class. An array that only one side has is an error,
    except:

    * A last layer for another number of classes keeps its fresh values. If both label orders are
      known, a layer for the same classes in another order is reordered, and a layer for other
      classes keeps its fresh values. A file's last layer is loaded only if all checkpoints of its
      release have the same classes. Outputs for valence and arousal are loaded for any classes.
    * Position embeddings of a vision transformer are interpolated to the model's `image_size`.
    * A file, or a model directory converted from one, need not hold squeeze and excitation,
      relations or reliability balancing.
    * Label vectors are loaded only for the same classes in the same order, under the same tree.
      The bank of a model is never loaded: it holds training images of another run.

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
    report = InitReport()
    optional: tuple[str, ...] = ()
    known: Sequence[str] | None = source_classes  # None: of an unknown release
    if isinstance(source, nnx.Module):
        start = source
    elif not pathlib.Path(source).exists():
        raise UserError(f"{source} does not exist; give a model directory, workdir or file")
    elif pathlib.Path(source).is_file():
        converted, known = _read_release(model, pathlib.Path(source), allow)
        start, optional = converted.model, _NOT_RELEASED
        report.skipped |= converted.skipped
    else:
        loaded = model_dir.load_model(source)
        start, known = loaded.model, loaded.class_names
        if loaded.is_converted:
            optional, known = _NOT_RELEASED, known or None
    root = _root(model, start, where)
    where += adapt.compare_trunks(model, start, root, where, allow)
    given, head = arrays_of(start), models.head_of(model)
    if root:
        adapt.remove_head(given["params"], models.head_of(start), root, report)
    else:
        if isinstance(model, ViT) and isinstance(start, ViT):
            adapt.compare_widths(model, start, where)
        adapt.compare_relations(model, start, where, allow)
        adapt.match_classes(model, start, given["params"], classes, known, report)
        adapt.match_label_vectors(model, start, given["stats"], classes, known, report)
        if isinstance(model, ViT) and isinstance(start, ViT):
            adapt.match_positions(model, start, given["params"], report)
    given = {part: {f"{root}{k}": x for k, x in named.items()} for part, named in given.items()}
    merged, found = merge(
        arrays_of(model),
        given,
        root=root,
        head=head,
        allow=(*allow, *report.skipped, *optional),
        where=where,
        counters=take_apart(model)[0].counters,
    )
    report.loaded, report.missing = found.loaded, found.missing
    report.skipped |= found.skipped
    model_dir.assign(model, merged)
    return report


def _read_release(
    model: nnx.Module, path: pathlib.Path, allow: Sequence[str]
) -> tuple[convert.Converted, tuple[str, ...] | None]:
    """Read a released checkpoint of `model` or of one of its parts.

    Returns:
      The model in it, and its classes if the release always has the same ones.

    Raises:
      UserError: if the file cannot be read or holds something else.
    """
    kinds = {type(part) for _, part in nnx.iter_modules(model)}
    fitting = [
        release
        for release in map(convert.release, convert.architectures())
        if models.entry(release.model).constructor in kinds
    ]
    if not fitting:
        raise UserError(
            f"{path}: no released checkpoints of a {type(model).__name__} are known; there are "
            + ", ".join(convert.architectures())
        )
    state = read_weights(path)
    refused: dict[str, list[str]] = {}
    for release in fitting:
        try:
            found = convert.build_model(release, state, where=str(path), allow=allow)
        except convert.NotOfThisKind as error:
            refused.setdefault(error.reason, []).append(release.architecture)
            continue
        return found, release.class_names(found.arguments.get("n_expression", 0)) or None
    kind = " or ".join(name for names in refused.values() for name in names)
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in refused.items()]
    reason = next(iter(refused)) if len(refused) == 1 else "; ".join(reasons)
    raise convert.NotOfThisKind(str(path), kind, reason, list(state))


def _root(model: nnx.Module, source: nnx.Module, where: str) -> str:
    """Return the path of the part of `model` that `source` fills, "" for all of it."""
    if type(model) is type(source):
        return ""
    for path, part in nnx.iter_modules(model):
        if type(part) is type(source):
            return "".join(f"{name}/" for name in path)
    raise UserError(
        f"{where} is a {type(source).__name__}; it fits neither a {type(model).__name__} nor one "
        "of its parts; use weights of the same architecture"
    )


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
    """Replace the arrays of `own` that `given` has too; also return a report.

    Args:
      own, given: `{"params": {path: array}, "stats": {path: array}}`.
      root: paths of `own` outside of it may be missing from `given`.
      head: paths below it may be missing, or have another shape.
      allow: paths below any of these may differ in any way.
      where: names `given` in the error message.
      counters: paths that always keep the values of `own`, since a new run begins.

    Raises:
      UserError: listing all other differences.
    """
    mine, theirs = (
        {path: x for named in arrays.values() for path, x in named.items() if path not in counters}
        for arrays in (own, given)
    )
    found = Differences.between(shapes_of(theirs), shapes_of(mine))
    optional = (*allow, head) if head else allow
    problems = found.without(
        lambda path: is_under(path, optional) or not path.startswith(root),
        lambda path: is_under(path, allow),
    )
    if problems:
        raise UserError(
            f"{where} does not fit the model:\n{problems}\nname what may differ in "
            "config.init_allow, or set config.model as in the source"
        )
    skipped = dict.fromkeys(found.unexpected, "not in the model")
    skipped |= {
        path: f"{there} in the source, {here} in the model"
        for path, (there, here) in found.reshaped.items()
    }
    taken = {path: theirs[path] for path in mine if path in theirs and path not in skipped}
    missing = [path for named in own.values() for path in named if path not in taken]
    merged = {
        part: {path: taken.get(path, x) for path, x in named.items()} for part, named in own.items()
    }
    return merged, InitReport(loaded=list(taken), skipped=skipped, missing=missing)
