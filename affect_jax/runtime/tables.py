"""The results table: fixed width for a terminal, Markdown for documents."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from affect_jax.runtime.files import write_atomically

Results = Mapping[str, Mapping[str, float | None]]

# name -> (group, label, higher is better). The order is that of the table.
_METRICS: dict[str, tuple[str, str, bool | None]] = {
    "accuracy": ("Expression", "accuracy", True),
    "balanced_accuracy": ("Expression", "balanced accuracy", True),
    "precision_macro": ("Expression", "macro precision", True),
    "f1_macro": ("Expression", "macro F1", True),
    "nll": ("Expression", "negative log-likelihood", False),
    "ece": ("Expression", "calibration error (ECE)", False),
    "classes_counted": ("Expression", "classes in the macro scores", None),
    **{
        f"{dimension}_{name}": (dimension.capitalize(), name.upper(), name != "rmse")
        for dimension in ("valence", "arousal")
        for name in ("rmse", "sagr", "pcc", "ccc")
    },
    "nme": ("Landmarks", "error / eye distance (NME)", False),
    "nme_auc": ("Landmarks", "area under its curve to 8 %", True),
    "nme_failures": ("Landmarks", "share beyond 8 %", False),
    "nme_box": ("Landmarks", "error / box size", False),
    "nme_box_auc": ("Landmarks", "area under its curve to 7 %", True),
    "nme_box_failures": ("Landmarks", "share beyond 7 %", False),
    "accuracy_primary": ("Reliability balancing", "accuracy before", True),
    "ece_primary": ("Reliability balancing", "ECE before", False),
    "accuracy_corrected": ("Reliability balancing", "accuracy of the correction", True),
    "confidence_primary": ("Reliability balancing", "confidence before", None),
    "confidence_corrected": ("Reliability balancing", "confidence of the correction", None),
    "correction_better": ("Reliability balancing", "share made right", True),
    "correction_worse": ("Reliability balancing", "share made wrong", False),
    "anchors_never_win": ("Reliability balancing", "anchors that never win", None),
    "temperature": ("Expression", "temperature", None),
    "loss": ("Objective", "loss", False),
}
_RECALL = "recall_"


def describe(name: str) -> tuple[str, str, bool | None]:
    """A metric's group, its label, and whether higher is better (None: neither)."""
    if name in _METRICS:
        return _METRICS[name]
    if name.startswith(_RECALL):
        return "Recall by class", name.removeprefix(_RECALL).replace("_", " "), True
    return "Other", name.replace("_", " "), None


def higher_is_better(name: str) -> bool | None:
    """Returns whether the higher of two values of a metric is better; None: neither or unknown."""
    higher = describe(name)[2]
    return describe(name.removesuffix("_primary"))[2] if higher is None else higher


def count_images(evaluated: int, total: int | None = None) -> str:
    """How many images were evaluated, and of how many where some could not be read.

    Args:
        evaluated: images that were read and measured.
        total: images of the split; None if unknown.
    """
    if total is None or total == evaluated:
        return f"{evaluated:,} image{'' if evaluated == 1 else 's'}"
    return f"{evaluated:,} of {total:,} images ({total - evaluated:,} could not be read)"


def results_table(
    results: Results,
    *,
    references: Results | None = None,
    metrics: Sequence[str] | None = None,
    title: str | None = None,
    layout: str = "down",
    markdown: bool = False,
) -> str:
    """Lays out metrics of one or more evaluations, numbers of others set beside them.

    Args:
        results: name of an evaluation (`plain`, `flip-averaged`) -> metric name -> value. Missing
            values, None and NaN are shown as a dash.
        references: likewise, numbers that this run did not measure (a paper's); set apart from
            the results, and never the reason for a row of their own.
        metrics: the metrics to show, in this order; all of `results` if not given.
        title: a line above the table.
        layout: `down` (a metric a line) or `across` (an evaluation a line, for few metrics).
        markdown: a Markdown table instead of fixed width.

    Returns:
        The table, without a newline at its end.

    Raises:
        ValueError: if there is nothing to show, `layout` is neither of the two, or a name is both
            a result and a reference.
    """
    if not results:
        raise ValueError("results_table: no results to show")
    if layout not in ("down", "across"):
        raise ValueError(f"results_table: layout {layout!r} is neither 'down' nor 'across'")
    references = references or {}
    names = list(metrics) if metrics is not None else ordered_metrics(results)
    columns = {**results, **references}
    if clash := sorted(set(results) & set(references)):
        raise ValueError(f"results_table: {clash} are both results and references")
    if layout == "down":
        header = ["", *columns]
        body = [
            [f"**{label}**" if markdown else label, *[""] * len(columns)]
            if cells is None
            else [label if markdown else f"  {label}", *cells]
            for label, cells in table_rows(results, references, metrics, arrows=markdown)
        ]
        bar = len(results) if references else None
        rule = None
    else:
        header = ["", *(_label(name, markdown, with_group=True) for name in names)]
        body = [
            [key, *(_number(n, values.get(n)) for n in names)] for key, values in columns.items()
        ]
        bar, rule = None, len(results) if references else None
    if markdown:
        text = _markdown(header, body)
        return f"**{title}**\n\n{text}" if title else text
    text = _fixed(header, body, bar, rule)
    return f"{title}\n\n{text}" if title else text


