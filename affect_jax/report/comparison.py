"""Tables that compare rows of runs over seeds, and the statistics behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from affect_jax.metrics.spread import CONFIDENCE, Difference, Spread, paired_difference
from affect_jax.report.figures import comparison as figures
from affect_jax.report.figures import style
from affect_jax.runtime import REPORT_FOLDER, write_atomically
from affect_jax.runtime.tables import Table, fixed, label, number, page, write_csv

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]  # row -> seed -> metric -> value
Curves = Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]]
_FIGURES = ("rows.png", "differences.png", "curves.png")


class Grid(NamedTuple):
    """Rows of a sweep in the layout of a paper's table.

    Attributes:
      column: the metric.
      corner: what lines and columns are.
      across: heads of the columns.
      lines: head of a line -> its rows, one a column.
      figures: row -> seed -> value.
    """

    column: str
    corner: str
    across: Sequence[str]
    lines: Mapping[str, Sequence[str]]
    figures: Mapping[str, Mapping[int, float]]


class Comparison(NamedTuple):
    """The content of a comparison of rows.

    Attributes:
      columns: metric names.
      values: row -> column -> seed -> value, rows in the order of the table.
      spreads: row -> column -> `Spread`.
      differences: row -> column -> `Difference` from the reference; empty without one.
      contrasts: "row a - row b" -> column -> `Difference`.
      reference: the row that others are compared with, or "".
      paper: row -> column -> published number.
      best: test metrics of the first row, where rows are ranked by validation; else empty.
      title, notes: above and below the table.
      problems: lines on runs that are not in it.
      grid: another table, of some rows, or None.
      curves: metric -> row -> seed -> step -> validation value.
    """

    columns: tuple[str, ...]
    values: dict[str, dict[str, dict[int, float]]]
    spreads: dict[str, dict[str, Spread]]
    differences: dict[str, dict[str, Difference]]
    contrasts: dict[str, dict[str, Difference]]
    reference: str
    paper: Mapping[str, Mapping[str, float]]
    best: dict[str, Spread]
    title: str
    notes: str
    problems: tuple[str, ...]
    grid: Grid | None
    curves: Curves


def compare(
    runs: Runs,
    columns: Sequence[str],
    *,
    reference: str = "",
    contrasts: Sequence[tuple[str, str]] = (),
    paper: Mapping[str, Mapping[str, float]] | None = None,
    rank_by: str = "",
    rank_mode: str = "min",
    title: str = "",
    notes: str = "",
    problems: Sequence[str] = (),
    grid: Mapping[str, Any] | None = None,
    curves: Curves | None = None,
) -> Comparison:
    """Compute means, spreads and paired differences of rows.

    Args:
      runs: finished runs.
      columns: metrics to show.
      reference: row from which differences are taken.
      contrasts: pairs of rows whose difference, first - second, is also shown.
      paper: row -> metric -> published number.
      rank_by: sort rows by the mean of this metric, rows without it last. Test metrics are then
        shown for the first row only.
      rank_mode: "min" or "max".
      title, notes, problems, curves: see `Comparison`.
      grid: `column`, `corner`, `across` and `lines` of a `Grid`.
    """
    columns, order = tuple(columns), list(runs)
    best: dict[str, Spread] = {}
    if rank_by:
        sign = 1.0 if rank_mode == "min" else -1.0

        def rank(row: str) -> tuple[bool, float]:
            mean = _spread_of(runs[row], rank_by).mean
            return math.isnan(mean), sign * mean

        order = sorted(order, key=rank)
        columns = columns if rank_by in columns else (rank_by, *columns)
        if order and not rank(order[0])[0]:
            tested = [c for c in columns if not c.startswith("validation/")]
            tested = tested or [c.removeprefix("validation/") for c in columns]
            best = {c: _spread_of(runs[order[0]], c) for c in tested}
        columns = tuple(c for c in columns if c.startswith("validation/"))
    values = {row: {c: _of_seeds(runs[row], c) for c in columns} for row in order}

    def difference(a: str, b: str) -> dict[str, Difference]:
        return {c: paired_difference(values[a][c], values[b][c]) for c in columns}

    return Comparison(
        columns=columns,
        values=values,
        spreads={row: {c: _spread_of(runs[row], c) for c in columns} for row in order},
        differences={
            row: difference(row, reference) for row in order if reference and row != reference
        },
        contrasts={f"{a} - {b}": difference(a, b) for a, b in contrasts},
        reference=reference,
        paper=paper or {},
        best=best,
        title=title,
        notes=notes,
        problems=tuple(problems),
        grid=Grid(**grid, figures={r: _of_seeds(runs[r], grid["column"]) for r in runs})
        if grid
        else None,
        curves={
            name: {row: by_seed for row, by_seed in rows.items() if any(by_seed.values())}
            for name, rows in (curves or {}).items()
            if any(any(by_seed.values()) for by_seed in rows.values())
        },
    )


def _of_seeds(by_seed: Mapping[int, Mapping[str, float]], name: str) -> dict[int, float]:
    return {s: float(f[name]) for s, f in by_seed.items() if f.get(name) is not None}


def _spread_of(by_seed: Mapping[int, Mapping[str, float]], name: str) -> Spread:
    return Spread.of(list(_of_seeds(by_seed, name).values()))


def _spread(column: str, spread: Spread) -> str:
    if spread.n == 0:
        return "-"
    return number(column, spread.mean) + (f" ± {number(column, spread.sd)}" if spread.n > 1 else "")


def _difference(column: str, difference: Difference) -> str:
    if difference.n == 0:
        return "-"
    text = number(column, difference.mean, sign=True)
    if difference.n > 1:
        ends = (number(column, x, sign=True) for x in (difference.low, difference.high))
        text += " [{}, {}]".format(*ends)
    return f"{text} *" if difference.is_clear else text


def _tables(compared: Comparison) -> list[Table]:
    c = compared
    with_paper = {col for col in c.columns if any(col in p for p in c.paper.values())}
    head = ["", "runs"]
    for column in c.columns:
        head += [label(column), "paper"] if column in with_paper else [label(column)]
    body = []
    for row, by_column in c.spreads.items():
        runs = max((s.n for s in by_column.values()), default=0)
        if not runs:
            continue
        line = [row, str(runs)]
        for column in c.columns:
            line.append(_spread(column, by_column[column]))
            if column in with_paper:
                line.append(number(column, c.paper.get(row, {}).get(column, math.nan)))
        body.append(line)
    tables = [("Mean ± standard deviation over seeds", head, body)]
    if c.grid:
        tables.append(_grid(c, c.grid))
    for name, differences in (
        (f"Paired difference from {c.reference}", c.differences),
        ("Paired difference of two rows", c.contrasts),
    ):
        if differences:
            lines = [
                [row, *(_difference(column, by_column[column]) for column in c.columns)]
                for row, by_column in differences.items()
                if any(d.n for d in by_column.values())
            ]
            heading = f"{name}, with its {CONFIDENCE:.0%} interval (* where it leaves 0 out)"
            tables.append((heading, ["", *map(label, c.columns)], lines))
    if c.best:
        row = next(iter(c.spreads))
        cells = [_spread(column, s) for column, s in c.best.items()]
        tables.append((f"Test split, {row} alone", ["", *map(label, c.best)], [[row, *cells]]))
    return tables


def _grid(compared: Comparison, grid: Grid) -> Table:
    """Return the means of some rows, with the paper's numbers in brackets."""

    def cell(row: str) -> str:
        values = grid.figures[row]
        published = compared.paper.get(row, {}).get(grid.column, math.nan)
        shown = _spread(grid.column, Spread.of(list(values.values())))
        return shown if math.isnan(published) else f"{shown} ({number(grid.column, published)})"

    body = [[head, *map(cell, rows)] for head, rows in grid.lines.items()]
    brackets = ", the paper's number in brackets" if compared.paper else ""
    return f"{label(grid.column)}{brackets}", [grid.corner, *grid.across], body


