"""Fields given on the command line: each acts, or is refused by name.

A field may depend on another one that the config file has set: for example, a manifest depends on
the kind of source. If it is given alone, it sets the other field too. If the two contradict each
other, this is an error.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax import models, systems
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from configs import base
from data_pipelines.defaults import PLACES

# Fields that act in some modes alone.
_OF_MODES = {
    "eval.split": ("eval",),
    "eval.checkpoint": ("eval",),
    "eval.features": ("eval",),
    "sweep": ("sweep",),
    "crossval": ("crossval", "sweep"),
}
# Where the data are -> the source that reads them there.
_SOURCES = {f"data.{field}": source for source, fields in PLACES.items() for field in fields}
# Field -> another one that overrules it unless that has this value.
_OVERRULED = {
    "num_epochs": ("num_steps", None),
    "optimizer.warmup_epochs": ("optimizer.warmup_steps", 0),
}
# Fields that act on images alone.
_OF_IMAGES = (
    *("data.image_size", "data.crop", "data.augment", "data.max_pixels", "data.cache"),
    *("data.num_workers", "data.num_threads", "data.prefetch", "data.max_bad_fraction"),
    *("model.mean", "model.std", "mixing.cutmix_alpha", "report.faces"),
)
# Fields of config.eval that act where features are written.
_OF_EXTRACTION = ("eval.features", "eval.batch_size", "eval.checkpoint")
# Fields of config.model that do not belong to one architecture.
_OF_ANY_MODEL = ("dtype", "mean", "std", "hierarchy", "remat")


def load(path: str | pathlib.Path, arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """Return the config of a file, ready for the fields of the command line.

    Its `model` has the fields of the model that `arguments` name.

    Raises:
      ConfigError: the file cannot be loaded, or a field does not exist, naming the nearest one.
    """
    config = config_lib.load_file(path)
    given = given_fields(arguments)
    if "model.name" in given:
        name = _value(arguments, "model.name")
        if name not in models.names():
            raise ConfigError(f"--config.model.name={name}; {nearest(name, models.names())}")
        choose_model(config, name, keep_system="system" in given)
    check_names(config, given)
    return config


def choose_model(
    config: ml_collections.ConfigDict, name: str, *, keep_system: bool = False
) -> None:
    """Put another model into `config`, with the model's own defaults.

    For a model of the same architecture, the fields of the file stay, except the fields that the
    name presets. For another architecture, `config.system` becomes its system, unless `keep_system`
    is set. Relations between images and labels stay, and so does the system "rald", for any model
    that can have them.
    """
    old, chosen = config.model, base.model(name)
    before, after = models.entry(old.name), models.entry(name)
    alike = before.constructor is after.constructor
    preset = before.preset.keys() | after.preset.keys()
    related = "relations" in old and old.relations.enabled and "relations" in chosen
    for field in old:
        own = alike and field != "name" and field not in preset
        if field in _OF_ANY_MODEL or own or (related and field == "relations"):
            chosen[field] = old[field]
    config.model = chosen
    if not alike and not keep_system and not (related and config.system == "rald"):
        config.system = systems.name_for_model(name)


def check_names(config: ml_collections.ConfigDict, given: Iterable[str]) -> None:
    """Check that each of the dotted keys is a field of `config`.

    Raises:
      ConfigError: a key does not exist, naming the nearest one that does, or is a section.
    """
    known = config_lib.flatten(config)
    for key in given:
        fields = sorted(k for k in known if k.startswith(key + "."))
        if fields:
            raise ConfigError(
                f"--config.{key} is a section; set one of its fields: {', '.join(fields)}"
            )
        if key in known:
            continue
        by_last = {k.rsplit(".", 1)[-1]: k for k in known}
        last = key.rsplit(".", 1)[-1]
        hint = f"did you mean {by_last[last]!r}?" if last in by_last else nearest(key, known)
        model = f" of the model {config.model.name!r}" if key.startswith("model.") else ""
        raise ConfigError(f"--config.{key}: there is no such field{model}; {hint}")


def given_fields(arguments: Iterable[str]) -> list[str]:
    """Return the dotted keys of `--config.a.b=value` arguments, in their order."""
    names = (argument.lstrip("-").split("=", 1)[0] for argument in arguments if argument[:1] == "-")
    keys = [name.removeprefix("config.") for name in names if name.startswith("config.")]
    return list(dict.fromkeys(keys))


def _value(arguments: Sequence[str], key: str) -> str:
    """Return the last value of a field on the command line."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, text = argument.partition("=")
        if name in (f"--config.{key}", f"-config.{key}"):
            value = text if equals else following
    return value


def settle(config: ml_collections.ConfigDict, arguments: Iterable[str], mode: str) -> None:
    """Make every field of the command line act; write into `config`.

    Args:
      config: with the fields in it.
      arguments: of the command line.
      mode: of `affect_jax.main`.

    Raises:
      ConfigError: a field cannot have an effect, naming it and what to do.
    """
    given = given_fields(arguments)
    for key in given:
        for field, modes in _OF_MODES.items():
            if (key == field or key.startswith(f"{field}.")) and mode not in modes:
                raise ConfigError(
                    f"--config.{key} has no effect with --mode={mode}; it is for --mode="
                    + " or --mode=".join(modes)
                )
    _settle_source(config, given)
    _settle_features(config, given)
    for key, (other, idle) in _OVERRULED.items():
        if key in given and other not in given and _get(config, other) != idle:
            config.update_from_flattened_dict({other: idle})


def _settle_source(config: ml_collections.ConfigDict, given: list[str]) -> None:
    """Set the source that the given place of the data is for."""
    # An empty place removes the one of the file.
    places = [key for key in _SOURCES if key in given and _get(config, key)]
    wanted = list(dict.fromkeys(_SOURCES[key] for key in places))
    if len(wanted) > 1:
        named = " and ".join(f"--config.{key}" for key in places)
        raise ConfigError(f"{named} are places of different sources; give one of them")
    source = config.data.source
    if wanted and source != wanted[0]:
        if "data.source" in given:
            raise ConfigError(
                f"--config.{places[0]} has no effect with --config.data.source={source}; it is "
                f"for --config.data.source={wanted[0]}"
            )
        config.data.source = wanted[0]
    stage = config.landmark_stage
    drawn = config.data.source == "synthetic" or (stage.steps and stage.data == "synthetic")
    faces = [key for key in given if key.startswith("data.synthetic.")]
    if faces and not drawn:
        raise ConfigError(
            f"--config.{faces[0]} has no effect with data.source = {config.data.source!r}: "
            "no synthetic face is drawn"
        )


def _settle_features(config: ml_collections.ConfigDict, given: list[str]) -> None:
    """Refuse fields that have no effect where there are no images, or no evaluation."""
    on_features, extracts = config.data.source == "features", bool(config.eval.features)
    for key in given:
        if on_features and key.startswith(_OF_IMAGES):
            raise ConfigError(
                f'--config.{key} has no effect with data.source = "features": it is for images'
            )
        if extracts and key.startswith("eval.") and key not in _OF_EXTRACTION:
            raise ConfigError(
                f"--config.{key} has no effect with --config.eval.features, which takes all splits "
                "and measures nothing"
            )


def _get(config: ml_collections.ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config
