"""Parts that all suites share: options, measuring in turn, rows, the table."""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from affect_jax.errors import UserError
from affect_jax.runtime import xla_flags
from data_pipelines import disk

REPEATS = 7
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def parser(suite: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every suite, `--json` and `--repeats`."""
    made = argparse.ArgumentParser(
        f"python -m affect_jax.benchmark {suite}", description=description
    )
    made.add_argument("--json", help="write the rows to this file")
    made.add_argument("--repeats", type=int, default=REPEATS, help="measurements of each case")
    return made


def in_turn(
    cases: Mapping[str, Callable[[], float]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Measure all cases one after the other, `repeats` times.

    Other load on the machine then affects all of them alike.

    Args:
      cases: name -> a function that runs the case once and returns its figure.
      repeats: rounds.

    Returns:
      name -> `repeats` figures.
    """
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, measure in cases.items():
            figures[name].append(measure())
    return figures


def row(
    suite: str,
    case: str,
    metric: str,
    figures: Sequence[float],
    unit: str,
    *,
    baseline: str | None = None,
    baseline_figures: Sequence[float] | None = None,
    lower_is_better: bool = False,
) -> dict[str, Any]:
    """Return a row of results: median, spread, ratio to a baseline (> 1: better)."""
    median = statistics.median(figures)
    ratio = None
    if baseline_figures is not None:
        ratio = median / statistics.median(baseline_figures)
        ratio = 1 / ratio if lower_is_better else ratio
    return {
        "suite": suite,
        "case": case,
        "metric": metric,
        "value": median,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "n": len(figures),
        "min": min(figures),
        "max": max(figures),
    }


def rates(
    suite: str, case: str, figures: Mapping[str, Sequence[float]], *baselines: str
) -> list[dict[str, Any]]:
    """Return rows of images/s of a case, one for each baseline (or one without)."""
    return [
        row(
            suite,
            case,
            "images_per_second",
            figures[case],
            "images/s",
            baseline=baseline,
            baseline_figures=figures.get(baseline) if baseline else None,
        )
        for baseline in baselines or (None,)
    ]


def run(
    measure: Callable[[], Sequence[Mapping[str, Any]]],
    json_path: str | None,
    *,
    training: bool = False,
) -> int:
    """Measure, print the table, write the rows if asked; return the exit status.

    Args:
      measure: gives the rows.
      json_path: file for the rows; empty: none.
      training: training steps are measured; the processes that `measure` starts inherit its flags.
    """
    xla_flags.choose(training=training)
    try:
        with disk.explained(json_path or ""):
            results = measure()
            print(table(results))
            if json_path:
                save(results, json_path)
    except (UserError, disk.DiskFullError) as error:
        print(f"affect_jax: {error}", file=sys.stderr)
        return 2
    return 0


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as text for a terminal."""
    lines = [f"{'case':34} {'metric':26} {'median':>11} {'min':>10} {'max':>10}  ratio to baseline"]
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f} x {r['baseline']}"
        lines.append(
            f"{r['case']:34} {r['metric']:26} {r['value']:11.4g} {r['min']:10.4g} "
            f"{r['max']:10.4g}  {ratio or r['unit']}"
        )
    return "\n".join(lines)


def save(rows: Sequence[Mapping[str, Any]], path: str | pathlib.Path) -> None:
    """Write rows as a JSON list."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows), indent=1) + "\n")