def text(compared: Comparison) -> str:
    """Return the tables in fixed width, for a terminal."""
    parts = [compared.title] if compared.title else []
    parts += [f"{heading}\n\n{fixed(head, body)}" for heading, head, body in _tables(compared)]
    return "\n\n".join([*parts, *compared.problems])


def write(compared: Comparison, workdir: Path, *, pictures: bool = True) -> None:
    """Write `table.md`, `table.csv` and, with `pictures`, the figures that can be drawn.

    These are `rows.png`, `differences.png` and `curves.png`.
    """
    folder = Path(workdir) / REPORT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if pictures:
        _draw(compared, folder)
    drawn = [name for name in _FIGURES if (folder / name).exists()]
    title = compared.title or "Comparison"
    title += f"\n\n{compared.notes}" if compared.notes else ""
    content = page(title, _tables(compared), compared.problems, drawn)
    write_atomically(folder / "table.md", content.encode())
    lines = []
    for row, by_column in compared.spreads.items():
        for column, spread in by_column.items():
            line = {"row": row, "column": column, **spread._asdict()}
            if row in compared.differences:
                line |= _columns_of(compared.differences[row][column])
            line["paper"] = compared.paper.get(row, {}).get(column, math.nan)
            lines.append(line)
    for row, by_column in compared.contrasts.items():
        for column, difference in by_column.items():
            lines.append({"row": row, "column": column, **_columns_of(difference)})
    write_csv(folder / "table.csv", lines)


def _draw(compared: Comparison, folder: Path) -> None:
    c = compared
    for name in _FIGURES:
        (folder / name).unlink(missing_ok=True)
    drawn = {}
    if any(s.n for r in c.spreads.values() for s in r.values()):
        drawn["rows.png"] = figures.rows(c.values, c.columns, c.paper, c.reference)
    if any(d.n > 1 for r in c.differences.values() for d in r.values()):
        drawn["differences.png"] = figures.differences(c.differences, c.columns, c.reference)
    if c.curves:
        drawn["curves.png"] = figures.curves(c.curves)
    for name, figure in drawn.items():
        write_atomically(folder / name, style.png(figure))


def _columns_of(difference: Difference) -> dict[str, float]:
    names = {"mean": "difference", "low": "low", "high": "high", "n": "pairs"}
    return {names[key]: value for key, value in difference._asdict().items()}


def write_cells(workdir: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write `cells.csv`, one line a run."""
    return write_csv(Path(workdir) / REPORT_FOLDER / "cells.csv", lines)
