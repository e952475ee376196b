"""Tables that compare rows of runs over seeds, and their files in a report folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from affect_jax.metrics.spread import CONFIDENCE, Difference, Spread, paired_difference
from affect_jax.report.figures import comparison as figures_lib
from affect_jax.report.figures import style
from affect_jax.runtime import REPORT_FOLDER, write_atomically
from affect_jax.runtime.tables import Table, fixed, label, number, page, write_csv

_PICTURES = ("rows.png", "differences.png", "curves.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a comparison, by the keys of a sweep file (docs/sweeps.md)."""

    columns: Sequence[str] = ()
    reference: str = ""
    contrasts: Sequence[tuple[str, str]] = ()
    paper: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    rank_by: str = ""
    rank_mode: str = "min"
    grid: Mapping[str, Any] | None = None
    title: str = ""
    notes: str = ""


class Comparison:
    """Rows of runs over seeds, compared as a layout says.

    Args:
      layout: what is shown.
      runs: row -> seed -> metric -> value, of finished runs.
      curves: metric -> row -> seed -> step -> validation value.
      problems: lines about runs that are missing.

    Attributes:
      rows: in the order of the table; ranked ones without a value come last.
      columns: metrics of the table; of ranked rows, validation metrics only.
      tested: metrics shown of the first row only, where rows are ranked.
      differences: row -> metric -> `Difference` from the reference row.
      contrasts: "a - b" -> metric -> `Difference`.
    """

    def __init__(
        self,
        layout: Layout,
        runs: Mapping[str, Mapping[int, Mapping[str, float]]],
        curves: figures_lib.Curves | None = None,
        problems: Sequence[str] = (),
    ):
        self.layout, self.runs, self.curves, self.problems = layout, runs, curves or {}, problems
        self.rows, self.columns = list(runs), tuple(layout.columns)
        self.tested: tuple[str, ...] = ()
        if layout.rank_by:
            sign = 1.0 if layout.rank_mode == "min" else -1.0
            rank = {row: sign * self.spread(row, layout.rank_by).mean for row in runs}
            self.rows.sort(key=lambda row: (math.isnan(rank[row]), rank[row]))
            shown = self.columns
            if layout.rank_by not in shown:
                shown = (layout.rank_by, *shown)
            self.columns = tuple(c for c in shown if c.startswith("validation/"))
            if self.rows and not math.isnan(rank[self.rows[0]]):
                tests = tuple(c for c in shown if c not in self.columns)
                self.tested = tests or tuple(c.removeprefix("validation/") for c in shown)
        reference = layout.reference
        self.differences = {
            row: self._difference(row, reference)
            for row in self.rows
            if reference and row != reference
        }
        self.contrasts = {f"{a} - {b}": self._difference(a, b) for a, b in layout.contrasts}

    def values(self, row: str, column: str) -> dict[int, float]:
        """Return seed -> value of a metric."""
        by_seed = self.runs[row].items()
        return {s: float(f[column]) for s, f in by_seed if f.get(column) is not None}

    def spread(self, row: str, column: str) -> Spread:
        """Return the spread of a metric over the seeds of a row."""
        return Spread.of(self.values(row, column).values())

    def _difference(self, a: str, b: str) -> dict[str, Difference]:
        return {c: paired_difference(self.values(a, c), self.values(b, c)) for c in self.columns}

    def published(self, row: str, column: str) -> float:
        """Return the paper's number; NaN without one."""
        return self.layout.paper.get(row, {}).get(column, math.nan)

    def tables(self) -> list[Table]:
        """Return all tables, formatted."""
        tables = [self._means()]
        if self.layout.grid:
            tables.append(self._grid(**self.layout.grid))
        for heading, differences in (
            (f"Paired difference from {self.layout.reference}", self.differences),
            ("Paired difference of two rows", self.contrasts),
        ):
            if differences:
                heading += f", with its {CONFIDENCE:.0%} interval (* where it leaves 0 out)"
                body = [
                    [name, *(_difference(c, d) for c, d in by_column.items())]
                    for name, by_column in differences.items()
                    if any(d.n for d in by_column.values())
                ]
                tables.append((heading, ["", *map(label, self.columns)], body))
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
                    line.append(number(column, self.published(row, column)))
            if count:
                body.append(line)
        return "Mean ± standard deviation over seeds", head, body

    def _grid(
        self, column: str, corner: str, across: Sequence[str], lines: Mapping[str, Sequence[str]]
    ) -> Table:
        """Return the means of some rows, with the paper's numbers in brackets."""

        def entry(row: str) -> str:
            published = self.published(row, column)
            shown = _spread(column, self.spread(row, column))
            return shown if math.isnan(published) else f"{shown} ({number(column, published)})"

        brackets = ", the paper's number in brackets" if self.layout.paper else ""
        body = [[head, *map(entry, rows)] for head, rows in lines.items()]
        return f"{label(column)}{brackets}", [corner, *across], body

    def text(self) -> str:
        """Return the tables in fixed width, for a terminal."""
        tables = [f"{heading}\n\n{fixed(head, body)}" for heading, head, body in self.tables()]
        return "\n\n".join([*filter(None, [self.layout.title]), *tables, *self.problems])

    def write(self, workdir: Path, *, pictures: bool = True) -> None:
        """Write `table.md`, `table.csv` and, with `pictures`, what there is to draw."""
        folder = workdir / REPORT_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in zip(_PICTURES, self._figures() if pictures else (), strict=False):
            (folder / name).unlink(missing_ok=True)
            if figure is not None:
                write_atomically(folder / name, style.png(figure))
        there = [name for name in _PICTURES if (folder / name).exists()]
        title = "\n\n".join(filter(None, [self.layout.title or "Comparison", self.layout.notes]))
        content = page(title, self.tables(), self.problems, there)
        write_atomically(folder / "table.md", content.encode())
        write_csv(folder / "table.csv", self._lines())

    def _figures(self) -> list[figures_lib.Figure | None]:
        values = {
            row: {c: list(self.values(row, c).values()) for c in self.columns} for row in self.rows
        }
        return [
            figures_lib.rows_figure(values, self.layout.reference, self.layout.paper),
            figures_lib.differences_figure(self.differences, self.layout.reference),
            figures_lib.curves_figure(self.curves),
        ]

    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of `table.csv`."""
        lines = []
        for row in self.rows:
            for column in self.columns:
                line = {"row": row, "column": column, **self.spread(row, column)._asdict()}
                if row in self.differences:
                    line |= _named(self.differences[row][column])
                lines.append({**line, "paper": self.published(row, column)})
        return lines + [
            {"row": name, "column": column, **_named(difference)}
            for name, by_column in self.contrasts.items()
            for column, difference in by_column.items()
        ]


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
