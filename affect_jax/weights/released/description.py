"""Normalisation and class names of a released network.

They come from the user, from files of Hugging Face or timm next to the weights, or from the
release, in this order.
"""

import dataclasses
import json
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from affect_jax.errors import UserError
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.released.files import Weights
from affect_jax.weights.released.spec import Clues, Normalisation, Release
from data_pipelines.schema import DataError, resolve_classes

log = logging.getLogger(__name__)

PREPROCESSOR_FILE = "preprocessor_config.json"
CONFIG_FILE = "config.json"
_HUB_CLASSES = f"{CONFIG_FILE} next to the weights"
# timm's way of resizing before the middle is cut out -> ours.
_CROP_MODES = {"center": "cover", "squash": "stretch"}
# Written by Hugging Face where the classes were not named.
_PLACEHOLDER = re.compile(r"LABEL_\d+")


class HubDescription(NamedTuple):
    """The contents of the files next to the weights; empty where they are missing.

    Attributes:
      normalisation: of the input, or None.
      scale: divisor of uint8 values.
      class_names: position = class id.
      model_type: in Hugging Face's `config.json`.
      fit, margin: see `Preprocessing`; fit is "" where the files do not tell.
    """

    normalisation: Normalisation | None = None
    scale: float = 255.0
    class_names: tuple[str, ...] = ()
    model_type: str = ""
    fit: str = ""
    margin: float = 0.0


def read_hub_files(source: pathlib.Path) -> HubDescription:
    """Read the JSON files of Hugging Face or timm in the folder of a weights file."""
    config = _json(source.with_name(CONFIG_FILE))
    preprocessor = _json(source.with_name(PREPROCESSOR_FILE))
    normalisation, scale = _hugging_face(preprocessor)
    fit, margin = _resized(preprocessor)
    pretrained = config.get("pretrained_cfg")  # timm's
    if not fit and isinstance(pretrained, Mapping):
        fit, margin = _cropped(pretrained)
    if normalisation is None and isinstance(pretrained, Mapping):
        mean, std = _three(pretrained.get("mean")), _three(pretrained.get("std"))
        if mean and std:
            normalisation = Normalisation(mean, std, f"pretrained_cfg in {CONFIG_FILE} next to it")
    model_type = str(config.get("model_type") or "")
    return HubDescription(normalisation, scale, _named_classes(config), model_type, fit, margin)


def _json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        log.warning("%s is not read: it is not valid JSON (%s)", path, error)
        return {}
    return content if isinstance(content, dict) else {}


def _three(values: Any) -> tuple[float, ...]:
    """Return three numbers as floats, nothing for anything else."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return ()
    numbers = all(isinstance(x, int | float) for x in values)
    return tuple(map(float, values)) if numbers else ()


def _hugging_face(content: Mapping[str, Any]) -> tuple[Normalisation | None, float]:
    """Return mean, deviation and pixel divisor of a `preprocessor_config.json`."""
    mean, std = _three(content.get("image_mean")), _three(content.get("image_std"))
    if content.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if not mean or not std:
        return None, 255.0
    factor = content.get("rescale_factor")
    scale = round(1 / factor, 6) if isinstance(factor, float) and factor > 0 else 255.0
    if content.get("do_rescale") is False:
        scale = 1.0
    return Normalisation(mean, std, f"{PREPROCESSOR_FILE} next to it"), scale


def _resized(content: Mapping[str, Any]) -> tuple[str, float]:
    """Return fit and margin of a `preprocessor_config.json`; "" if it does not tell."""
    size, cut = content.get("size"), content.get("crop_size")
    if isinstance(size, int):  # of early files, both sides or the shorter one
        size = {"shortest_edge" if content.get("do_center_crop") else "height": size}
    if isinstance(cut, int):
        cut = {"height": cut}
    if content.get("do_resize") is False or not isinstance(size, Mapping):
        return "", 0.0
    fit = "cover" if "shortest_edge" in size else "stretch"
    whole = size.get("shortest_edge") or size.get("height")
    if not content.get("do_center_crop") or not isinstance(cut, Mapping):
        return fit, 0.0
    middle = cut.get("height")
    if not isinstance(whole, int) or not isinstance(middle, int) or not whole >= middle > 0:
        return "", 0.0
    return fit, whole / middle - 1


def _cropped(pretrained: Mapping[str, Any]) -> tuple[str, float]:
    """Return fit and margin of timm's `pretrained_cfg`; "" if it does not tell."""
    part, mode = pretrained.get("crop_pct"), pretrained.get("crop_mode", "center")
    if not isinstance(part, int | float) or not 0 < part <= 1 or mode not in _CROP_MODES:
        return "", 0.0
    return _CROP_MODES[mode], 1 / part - 1


