"""Released PyTorch checkpoints to model directories.

A release is described by one `Released`: how to read the constructor arguments off the shapes,
and which of our modules each official module is. The layouts of the arrays follow from the kind
of layer, and whatever has no counterpart on either side is an error.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.models.state import take_apart
from affect_jax.weights import model_dir
from affect_jax.weights.released import description, fan, poster, resnet, vit
from affect_jax.weights.released.files import open_weights
from affect_jax.weights.released.spec import Released
from data_pipelines.schema import LABELS

_SHOWN = 10
_OFFICIAL_LEAF = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "slope": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_RELEASES = {
    r.architecture: r for r in (*fan.RELEASES, *poster.RELEASES, *resnet.RELEASES, *vit.RELEASES)
}


def architectures() -> list[str]:
    """Names that `convert` takes, sorted."""
    return sorted(_RELEASES)


def release(architecture: str) -> Released:
    """The description of a release.

    Raises:
      UserError: if there is none of that name, listing those there are.
    """
    if architecture not in _RELEASES:
        raise UserError(
            f"no converter for {architecture!r}; available now: {', '.join(architectures())}"
        )
    return _RELEASES[architecture]


def convert(
    architecture: str,
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    classes: str | Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    entry: str = "",
    strip_prefix: str = "",
) -> model_dir.LoadedModel:
    """Writes a model directory from a released checkpoint and returns what it holds.

    Mean, deviation and class names are those of the release, or what Hugging Face's and timm's
    files next to the source tell, unless they are given. `provenance` says of each where it comes
    from, under "preprocessing_from", "preprocessing_certain" and "classes_from", and which state
    dict was taken of which, under "entry" and "other_entries".

    Args:
      architecture: one of `architectures()`.
      source: .pth, .npz or .safetensors file.
      output: the model directory; replaced if it is one already.
      classes: names in the order of the last layer, or the name of a known label order.
      mean, std: of RGB in [0, 1], three numbers each.
      entry, strip_prefix: see `files.open_weights`.

    Raises:
      UserError: for an unknown architecture, a source that cannot be read or does not fit it,
        options that do not fit it, or an output that holds something else.
      ImportError: if PyTorch or safetensors is needed and not installed.
    """
    released = release(architecture)
    model_dir.check_writable(output)
    given = description.given_normalisation(mean, std)
    source = pathlib.Path(source)
    weights = open_weights(source, entry=entry, strip_prefix=strip_prefix)
    arguments, model = convert_state(released, weights.state, where=str(source))
    hub = description.read_hub_files(source) if released.on_hubs else description.HubDescription()
    preprocessing, how = description.preprocessing_of(
        released, arguments, source, weights, hub, given
    )
    count = arguments.get("n_expression", 0)
    class_names, classes_from = description.class_names_of(released, count, classes, hub)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    loaded = model_dir.LoadedModel(
        model,
        released.model,
        arguments,
        preprocessing,
        class_names,
        {
            "architecture": architecture,
            "source": source.name,
            "source_sha256": digest,
            "licence": released.licence,
            "entry": weights.entry,
            "other_entries": list(weights.others),
            "left_out": len(weights.left_out),
            "preprocessing_from": how.reason,
            "preprocessing_certain": how.certain,
            "classes_from": classes_from,
        },
    )
    model_dir.save_model(
        output,
        loaded.name,
        loaded.arguments,
        loaded.model,
        preprocessing=loaded.preprocessing,
        class_names=loaded.class_names,
        provenance=loaded.provenance,
    )
    return loaded


def is_converted(loaded: model_dir.LoadedModel) -> bool:
    """Whether a model directory was written by `convert` and has not been trained since."""
    return "source_sha256" in loaded.provenance


def trained_for(loaded: model_dir.LoadedModel) -> frozenset[str]:
    """Label fields that a model directory was trained for, as far as it tells.

    One exported from a run says so itself. Released weights come with all heads trained. Of any
    other, class names show that the classes were trained; valence and arousal are taken to be if
    the model gives nothing else.

    Raises:
      UserError: if what it says is no list of label fields.
    """
    said = loaded.provenance.get("trained_for")
    if said is not None:
        fields = {said} if isinstance(said, str) else set(said)
        if not fields <= LABELS | {"attributes", "expression_probs"}:
            raise UserError(
                f"provenance.trained_for in {model_dir.MODEL_FILE} is {said!r}; it may hold "
                + ", ".join(sorted(LABELS))
            )
        return frozenset(fields & LABELS)
    size = loaded.preprocessing.image_size
    outputs = nnx.eval_shape(loaded.model, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    heads = {"expression": "logits", "valence_arousal": "valence", "landmarks": "heatmaps"}
    there = {field for field, name in heads.items() if name in outputs}
    if is_converted(loaded):
        return frozenset(there)
    if "expression" in there:
        return frozenset({"expression"} if loaded.class_names else ())
    return frozenset(there & {"valence_arousal"})


class NotOfThisKind(UserError):
    """A state dict of another architecture altogether; `reason` is what is wrong with it."""

    def __init__(self, where: str, kind: str, reason: str, entries: Sequence[str]):
        self.reason = reason
        super().__init__(
            f"{where} is no {kind} checkpoint ({reason}); "
            f"its {len(entries)} entries begin with {', '.join(entries[:5])}"
        )


@dataclasses.dataclass(frozen=True)
class Converted:
    """A model made from an official state dict.

    Attributes:
      arguments: of the constructor.
      model: in evaluation mode.
      skipped: entries that were not used, each with the reason.
    """

    arguments: dict[str, Any]
    model: nnx.Module
    skipped: dict[str, str]


def convert_state(
    released: Released, state: Mapping[str, np.ndarray], *, where: str = "the state dict"
) -> tuple[dict[str, Any], nnx.Module]:
    """Constructor arguments and the model, in evaluation mode, from an official state dict.

    Raises:
      UserError: listing what is missing, unexpected or of another shape, if anything is.
    """
    converted = build_model(released, state, where=where)
    return converted.arguments, converted.model


def build_model(
    released: Released,
    state: Mapping[str, np.ndarray],
    *,
    where: str = "the state dict",
    allow: Sequence[str] = (),
) -> Converted:
    """As `convert_state`; entries whose names begin with one of `allow` may be unknown.

    Raises:
      NotOfThisKind: if the shapes are not those of this architecture.
      UserError: listing what is missing, unexpected or of another shape, if anything is.
    """
    try:
        state = released.prepare(state)
        arguments = released.infer(state)
        model = models.create(released.model, **arguments)
    except (KeyError, IndexError, ValueError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise NotOfThisKind(where, released.architecture, reason, list(state)) from error
    _, params, stats = take_apart(model)
    targets = {"params": params, "stats": stats}
    places = _places(released.modules(arguments), targets, released.entries(arguments))

    arrays: dict[str, dict[str, np.ndarray]] = {"params": {}, "stats": {}}
    unexpected, misshaped, skipped = [], [], {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue  # counts training steps; nothing in evaluation or fine-tuning reads it
        if name not in places:
            if name.startswith(released.unused):
                skipped[name] = "the model has no use for it"
            elif any(_begins(name, prefix) for prefix in allow):
                skipped[name] = "unknown, and allowed to be"
            else:
                unexpected.append(f"{name} {value.shape}")
            continue
        part, path = places[name]
        wanted, ours = targets[part][path].shape, _layout(value, path)
        if ours.shape == wanted:
            arrays[part][path] = ours
        else:
            wanted = _official_shape(wanted, path)
            misshaped.append(f"{name}: {value.shape}, the model has {wanted}")
    missing = [
        f"{name} {targets[p][path].shape}"
        for name, (p, path) in places.items()
        if name not in state
    ]
    _report(released, arguments, where, missing, unexpected, misshaped)
    return Converted(arguments, model_dir.with_arrays(model, arrays), skipped)


def _places(
    modules: Mapping[str, str],
    targets: Mapping[str, Mapping[str, Any]],
    entries: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, str]]:
    """Official entry name -> (part, path) of every array of the model."""
    official = {ours: theirs for theirs, ours in modules.items()}
    single = {ours: theirs for theirs, ours in (entries or {}).items()}
    places = {}
    for part, named in targets.items():
        for path in named:
            if path in single:
                places[single[path]] = (part, path)
                continue
            module, leaf = path.rsplit("/", 1)
            places[f"{official[module]}.{_OFFICIAL_LEAF[leaf]}"] = (part, path)
    return places


def _begins(name: str, prefix: str) -> bool:
    """Whether `prefix` is an entry's name or the module that it belongs to."""
    parts, wanted = (n.rstrip("/").replace(".", "/").split("/") for n in (name, prefix))
    return parts[: len(wanted)] == wanted


def _official_shape(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
    """The shape in PyTorch's layout of an array of ours: the inverse of `_layout`."""
    if not path.endswith("/kernel"):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _layout(value: np.ndarray, path: str) -> np.ndarray:
    if not path.endswith("/kernel"):
        return value
    if value.ndim == 4:  # convolution: OIHW -> HWIO
        return value.transpose(2, 3, 1, 0)
    return value.T  # linear: (out, in) -> (in, out)


def _report(
    released: Released,
    arguments: Mapping[str, Any],
    where: str,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
) -> None:
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if not any(groups.values()):
        return
    built = ", ".join(f"{k}={v}" for k, v in arguments.items())
    lines = [f"{where} does not fit {released.architecture} ({built}):"]
    for title, entries in groups.items():
        if entries:
            lines.append(f"{len(entries)} {title}:")
            lines += [f"  {entry}" for entry in entries[:_SHOWN]]
            if len(entries) > _SHOWN:
                lines.append(f"  ... and {len(entries) - _SHOWN} more")
    raise UserError("\n".join(lines))
