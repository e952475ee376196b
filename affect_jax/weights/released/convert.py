"""Convert released PyTorch checkpoints to model directories.

A `Release` tells how to read the constructor arguments off the shapes, and which of our modules
each official module is. The layouts of the arrays follow from the kind of layer. An array that
only one side has is an error.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.errors import UserError
from affect_jax.weights import model_dir
from affect_jax.weights.differences import Differences, is_under
from affect_jax.weights.model_dir import Arrays
from affect_jax.weights.released import description, fan, poster, resnet, vit
from affect_jax.weights.released.files import open_weights
from affect_jax.weights.released.spec import Release, State

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
    """Return the names that `convert` takes, sorted."""
    return sorted(_RELEASES)


def release(architecture: str) -> Release:
    """Return the description of a release; UserError for an unknown name."""
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
    describe: Callable[[model_dir.LoadedModel], Mapping[str, str]] | None = None,
) -> model_dir.LoadedModel:
    """Write a model directory from a released checkpoint and return what it holds.

    Mean, deviation and class names, unless given, are taken from files of Hugging Face and timm
    next to the source, or from the release. `provenance` records where each comes from
    ("preprocessing_from", "preprocessing_certain", "classes_from"), and which state dict of the
    file was used ("entry", "other_entries").

    Args:
      architecture: one of `architectures()`.
      source: .pth, .npz or .safetensors file.
      output: the model directory; replaced if it is one already.
      classes: names in the order of the last layer, or the name of a known label order.
      mean, std: of RGB in [0, 1], three numbers each.
      entry, strip_prefix: see `files.open_weights`.
      describe: gives further texts for the directory, see `save_model`.

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
    built = build_model(released, weights.state, where=str(source))
    hub = description.read_hub_files(source) if released.on_hubs else description.HubDescription()
    preprocessing, how = description.preprocessing_of(
        released, built.arguments, source, weights, hub, given
    )
    count = built.arguments.get("n_expression", 0)
    class_names, classes_from = description.class_names_of(released, count, classes, hub)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    provenance = {
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
    }
    loaded = model_dir.LoadedModel(
        built.model, released.model, built.arguments, preprocessing, class_names, provenance
    )
    model_dir.save_model(
        output,
        loaded.name,
        loaded.arguments,
        loaded.model,
        preprocessing=preprocessing,
        class_names=class_names,
        provenance=provenance,
        texts=None if describe is None else describe(loaded),
    )
    return loaded


class NotOfThisKind(UserError):
    """A state dict of another architecture; `reason` says what is wrong with it."""

    def __init__(self, where: str, kind: str, reason: str, entries: Sequence[str]):
        self.reason = reason
        super().__init__(
            f"{where} is not a checkpoint of {kind} ({reason}); "
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


def build_model(
    released: Release,
    state: State,
    *,
    where: str = "the state dict",
    allow: Sequence[str] = (),
) -> Converted:
    """Build the model of an official state dict.

    Args:
      released: describes it.
      state: entry name -> array.
      where: names it in error messages.
      allow: entries whose names begin with one of these may be unknown.

    Raises:
      NotOfThisKind: if the shapes do not fit this architecture.
      UserError: listing what is missing, unexpected or of another shape, if anything is.
    """
    try:
        state = released.prepare(state)
        arguments = released.infer(state)
        model = models.create(released.model, **arguments)
    except (KeyError, IndexError, ValueError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise NotOfThisKind(where, released.architecture, reason, list(state)) from error
    targets = model_dir.arrays_of(model)
    places = official_places(released.modules(arguments), targets, released.entries(arguments))
    used, skipped = {}, {}
    for name, value in state.items():
        module = name.replace(".", "/")
        if name not in places and name.startswith(released.unused):
            skipped[name] = "the model has no use for it"
        elif name not in places and is_under(module, [p.replace(".", "/") for p in allow]):
            skipped[name] = "unknown, and allowed to be"
        elif not name.endswith("num_batches_tracked"):  # which only training counts
            used[name] = value
    differences = Differences.between(
        {name: value.shape for name, value in used.items()},
        {name: _official_shape(targets[p][path].shape, path) for name, (p, path) in places.items()},
    )
    if differences:
        built = ", ".join(f"{k}={v}" for k, v in arguments.items())
        raise UserError(f"{where} does not fit {released.architecture} ({built}):\n{differences}")
    arrays: dict[str, dict[str, np.ndarray]] = {"params": {}, "stats": {}}
    for name, (part, path) in places.items():
        arrays[part][path] = _layout(used[name], path)
    model_dir.assign(model, arrays)
    model.eval()
    return Converted(arguments, model, skipped)


def official_places(
    modules: Mapping[str, str], arrays: Arrays, entries: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Return official entry name -> (part, path) of every array of a model."""
    official = {ours: theirs for theirs, ours in modules.items()}
    single = {ours: theirs for theirs, ours in entries.items()}
    places = {}
    for part, named in arrays.items():
        for path in named:
            if path in single:
                places[single[path]] = (part, path)
                continue
            module, leaf = path.rsplit("/", 1)
            places[f"{official[module]}.{_OFFICIAL_LEAF[leaf]}"] = (part, path)
    return places


def _layout(value: np.ndarray, path: str) -> np.ndarray:
    """Return an official array in our layout."""
    if not path.endswith("/kernel"):
        return value
    if value.ndim == 4:  # convolution: OIHW -> HWIO
        return value.transpose(2, 3, 1, 0)
    return value.T  # linear: (out, in) -> (in, out)


def _official_shape(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
    """Return the PyTorch shape of one of our arrays; the inverse of `_layout`."""
    if not path.endswith("/kernel"):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
