"""Tables that compare rows of runs over seeds, and their files in a report folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from affect_jax.metrics.spread import CONFIDENCE, Difference, Spread, paired_difference
from affect_jax.report.figures import comparison as figures_lib
from affect_jax.report.figures import style
from affect_jax.runtime import write_atomically
from affect_jax.runtime.tables import Table, fixed, label, number, page, write_csv

FOLDER = "report"

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]
Curves = Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]]


class Grid(TypedDict):
    """Some rows laid out as a paper's table.

    `column` is the metric, `corner` says what lines and columns are, `across` are the heads of the
    columns, and `lines` maps the head of a line to its rows, one a column.
    """

    column: str
    corner: str
    across: Sequence[str]
    lines: Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a comparison shows, by the keys of a sweep file that docs/sweeps.md explains."""

    columns: tuple[str, ...] = ()
    reference: str = ""
    contrasts: tuple[tuple[str, str], ...] = ()
    paper: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    rank_by: str = ""
    rank_mode: str = "min"
    grid: Grid | None = None
    title: str = ""
    notes: str = ""


class Comparison:
    """Rows of runs over seeds, compared as a layout says.

    Args:
      layout: what is shown.
      runs: row -> seed -> metric -> value, of finished runs.
      curves: metric -> row -> seed -> step -> validation value; empty ones are left out.
      problems: lines about runs that are missing.

    Attributes:
      rows: in the order of the table; ranked ones without a value come last.
      columns: metrics of the table; of ranked rows, validation metrics only.
      tested: metrics shown of the first row only, where rows are ranked.
    """

    def __init__(
        self, layout: Layout, runs: Runs, curves: Curves | None = None, problems: Sequence[str] = ()
    ):
        self.layout, self.runs, self.problems = layout, runs, tuple(problems)
        kept = {
            name: {row: found for row, c in rows.items() if (found := _without_empty(c))}
            for name, rows in (curves or {}).items()
        }
        self.curves = _without_empty(kept)
        self.rows, self.columns, self.tested = list(runs), layout.columns, ()
        if layout.rank_by:
            sign = 1.0 if layout.rank_mode == "min" else -1.0
            rank = {row: sign * self.spread(row, layout.rank_by).mean for row in runs}
            self.rows.sort(key=lambda row: (math.isnan(rank[row]), rank[row]))
            shown = layout.columns
            if layout.rank_by not in shown:
                shown = (layout.rank_by, *shown)
            self.columns = tuple(c for c in shown if c.startswith("validation/"))
            if self.rows and not math.isnan(rank[self.rows[0]]):
                tests = tuple(c for c in shown if c not in self.columns)
                self.tested = tests or tuple(c.removeprefix("validation/") for c in shown)
        # Name of a difference -> the rows a and b of a - b.
        others = [row for row in self.rows if layout.reference and row != layout.reference]
        self._pairs = {row: (row, layout.reference) for row in others}
        self._contrasts = {f"{a} - {b}": (a, b) for a, b in layout.contrasts}

    def values(self, row: str, column: str) -> dict[int, float]:
        """Return seed -> value of a metric."""
        by_seed = self.runs[row].items()
        return {s: float(f[column]) for s, f in by_seed if f.get(column) is not None}

    def spread(self, row: str, column: str) -> Spread:
        """Return the spread of a metric over the seeds of a row."""
        return Spread.of(self.values(row, column).values())

    def difference(self, a: str, b: str, column: str) -> Difference:
        """Return the paired difference of two rows, a - b."""
        return paired_difference(self.values(a, column), self.values(b, column))

    def tables(self) -> list[Table]:
        """Return all tables, formatted."""
        tables = [self._means()]
        if self.layout.grid:
            tables.append(self._grid(self.layout.grid))
        for heading, pairs in (
            (f"Paired difference from {self.layout.reference}", self._pairs),
            ("Paired difference of two rows", self._contrasts),
        ):
            if pairs:
                heading += f", with its {CONFIDENCE:.0%} interval (* where it leaves 0 out)"
                tables.append((heading, ["", *map(label, self.columns)], self._differences(pairs)))
        if self.tested:
            row = self.rows[0]
            line = [row, *(_spread(c, self.spread(row, c)) for c in self.tested)]
            tables.append((f"Test split, {row} alone", ["", *map(label, self.tested)], [line]))
        return tables

    def _means(self) -> Table:
        published = {c for figures in self.layout.paper.values() for c in figures}
        head, body = ["", "runs"], []
        for column in self.columns:
            head += [label(column), *["paper"] * (column in published)]
        for row in self.rows:
            spreads = {column: self.spread(row, column) for column in self.columns}
            count = max((s.n for s in spreads.values()), default=0)
            line = [row, str(count)]
            for column, spread in spreads.items():
                line.append(_spread(column, spread))
                if column in published:
                    line.append(number(column, self._published(row, column)))
            if count:
                body.append(line)
        return "Mean ± standard deviation over seeds", head, body

    def _grid(self, grid: Grid) -> Table:
        """Return the means of some rows, with the paper's numbers in brackets."""
        column = grid["column"]

        def entry(row: str) -> str:
            published = self._published(row, column)
            shown = _spread(column, self.spread(row, column))
            return shown if math.isnan(published) else f"{shown} ({number(column, published)})"

        body = [[head, *map(entry, rows)] for head, rows in grid["lines"].items()]
        brackets = ", the paper's number in brackets" if self.layout.paper else ""
        return f"{label(column)}{brackets}", [grid["corner"], *grid["across"]], body

    def _differences(self, pairs: Mapping[str, tuple[str, str]]) -> list[list[str]]:
        body = []
        for name, (a, b) in pairs.items():
            differences = {c: self.difference(a, b, c) for c in self.columns}
            if any(d.n for d in differences.values()):
                body.append([name, *(_difference(c, d) for c, d in differences.items())])
        return body

    def _published(self, row: str, column: str) -> float:
        return self.layout.paper.get(row, {}).get(column, math.nan)

    def text(self) -> str:
        """Return the tables in fixed width, for a terminal."""
        tables = [f"{heading}\n\n{fixed(head, body)}" for heading, head, body in self.tables()]
        return "\n\n".join([*filter(None, [self.layout.title]), *tables, *self.problems])

    def write(self, workdir: Path, *, pictures: bool = True) -> None:
        """Write `table.md`, `table.csv` and, with `pictures`, what there is to draw."""
        folder = workdir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        if pictures:
            for name, figure in self._pictures().items():
                (folder / name).unlink(missing_ok=True)
                if figure is not None:
                    write_atomically(folder / name, style.png(figure))
        there = [name for name in _PICTURES if (folder / name).exists()]
        title = "\n\n".join(filter(None, [self.layout.title or "Comparison", self.layout.notes]))
        content = page(title, self.tables(), self.problems, there)
        write_atomically(folder / "table.md", content.encode())
        write_csv(folder / "table.csv", self._lines())

    def _pictures(self) -> dict[str, Any]:
        """Return file name -> figure, None where there is nothing to draw."""
        values = {
            row: {c: list(self.values(row, c).values()) for c in self.columns} for row in self.rows
        }
        differences = {
            row: {c: self.difference(*pair, c) for c in self.columns}
            for row, pair in self._pairs.items()
        }
        reference, paper = self.layout.reference, self.layout.paper
        figures = (
            figures_lib.rows_figure(values, reference, paper),
            figures_lib.differences_figure(differences, reference),
            figures_lib.curves_figure(self.curves),
        )
        return dict(zip(_PICTURES, figures, strict=True))

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of `table.csv`."""
        lines = []
        for row in self.rows:
            for column in self.columns:
                line = {"row": row, "column": column, **self.spread(row, column)._asdict()}
                if row in self._pairs:
                    line |= _named(self.difference(*self._pairs[row], column))
                lines.append({**line, "paper": self._published(row, column)})
        lines += [
            {"row": name, "column": column, **_named(self.difference(*pair, column))}
            for name, pair in self._contrasts.items()
            for column in self.columns
        ]
        return lines


_PICTURES = ("rows.png", "differences.png", "curves.png")


def _without_empty(values: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in values.items() if value}


def _named(difference: Difference) -> dict[str, float]:
    return dict(zip(("difference", "low", "high", "pairs"), difference, strict=True))


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
