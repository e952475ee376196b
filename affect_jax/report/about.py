"""What a reader must know of a run: data, counts, date, version and command."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import affect_jax
from affect_jax.runtime import write_atomically
from data_pipelines.schema import Source

ABOUT_FILE = "about.json"
_COMMAND = "affect_jax.main"


def write_about(workdir: str | os.PathLike, sources: Mapping[str, Source]) -> Path:
    """Writes `report/about.json` of a run that is being tested.

    Args:
        workdir: the run's folder.
        sources: split -> source of its examples.

    Returns:
        The file.
    """
    record = {
        "affect_jax": affect_jax.__version__,
        "tested": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": _command(),
        "splits": {name: describe_split(source) for name, source in sources.items()},
    }
    path = Path(workdir) / "report" / ABOUT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def describe_split(source: Source) -> dict[str, Any]:
    """Counts of a split: `images`, `persons`, and images of each class and without one.

    Persons are counted where the source names them, classes where there are labels.
    """
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
    """The command line of this process; empty if another program called the library."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or spec.name != _COMMAND:
        return ""
    return shlex.join(["python", "-m", _COMMAND, *sys.argv[1:]])
