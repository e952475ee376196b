"""What a workdir holds, read for its report."""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from affect_jax.errors import UserError
from affect_jax.evaluation import predictions
from affect_jax.evaluation.provenance import ABOUT_FILE
from affect_jax.runtime import METRICS_FILE, NOT_METRICS, read_metrics
from affect_jax.runtime.tables import Results

FOLDER = "report"


_REFERENCES_FILE = "references.json"


class Run(NamedTuple):
    """A finished run, read from its workdir.

    Attributes:
        rows: of `metrics.jsonl`.
        results: `plain` and, where there are such, `flip-averaged` and `video-smoothed`: the test
            split's metrics.
        final: the last test row.
        stored: the predictions (see `predictions.gather`).
        config: the run's configuration; empty if the workdir has none.
        references: numbers of others to be set beside the results.
        about: data, date, version and command (`provenance.write_about`); empty if not recorded.
    """

    rows: list[dict[str, Any]]
    results: Results
    final: dict[str, Any]
    stored: dict[str, np.ndarray]
    config: dict[str, Any]
    references: Results
    about: Mapping[str, Any] = types.MappingProxyType({})


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads what the report needs of a finished run.

    Raises:
        UserError: if `workdir` is no workdir, or its test has not been finished.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; --workdir is the folder of a run")
    if not (workdir / METRICS_FILE).exists():
        raise UserError(
            f"{workdir} is not the folder of a run: it holds no {METRICS_FILE}; give the --workdir "
            "that affect_jax.main was started with"
        )
    rows = read_metrics(workdir)
    final = next((row for row in reversed(rows) if row.get("final")), None)
    last = rows[-1]["step"] if rows else 0
    again = "run the command that started it again, it goes on from the last checkpoint"
    if final is None:
        raise UserError(f"{workdir}: the run stopped at step {last}, before its test; {again}")
    if not (workdir / FOLDER / predictions.ARRAYS_FILE).exists():
        raise UserError(f"{workdir}: the test left no {FOLDER}/{predictions.ARRAYS_FILE}; {again}")
    results = {"plain": _metrics(final)}
    for row in rows:
        if row["split"] in _COLUMNS and row["step"] == final["step"]:
            measured = {k: v for k, v in _metrics(row).items() if k in results["plain"]}
            results.setdefault(_COLUMNS[row["split"]], {}).update(measured)
    return Run(
        rows=rows,
        results=results,
        final=final,
        stored=predictions.load(workdir / FOLDER),
        config=_json(workdir / "config.json"),
        references=_json(workdir / FOLDER / _REFERENCES_FILE),
        about=_json(workdir / FOLDER / ABOUT_FILE),
    )


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NOT_METRICS}


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); it was changed by hand?") from error


# Rows of the test beside the plain one -> column. Valence and arousal are averaged over mirror
# images in one, the class probabilities, with config.eval.calibrate, in the other.
_COLUMNS = {
    "test_flip": "flip-averaged",
    "test_mirror": "flip-averaged",
    "test_video": "video-smoothed",
}
