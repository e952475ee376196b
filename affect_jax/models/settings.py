"""Settings of an optional part of a model, in a config and in a model's arguments.

A part has a frozen dataclass of settings that checks its values. In a config the settings are a
section with `enabled` and every setting. A model takes them as a mapping, of which it may be given
a part, or None to do without.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from affect_jax.errors import nearest


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Settings = TypeVar("Settings", bound=_Dataclass)


def to_section(kind: type[_Dataclass], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config section of a model's argument; None: not enabled."""
    return {"enabled": settings is not None, **_defaults(kind), **(settings or {})}


def from_section(kind: type[_Dataclass], name: str, section: Any) -> dict[str, Any] | None:
    """Return the argument of a config section `name`; None: not enabled.

    Raises:
      ValueError: not a section with `enabled`, or with a setting that does not exist or cannot be.
    """
    if not isinstance(section, Mapping) or not isinstance(section.get("enabled"), bool):
        raise ValueError(f"{name} = {section!r}; it must be a section with enabled = True or False")
    settings = {key: value for key, value in section.items() if key != "enabled"}
    parse(kind, name, settings)
    return settings if section["enabled"] else None


def parse(kind: type[Settings], name: str, settings: Mapping[str, Any]) -> Settings:
    """Return settings of which a mapping gives some, and the defaults the rest.

    Raises:
      ValueError: not a mapping, a setting that does not exist, or a value that cannot be.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"{name} = {settings!r}; give None, or settings by name")
    known = [field.name for field in dataclasses.fields(kind)]
    for key in settings:
        if key not in known:
            raise ValueError(f"{name} has no setting {key!r}; {nearest(str(key), known)}")
    return kind(**settings)


def _defaults(kind: type[_Dataclass]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind)}