def ordered_metrics(results: Results) -> list[str]:
    """The metric names of all evaluations in the table's order, unknown ones last."""
    names = dict.fromkeys(name for values in results.values() for name in values)
    known = [name for name in _METRICS if name in names]
    recalls = [name for name in names if name.startswith(_RECALL)]
    return known + recalls + [name for name in names if name not in {*known, *recalls}]


def table_rows(
    results: Results,
    references: Results | None = None,
    metrics: Sequence[str] | None = None,
    *,
    arrows: bool = True,
) -> Iterator[tuple[str, list[str] | None]]:
    """The lines of a table with a metric a line, for any kind of output.

    Args:
        results: as in `results_table`.
        references: as in `results_table`.
        metrics: as in `results_table`.
        arrows: say after a name whether higher or lower is better.

    Yields:
        A metric's label and its formatted values, results before references; or the name of a
        group of metrics and None.
    """
    columns = [*results.values(), *(references or {}).values()]
    group = None
    for name in ordered_metrics(results) if metrics is None else metrics:
        if describe(name)[0] != group:
            group = describe(name)[0]
            yield group, None
        yield _label(name, arrows), [_number(name, values.get(name)) for values in columns]


def _label(name: str, arrows: bool, with_group: bool = False) -> str:
    group, label, higher = describe(name)
    if with_group and group in ("Valence", "Arousal"):
        label = f"{group} {label}"
    arrow = {True: " ↑", False: " ↓", None: ""}[higher] if arrows else ""
    return label + arrow


def _number(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if describe(name)[2] is None and float(value).is_integer():
        return f"{int(value)}"
    digits = 4 if name in ("nme", "nme_box") else 3
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.4g}"


def _fixed(header: list[str], body: list[list[str]], bar: int | None, rule: int | None) -> str:
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        text = cells[0].ljust(widths[0])
        for i, cell in enumerate(cells[1:], start=1):
            text += ("  | " if bar is not None and i == bar + 1 else "   ") + cell.rjust(widths[i])
        return text.rstrip()

    lines = [line(header)]
    dashes = "-" * max(len(line(row)) for row in [header, *body])
    lines.append(dashes)
    for number, row in enumerate(body):
        if rule is not None and number == rule:
            lines.append(dashes)
        lines.append(line(row))
    return "\n".join(lines)


def _markdown(header: list[str], body: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), "|---|" + "---:|" * (len(header) - 1), *map(line, body)])


Table = tuple[str, list[str], list[list[str]]]  # heading, head, body


def label(column: str) -> str:
    """A metric's name for a table's head, with its split where that is not test."""
    split, _, name = column.rpartition("/")
    group, text, higher = describe(name)
    if group in ("Valence", "Arousal"):
        text = f"{group.lower()} {text}"
    arrow = {True: " ↑", False: " ↓", None: ""}[higher]
    return f"{split.replace('_', ' ')} {text}{arrow}".strip()


def number(column: str, value: float, sign: bool = False) -> str:
    """A metric's value with its usual digits; a dash for NaN."""
    if math.isnan(value):
        return "-"
    digits = 4 if column.rpartition("/")[2].startswith("nme") else 3
    return f"{value:{'+' if sign else ''}.{digits}f}"


def fixed(head: list[str], body: list[list[str]]) -> str:
    """A table in fixed width."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *body]
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def page(
    title: str, tables: Sequence[Table], problems: Sequence[str] = (), pictures: Sequence[str] = ()
) -> str:
    """Tables, what is missing from them and pictures (files beside it) as a Markdown document."""
    parts = [f"# {title}"]
    for heading, head, body in tables:
        rule = "|---|" + "---:|" * (len(head) - 1)
        lines = ["| " + " | ".join(line) + " |" for line in [head, *body]]
        parts.append("\n".join([f"{heading}:", "", lines[0], rule, *lines[1:]]))
    if problems:
        parts.append("Not in the table:\n\n" + "\n".join(f"* {p}" for p in problems))
    parts += [f"![{name}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Writes lines with all the columns that any of them has; NaN and absent values are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in line.items()} for line in lines)
    write_atomically(path, out.getvalue().encode())
    return path


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
