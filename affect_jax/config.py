"""Loading, overriding, checking and comparing configurations."""

import difflib
import importlib.util
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import ml_collections

from affect_jax import observe
from affect_jax.errors import UserError

CONFIG_FILE = "config.json"

# What may differ between a workdir's config and the one it is resumed with: nothing here changes
# which examples are seen in which order or what a step computes.
_FREE = (
    "num_steps",
    "num_epochs",
    "log_every",
    "eval_every",
    "eval.",
    "checkpoint.every",
    "checkpoint.keep",
    "report.",
    "compilation_cache",
    "parallel.",
    "data.num_workers",
    "data.num_threads",
    "data.prefetch",
    "data.cache",
    "data.cache_megabytes",
    "data.max_bad_fraction",
)


class ConfigError(UserError):
    """A configuration that cannot work; the message names the key and what to do."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A phrase naming the choice closest to `name`, or listing all choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(choices)}"


def load_file(path: str | pathlib.Path) -> ml_collections.ConfigDict:
    """Runs `get_config()` of a config file.

    Raises:
      ConfigError: if there is no such file or it has no `get_config`.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        hint = f" In {path.parent}: {nearest(path.name, siblings)}" if siblings else ""
        raise ConfigError(f"no config file {path}.{hint}")
    spec = importlib.util.spec_from_file_location("affect_jax_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} defines no get_config()")
    return module.get_config()


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of a nested mapping."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict | dict) and len(value):
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def check_overrides(config: ml_collections.ConfigDict, arguments: Iterable[str]) -> None:
    """Checks the keys of `--config.a.b=value` arguments before they are parsed.

    Raises:
      ConfigError: for a key that does not exist, naming the nearest one that does.
    """
    known = flatten(config)
    sections = {
        key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)
    }
    for argument in arguments:
        name = argument.lstrip("-").split("=", 1)[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        key = name.removeprefix("config.")
        if key in sections:
            raise ConfigError(
                f"--config.{key} is a section; set one of its fields: "
                + ", ".join(sorted(k for k in known if k.startswith(key + ".")))
            )
        if key not in known:
            by_last = {k.rsplit(".", 1)[-1]: k for k in known}
            last = key.rsplit(".", 1)[-1]
            hint = nearest(key, known)
            if last in by_last:
                hint = f"did you mean {by_last[last]!r}?"
            raise ConfigError(f"--config.{key}: there is no such field; {hint}")


def to_plain(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A JSON-able copy: placeholders become values or None, tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def claim_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Records `config` in `workdir/config.json`, or checks it against the one recorded there.

    Raises:
      ConfigError: if the folder belongs to a run of another config, naming what differs, or holds
        a config that cannot be read.
    """
    plain = to_plain(config)
    path = workdir / CONFIG_FILE
    if path.exists():
        recorded = flatten(read_workdir_config(workdir).to_dict())
        wanted = flatten(plain)
        lines = []
        for key in sorted(recorded.keys() | wanted.keys()):
            if any(key == free or (free[-1] == "." and key.startswith(free)) for free in _FREE):
                continue
            old, new = recorded.get(key, "(absent)"), wanted.get(key, "(absent)")
            if old != new:
                lines.append(f"  {key}: there {old!r}, now {new!r}")
        if lines:
            shown = "\n".join(lines[:10]) + (f"\n  ... {len(lines)} in all" * (len(lines) > 10))
            raise ConfigError(
                f"{workdir} holds a run of another config:\n{shown}\n"
                "Use a new --workdir, or the values it was started with."
            )
    observe.write_atomically(path, (json.dumps(plain, indent=2) + "\n").encode())


def read_workdir_config(workdir: str | pathlib.Path) -> ml_collections.ConfigDict:
    """The config a workdir was trained with.

    Raises:
      ConfigError: if the folder is no workdir or its config is damaged.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    try:
        return ml_collections.ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ConfigError(
            f"{workdir} is no workdir of a run: there is no {CONFIG_FILE} in it"
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged: {error}") from None
