"""Fields given on the command line: they act, or they are refused by name.

A field may depend on another one that the config file has set, such as a manifest on the kind of
source. Given alone it brings that one along; where the two contradict each other it is an error.
"""

from collections.abc import Iterable
from typing import Any

import ml_collections

from affect_jax.config import ConfigError
from data_pipelines.defaults import PLACES

# Fields that act in some modes alone.
_OF_MODES = {
    "eval.split": ("eval",),
    "eval.checkpoint": ("eval",),
    "sweep": ("sweep",),
    "crossval": ("crossval", "sweep"),
}
# Where the data are -> the source that reads them there.
_SOURCES = {f"data.{field}": source for source, fields in PLACES.items() for field in fields}
# Field -> another one that goes before it unless it has this value.
_REPLACED = {
    "num_epochs": ("num_steps", None),
    "optimizer.warmup_epochs": ("optimizer.warmup_steps", 0),
}


def given_fields(arguments: Iterable[str]) -> list[str]:
    """The dotted keys of `--config.a.b=value` arguments, in their order."""
    names = (argument.lstrip("-").split("=", 1)[0] for argument in arguments if argument[:1] == "-")
    keys = [name.removeprefix("config.") for name in names if name.startswith("config.")]
    return list(dict.fromkeys(keys))


def settle(config: ml_collections.ConfigDict, arguments: Iterable[str], mode: str) -> None:
    """Makes every field of the command line act; writes into `config`.

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
    for key, (other, idle) in _REPLACED.items():
        if key in given and other not in given and _get(config, other) != idle:
            _set(config, other, idle)


def _settle_source(config: ml_collections.ConfigDict, given: list[str]) -> None:
    """Takes the source that the given place of the data is for."""
    # An empty place names none: it takes one of the file away.
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


def _get(config: ml_collections.ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _set(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        config = config[section]
    config[name] = value
