"""Tables and pictures that compare rows of runs over seeds, and the statistics behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affect_jax.metrics.spread import CONFIDENCE, Difference, Spread, paired_difference
from affect_jax.report.figures import style
from affect_jax.runtime import write_atomically
from affect_jax.runtime.tables import Table, fixed, label, number, page, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "report"

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]


class Grid(NamedTuple):
    """Rows of a sweep laid out as a paper's table.

    Attributes:
      column: the metric.
      corner: what lines and columns are.
      across: heads of the columns.
      lines: head of a line -> its rows, one a column.
      figures: row -> seed -> figure.
    """

    column: str
    corner: str
    across: Sequence[str]
    lines: Mapping[str, Sequence[str]]
    figures: Mapping[str, Mapping[int, float]]


class Comparison(NamedTuple):
    """Everything a table of rows shows.

    Attributes:
      columns: metric names.
      values: row -> column -> seed -> figure, rows in the order of the table.
      spreads: row -> column -> `Spread`.
      differences: row -> column -> `Difference` from the reference; empty without one.
      contrasts: "row a - row b" -> column -> `Difference`.
      reference: the row that others are compared with, or "".
      paper: row -> column -> published number.
      best: test figures of the first row, where rows are ranked by validation; else empty.
      title, notes: above and below the table.
      problems: lines on runs that are not in it.
      grid: another table, of some rows, or None.
      curves: metric -> row -> seed -> step -> validation figure.
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
    curves: Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]]


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
    curves: Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]] | None = None,
) -> Comparison:
    """Means, spreads and paired differences of rows.

    Args:
      runs: row -> seed -> metric -> figure, of finished runs.
      columns: metrics to show.
      reference: row from which differences are taken.
      contrasts: pairs of rows whose difference, first - second, is shown beside those.
      paper: row -> metric -> published number.
      rank_by: sort rows by the mean of this metric, rows without it last. Test metrics are then
        shown for the first row only.
      rank_mode: "min" or "max".
      title, notes, problems, curves: see `Comparison`.
      grid: `column`, `corner`, `across` and `lines` of a `Grid`.
    """
    columns = tuple(columns)
    order = list(runs)
    best: dict[str, Spread] = {}
    if rank_by:
        sign = 1.0 if rank_mode == "min" else -1.0

        def rank(row: str) -> tuple[bool, float]:
            mean = Spread.of(list(_of_seeds(runs[row], rank_by).values())).mean
            return math.isnan(mean), sign * mean

        order = sorted(order, key=rank)
        if rank_by not in columns:
            columns = (rank_by, *columns)
        if order and not rank(order[0])[0]:
            tested = [c for c in columns if not c.startswith("validation/")]
            tested = tested or [c.removeprefix("validation/") for c in columns]
            best = {c: Spread.of(list(_of_seeds(runs[order[0]], c).values())) for c in tested}
        columns = tuple(c for c in columns if c.startswith("validation/"))
    values = {row: {c: _of_seeds(runs[row], c) for c in columns} for row in order}
    differences = {}
    if reference:
        differences = {
            row: {c: paired_difference(values[row][c], values[reference][c]) for c in columns}
            for row in order
            if row != reference
        }
    return Comparison(
        columns=columns,
        values=values,
        spreads={
            r: {c: Spread.of(list(v.values())) for c, v in cs.items()} for r, cs in values.items()
        },
        differences=differences,
        contrasts={
            f"{a} - {b}": {c: paired_difference(values[a][c], values[b][c]) for c in columns}
            for a, b in contrasts
        },
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
        head += [label(column)] + (["paper"] if column in with_paper else [])
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
    """Means of some rows, with the paper's numbers in brackets."""

    def cell(row: str) -> str:
        values = grid.figures[row]
        published = compared.paper.get(row, {}).get(grid.column, math.nan)
        shown = _spread(grid.column, Spread.of(list(values.values())))
        return shown if math.isnan(published) else f"{shown} ({number(grid.column, published)})"

    body = [[head, *map(cell, rows)] for head, rows in grid.lines.items()]
    brackets = ", the paper's number in brackets" if compared.paper else ""
    return f"{label(grid.column)}{brackets}", [grid.corner, *grid.across], body


def text(compared: Comparison) -> str:
    """The tables in fixed width, for a terminal."""
    parts = [compared.title] if compared.title else []
    parts += [f"{heading}\n\n{fixed(head, body)}" for heading, head, body in _tables(compared)]
    return "\n\n".join([*parts, *compared.problems])


def write(compared: Comparison, workdir: Path, *, pictures: bool = True) -> list[Path]:
    """Writes `table.md`, `table.csv` and, with `pictures`, `rows.png`, `differences.png` and
    `curves.png`, as far as there is something to draw.

    Returns:
      The files.
    """
    folder = Path(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if pictures:
        for name, draw, there in (
            (
                "rows.png",
                rows_figure,
                any(s.n for r in compared.spreads.values() for s in r.values()),
            ),
            ("differences.png", differences_figure, _has_intervals(compared)),
            ("curves.png", curves_figure, bool(compared.curves)),
        ):
            (folder / name).unlink(missing_ok=True)
            if there:
                write_atomically(folder / name, style.png(draw(compared)))
    there = [n for n in ("rows.png", "differences.png", "curves.png") if (folder / n).exists()]
    written += [folder / name for name in there]
    table = folder / "table.md"
    title = compared.title or "Comparison"
    title += f"\n\n{compared.notes}" if compared.notes else ""
    content = page(title, _tables(compared), compared.problems, there)
    write_atomically(table, content.encode())
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
    return [*written, table, write_csv(folder / "table.csv", lines)]


def _columns_of(difference: Difference) -> dict[str, float]:
    return {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "pairs": difference.n,
    }


def write_cells(workdir: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Writes `cells.csv`, one line a run."""
    return write_csv(Path(workdir) / FOLDER / "cells.csv", lines)


def _has_intervals(compared: Comparison) -> bool:
    return any(d.n > 1 for r in compared.differences.values() for d in r.values())


def _panels(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    across = min(columns, 3)
    down = math.ceil(columns / across)
    figure = style.new_figure(2.2 + 2.6 * across, down * (0.9 + 0.26 * rows))
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    axes = list(grid.ravel())
    for unused in axes[columns:]:
        unused.set_visible(False)
    return figure, axes[:columns]


def _name_rows(axes: Sequence[Axes], names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.12)
        style.grid(ax, "x")


def rows_figure(compared: Comparison) -> Figure:
    """Every run as a dot, the mean of its row as a bar, the paper's number as an open diamond."""
    names = list(compared.values)
    columns = [c for c in compared.columns if any(compared.spreads[r][c].n for r in names)]
    with style.styled():
        figure, panels = _panels(len(names), len(columns))
        for ax, column in zip(panels, columns, strict=True):
            for y, row in enumerate(names):
                values = list(compared.values[row][column].values())
                colour = style.ORANGE if row == compared.reference else style.BLUE
                ax.plot(values, [y] * len(values), "o", color=colour, markersize=4, alpha=0.6)
                if values:
                    ax.plot([np.mean(values)] * 2, [y - 0.3, y + 0.3], color=colour, linewidth=2)
                published = compared.paper.get(row, {}).get(column)
                if published is not None:
                    ax.plot(
                        published, y, "D", color=style.GREY, markerfacecolor="none", markersize=5
                    )
            ax.set_title(label(column))
        _name_rows(panels, names)
        marks = "dots: runs, bars: means"
        marks += ", diamonds: the paper, on its own data" if compared.paper else ""
        figure.supxlabel(marks, fontsize=8, color=style.GREY)
    return figure


def differences_figure(compared: Comparison) -> Figure:
    """Paired differences from the reference with their intervals; grey where 0 is inside."""
    names = list(compared.differences)
    columns = [c for c in compared.columns if any(compared.differences[r][c].n > 1 for r in names)]
    with style.styled():
        figure, panels = _panels(len(names), len(columns))
        for ax, column in zip(panels, columns, strict=True):
            ax.axvline(0, color=style.INK, linewidth=0.8)
            for y, row in enumerate(names):
                difference = compared.differences[row][column]
                if difference.n < 2:
                    continue
                colour = style.BLUE if difference.is_clear else style.GREY
                ax.plot([difference.low, difference.high], [y, y], color=colour)
                ax.plot(difference.mean, y, "o", color=colour, markersize=5)
            ax.set_title(label(column))
        _name_rows(panels, names)
        figure.supxlabel(
            f"difference from {compared.reference}, {CONFIDENCE:.0%} interval over seeds",
            fontsize=8,
            color=style.GREY,
        )
    return figure


def curves_figure(compared: Comparison) -> Figure:
    """Validation figures over training: a line for the mean of each row's runs."""
    with style.styled():
        figure = style.new_figure(2.0 + 3.6 * len(compared.curves), 3.4)
        panels = figure.subplots(1, len(compared.curves), squeeze=False)[0]
        for ax, (name, rows) in zip(panels, compared.curves.items(), strict=True):
            for i, (row, by_seed) in enumerate(rows.items()):
                steps = sorted(set.intersection(*(set(curve) for curve in by_seed.values())))
                means = [np.mean([curve[step] for curve in by_seed.values()]) for step in steps]
                # Ten colours, then the same dashed.
                line = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--"}
                ax.plot(steps, means, label=row, **line)
            ax.set_title(f"validation {label(name)}")
            ax.set_xlabel("step")
            style.grid(ax, "y")
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return figure
