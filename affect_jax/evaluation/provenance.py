"""Data, date, version and command of a test, recorded in `about.json`."""

import json
import pathlib
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from affect_jax.runtime import REPORT_FOLDER, write_atomically
from affect_jax.version import __version__
from data_pipelines.schema import Source

ABOUT_FILE = "about.json"
_COMMAND = "affect_jax.main"


def write_about(workdir: pathlib.Path, sources: Mapping[str, Source]) -> None:
    """Write `report/about.json` of a run that is tested on `sources` (by split)."""
    record = {
        "affect_jax": __version__,
        "tested": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": _command(),
        "splits": {name: _describe_split(source) for name, source in sources.items()},
    }
    path = workdir / REPORT_FOLDER / ABOUT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def _describe_split(source: Source) -> dict[str, Any]:
    """Return the numbers of images, persons, and images by class, if known."""
    labels = np.asarray(source.labels)
    counts: dict[str, Any] = {"images": len(source)}
    if source.has_persons:
        counts["persons"] = len(set(source.persons))
    if (labels >= 0).any():
        found = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
        counts["classes"] = dict(zip(source.class_names, found.tolist(), strict=True))
        counts["unlabelled"] = int((labels < 0).sum())
    return counts


def _command() -> str:
    """Return the command line of this process; empty under another program."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or spec.name != _COMMAND:
        return ""
    return shlex.join(["python", "-m", _COMMAND, *sys.argv[1:]])