def _named_classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names of a Hugging Face or timm `config.json`; empty if none."""
    labels = config.get("id2label") or config.get("label_names")
    if isinstance(labels, Mapping):
        try:
            by_id = {int(key): str(name) for key, name in labels.items()}
        except ValueError:
            return ()
        labels = [by_id.get(i, "") for i in range(len(by_id))]
    if not isinstance(labels, list) or not all(labels):
        return ()
    names = [str(name).strip() for name in labels]
    if all(_PLACEHOLDER.fullmatch(name) for name in names):
        return ()
    # ImageNet has two cranes.
    return tuple(n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names))


def given_normalisation(mean: Sequence[float], std: Sequence[float]) -> Normalisation | None:
    """Check mean and deviation from the user; None if not given.

    Raises:
      UserError: for one without the other, or numbers that do not fit RGB in [0, 1].
    """
    if not len(mean) and not len(std):
        return None
    if not len(mean) or not len(std):
        raise UserError("--mean and --std belong together; give both, three numbers each")
    for name, values in (("mean", mean), ("std", std)):
        whole = len(values) == 3 and all(0 <= x <= 1 for x in values)
        if not whole or (name == "std" and not min(values)):
            listed = ",".join(f"{x:g}" for x in values)
            hint = "; divide those for 0 to 255 by 255" if max(values) > 1 else ""
            raise UserError(
                f"--{name}={listed}: give three numbers for RGB in [0, 1], as 0.485,0.456,0.406"
                + ("; a deviation is above 0" if name == "std" else "")
                + hint
            )
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), "given")


def preprocessing_of(
    released: Release,
    arguments: Mapping[str, Any],
    source: pathlib.Path,
    weights: Weights,
    hub: HubDescription,
    given: Normalisation | None,
) -> tuple[Preprocessing, Normalisation]:
    """Return the preprocessing of a converted network, and where it comes from.

    The size is the one for which its position embeddings are made, if it has any.
    """
    own = released.preprocessing
    found = given or hub.normalisation
    if found is None and released.normalisation is not None:
        names = frozenset(weights.state)
        clues = Clues(source.name, weights.entry, names, hub.model_type)
        found = released.normalisation(clues)
    found = found or Normalisation(own.mean, own.std, f"the {released.architecture} release")
    scale = hub.scale if found is hub.normalisation else own.scale
    size = arguments.get("image_size", own.image_size)
    made = dataclasses.replace(own, image_size=size, mean=found.mean, std=found.std, scale=scale)
    if hub.fit:
        made = dataclasses.replace(made, fit=hub.fit, margin=hub.margin)
    return made, found


def class_names_of(
    released: Release, count: int, classes: str | Sequence[str], hub: HubDescription
) -> tuple[tuple[str, ...], str]:
    """Return names of the `count` classes, and where they come from.

    Raises:
      UserError: if `classes` does not name as many.
    """
    if len(classes):
        try:
            names = resolve_classes(classes if isinstance(classes, str) else tuple(classes))
        except DataError as error:
            raise UserError(str(error).replace("data.classes", "--classes")) from None
        if len(names) != count:
            raise UserError(
                f"--classes names {len(names)} classes ({', '.join(names)}), the network has "
                f"{count or 'none'}"
            )
        return names, "given"
    if names := released.class_names(count):
        return names, "the release"
    if count and len(hub.class_names) == count:
        return hub.class_names, _HUB_CLASSES
    if hub.class_names:
        log.warning(
            "%s names %d classes, the network has %d: they are left out",
            _HUB_CLASSES,
            len(hub.class_names),
            count,
        )
    return (), ""
