"""What every benchmark suite shares: measuring in turn, rows of results, the table printed."""

import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from affect_jax.errors import UserError
from data_pipelines import disk

REPEATS = 7


def in_turn(
    cases: Mapping[str, Callable[[], float]], repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Measures all cases one after the other, and that `repeats` times over.

    What else the machine does then falls on all of them alike.

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
    """One line of results: the median, its spread, and the ratio to a baseline (> 1: we win)."""
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
    """Rows of images/s of a case of `figures`, one for each baseline (or one without)."""
    return [
        row(
            suite,
            case,
            "images_per_second",
            figures[case],
            "images/s",
            baseline=baseline,
            baseline_figures=figures.get(baseline),
        )
        for baseline in baselines or (None,)
    ]


def run(measure: Callable[[], Sequence[Mapping[str, Any]]], json_path: str | None) -> int:
    """Measures, prints the table, writes the rows where asked for; returns the exit status."""
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
    """Rows as text for a terminal."""
    lines = [f"{'case':34} {'metric':26} {'median':>11} {'min':>10} {'max':>10}  ratio to baseline"]
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f} x {r['baseline']}"
        lines.append(
            f"{r['case']:34} {r['metric']:26} {r['value']:11.4g} {r['min']:10.4g} "
            f"{r['max']:10.4g}  {ratio or r['unit']}"
        )
    return "\n".join(lines)


def save(rows: Sequence[Mapping[str, Any]], path: str | pathlib.Path) -> None:
    """Writes rows as a JSON list."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows), indent=1) + "\n")
