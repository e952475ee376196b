"""What a model is, for its card: architecture, input, output, classes, what it compares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from affect_jax import models
from affect_jax.exporting.markdown import bullets, code, plain
from affect_jax.models.preprocessing import ASSUMED_FACE_SCALE, Preprocessing
from affect_jax.models.relations import Relations
from affect_jax.models.state import take_apart
from affect_jax.weights.model_dir import LoadedModel
from data_pipelines.hierarchies.tree import Hierarchy

TITLE = "## Model"
TEMPERATURE = "Temperature: "
_BEFORE = ("* Output: ", "* Classes, ")  # lines that stand before the temperature
_OUTPUTS = {
    "expression": "probabilities of {} classes",
    "valence_arousal": "valence and arousal, each in [-1, 1]",
    "landmarks": "68 landmarks",
}
_FITS = {
    "stretch": "stretched to a square",
    "cover": "cut to the largest square in the middle",
    "contain": "on a black square",
}
_AROUND = {
    "face": "the landmarks or, without them, the box without its forehead",
    "box": "the box",
}


def section(loaded: LoadedModel, system: str = "") -> str:
    """Return the section of a model card, as Markdown.

    Args:
      loaded: the model.
      system: that it was trained in; "" if not known.
    """
    count = sum(np.size(p) for p in take_apart(loaded.model)[1].values())
    parts = [part for part in ("relations", "reliability") if loaded.arguments.get(part)]
    architecture = code(loaded.name) + "".join(f", with {part}" for part in parts)
    lines = [
        f"Architecture: {architecture}" + (f"; system {code(system)}" if system else ""),
        f"Parameters: {count:,}",
        *_input(loaded),
        f"Output: {_outputs(loaded)}",
    ]
    if loaded.class_names:
        named = ", ".join(f"{i} {plain(name)}" for i, name in enumerate(loaded.class_names))
        lines.append(f"Classes, in the order of their ids: {named}")
    if loaded.temperature != 1:
        lines.append(f"{TEMPERATURE}{_temperature(loaded)}")
    if loaded.hierarchy is not None:
        lines += _tree(loaded.hierarchy)
    if labels := loaded.provenance.get("label_vectors"):
        lines.append(f"Label vectors: {_label_vectors(labels)}")
    lines += _compared(loaded)
    return f"{TITLE}\n\n{bullets(lines)}"


def with_temperature(model_section: str, loaded: LoadedModel) -> str:
    """Return the section of a card, maybe edited by people, with the line of a temperature."""
    kept = [line for line in model_section.split("\n") if not line.startswith(f"* {TEMPERATURE}")]
    if loaded.temperature != 1:
        last = max((i for i, line in enumerate(kept) if line.strip()), default=-1)
        before = [i for i, line in enumerate(kept) if line.startswith(_BEFORE)]
        place = (before[-1] if before else last) + 1
        kept.insert(place, f"* {TEMPERATURE}{_temperature(loaded)}")
    return "\n".join(kept)


def _temperature(loaded: LoadedModel) -> str:
    return (
        f"probabilities are those of the logits / {loaded.temperature:.4g}. Exported programs give "
        "the logits as they are"
    )


def _input(loaded: LoadedModel) -> list[str]:
    if n_features := models.n_features(loaded.model):
        return [f"Input: {n_features} stored features, of the network that training used"]
    seen = loaded.preprocessing
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (seen.mean, seen.std))
    return [
        f"Input: one face, RGB, {seen.image_size} x {seen.image_size} pixels, as "
        f"(RGB / {seen.scale:g} - mean) / deviation, with mean ({mean}) and deviation ({std})",
        f"Crop: {_crop(seen, loaded.is_converted)}",
    ]


def _crop(seen: Preprocessing, is_converted: bool) -> str:
    crop = f"the whole image, {_FITS[seen.fit]}"
    if seen.crop_scale and seen.crop != "whole":
        square = f"a square around {_AROUND[seen.face_crop]} of the face, {seen.crop_scale:g} times"
        crop = f"{square} as large; of an image without: {crop}"
    elif is_converted and seen.crop != "whole" and not seen.face_scale:
        crop = f"the one of training is not known; {crop}, is taken"
    if seen.face_scale:
        crop += f"; of a detected face: a square {seen.face_scale:.3g} times as large as its box"
    if seen.margin:
        crop += f"; of this, the middle 1/{1 + seen.margin:g} of each side"
    if not seen.crops_faces:
        crop += (
            f"; of a detected face: a square {ASSUMED_FACE_SCALE:g} times as large as its box, "
            "which is a guess"
        )
    return crop


def _outputs(loaded: LoadedModel) -> str:
    known = loaded.trained_for()
    count = loaded.arguments.get("n_expression", models.default(loaded.name, "n_expression"))
    named = [text.format(count) for field, text in _OUTPUTS.items() if field in known]
    return "; ".join(named) or "features, of no meaning by themselves"


def _tree(hierarchy: Hierarchy) -> list[str]:
    def listed(above: Sequence[str], below: Sequence[str], places: Sequence[int]) -> str:
        groups = []
        for place, name in enumerate(above):
            members = [plain(b) for b, own in zip(below, places, strict=True) if own == place]
            groups.append(f"{plain(name)} ({', '.join(members)})")
        return "; ".join(groups)

    lines = [f"Coarse classes: {listed(hierarchy.coarse, hierarchy.fine, hierarchy.coarse_of)}"]
    if hierarchy.poles:
        lines.append(f"Poles: {listed(hierarchy.poles, hierarchy.coarse, hierarchy.pole_of)}")
    return lines


def _label_vectors(labels: Mapping[str, Any]) -> str:
    filled = labels.get("filled", ())
    text = plain(labels.get("summary", "not recorded"))
    if not filled:
        return text
    which = "all classes" if labels.get("kind") == "stand_in" else ", ".join(map(plain, filled))
    return f"{text}. Stand-in vectors, which hold no meaning of words, have: {which}"


def _compared(loaded: LoadedModel) -> list[str]:
    """Return what a model that relates images compares an image with."""
    related = [part for _, part in nnx.iter_modules(loaded.model) if isinstance(part, Relations)]
    if not related or not related[0].settings.itrr:
        return []
    context = related[0].settings.context
    if context == "self":
        return ["Compared with: no other image"]
    if context == "batch":
        return ["Compared with: the other images of the same call, on which a result depends"]
    held = np.asarray(related[0].bank_labels[...])
    held = held[held >= 0]
    if not len(held):
        return ["Compared with: no other image; the bank is empty"]
    counts = np.bincount(held)
    names = loaded.class_names or tuple(map(str, range(len(counts))))
    listed = ", ".join(f"{plain(names[i])} {counts[i]}" for i in np.flatnonzero(counts))
    return [f"Compared with: a bank of {len(held)} training images ({listed})"]
