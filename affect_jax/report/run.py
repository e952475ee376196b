"""The content of a finished run's workdir, read for its report."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from affect_jax.config import CONFIG_FILE
from affect_jax.errors import UserError
from affect_jax.evaluation import context_rows, predictions
from affect_jax.evaluation.provenance import ABOUT_FILE
from affect_jax.runtime import METRICS_FILE, NOT_METRICS, REPORT_FOLDER, read_metrics
from affect_jax.runtime.tables import SD, Results

# Rows of the test next to the plain one -> column. Valence and arousal are averaged over mirror
# images in one, with config.eval.calibrate the class probabilities in the other.
_COLUMNS = {
    "test_flip": "flip-averaged",
    "test_mirror": "flip-averaged",
    "test_video": "video-smoothed",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its workdir.

    Attributes:
        rows: of `metrics.jsonl`.
        results: metrics of the test split by column: `plain` and, where they exist,
            `flip-averaged`, `video-smoothed` and contexts (`evaluation.contexts`).
        final: the last test row.
        stored: the predictions.
        config: the run's configuration; empty if the workdir has none.
        about: see `provenance.write_about`; empty if not recorded.
    """

    rows: list[dict[str, Any]]
    results: Results
    final: dict[str, Any]
    stored: predictions.StoredPredictions
    config: dict[str, Any]
    about: dict[str, Any]


def read_run(workdir: str | os.PathLike) -> Run:
    """Read what the report needs of a finished run.

    Raises:
        UserError: `workdir` is not a workdir, or its test is not finished.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; --workdir is the folder of a run")
    if not (workdir / METRICS_FILE).exists():
        raise UserError(
            f"{workdir} is not the folder of a run: it holds no {METRICS_FILE}; give the --workdir "
            "of affect_jax.main"
        )
    rows = read_metrics(workdir)
    final = next((row for row in reversed(rows) if row.get("final")), None)
    again = "repeat the command of the run; it resumes from the last checkpoint"
    if final is None:
        last = rows[-1]["step"] if rows else 0
        raise UserError(f"{workdir}: the run stopped at step {last}, before its test; {again}")
    folder = workdir / REPORT_FOLDER
    if not (folder / predictions.ARRAYS_FILE).exists():
        name = f"{REPORT_FOLDER}/{predictions.ARRAYS_FILE}"
        raise UserError(f"{workdir}: {name} is missing; {again}")
    results = {"plain": _metrics(final)}
    for row in rows:
        column = _COLUMNS.get(row["split"]) or context_rows.column(row["split"].partition("_")[2])
        if column and row["split"].startswith("test") and row["step"] == final["step"]:
            shown = results["plain"].keys()
            measured = {k: v for k, v in _metrics(row).items() if k.removesuffix(SD) in shown}
            results.setdefault(column, {}).update(measured)
    return Run(
        rows=rows,
        results=results,
        final=final,
        stored=predictions.load(folder),
        config=read_json(workdir / CONFIG_FILE),
        about=read_json(folder / ABOUT_FILE),
    )


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in NOT_METRICS}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; empty if there is none.

    Raises:
        UserError: the file is not valid JSON.
    """
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it from a copy") from error
