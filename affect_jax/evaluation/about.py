"""The record of a run's test: data counts, date, version and command."""

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
from affect_jax.runtime import REPORT_FOLDER, write_atomically
from data_pipelines.schema import Source

ABOUT_FILE = "about.json"
_COMMAND = "affect_jax.main"


def write_about(workdir: str | os.PathLike, sources: Mapping[str, Source]) -> None:
    """Write `report/about.json` of the run in `workdir`, which is about to be tested.

    Args:
        workdir: the run's folder.
        sources: split -> source of its examples.
    """
    record = {
        "affect_jax": affect_jax.__version__,
        "tested": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": _command(),
        "splits": {name: _describe_split(source) for name, source in sources.items()},
    }
    path = Path(workdir) / REPORT_FOLDER / ABOUT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def _describe_split(source: Source) -> dict[str, Any]:
    """Return `images`, `persons` if known, and images of each class and without a label."""
    labels = np.asarray(source.labels)
    counts: dict[str, Any] = {"images": len(source)}
    persons = getattr(source, "persons", None)
    if persons is not None and getattr(source, "has_persons", True):
        counts["persons"] = len(set(np.asarray(persons).astype(str).tolist()))
    if (labels >= 0).any():
        found = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
        counts["classes"] = dict(zip(source.class_names, found.tolist(), strict=True))
        counts["unlabelled"] = int((labels < 0).sum())
    return counts


def _command() -> str:
    """Return the command line of this process; empty if another program uses the package."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or spec.name != _COMMAND:
        return ""
    return shlex.join(["python", "-m", _COMMAND, *sys.argv[1:]])
