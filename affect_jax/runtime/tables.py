"""Tables of metrics: fixed width for a terminal, Markdown for documents, CSV."""

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
Table = tuple[str, list[str], list[list[str]]]  # heading, head, body

# name -> (group, label, higher is better). The table has the same order.
_METRICS: dict[str, tuple[str, str, bool | None]] = {
    "accuracy": ("Expression", "accuracy", True),
    "balanced_accuracy": ("Expression", "balanced accuracy", True),
    "precision_macro": ("Expression", "macro precision", True),
    "f1_macro": ("Expression", "macro F1", True),
    "nll": ("Expression", "negative log-likelihood", False),
    "ece": ("Expression", "calibration error (ECE)", False),
    "mixture_kl": ("Expression", "KL divergence from the true mixture", False),
    "mixture_accuracy": ("Expression", "accuracy for its largest class", True),
    "classes_counted": ("Expression", "classes in the macro scores", None),
    "coarse_accuracy": ("Hierarchy", "coarse accuracy", True),
    "coarse_accuracy_summed": ("Hierarchy", "coarse accuracy, summed probabilities", True),
    "coarse_balanced_accuracy": ("Hierarchy", "coarse balanced accuracy", True),
    "pole_accuracy": ("Hierarchy", "accuracy of the pole", True),
    "errors_within_coarse": ("Hierarchy", "share of errors within the coarse class", True),
    "hierarchical_distance": ("Hierarchy", "edges from label to prediction, errors", False),
    "hierarchical_distance_all": ("Hierarchy", "edges from label to prediction, all", False),
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
SD = "_sd"  # ends the name of the standard deviation of a metric
_ARROWS = {True: " ↑", False: " ↓", None: ""}


def describe(name: str) -> tuple[str, str, bool | None]:
    """Return a metric's group, label, and whether higher is better (None: neither)."""
    if name in _METRICS:
        return _METRICS[name]
    if name.startswith(_RECALL):
        return "Recall by class", name.removeprefix(_RECALL).replace("_", " "), True
    return "Other", name.replace("_", " "), None


def higher_is_better(name: str) -> bool | None:
    """Return whether higher values of a metric are better; None if neither is."""
    higher = describe(name)[2]
    return describe(name.removesuffix("_primary"))[2] if higher is None else higher


def count_images(evaluated: int, total: int | None = None) -> str:
    """Return the number of images evaluated, and of the unreadable ones.

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
    metrics: Sequence[str] | None = None,
    title: str | None = None,
    markdown: bool = False,
) -> str:
    """Return a table of the metrics of one or more evaluations, one metric a line.

    Args:
        results: name of an evaluation (`plain`, `flip-averaged`) -> metric -> value. Missing
            values, None and NaN are shown as a dash.
        metrics: the metrics to show, in this order; default: all of `results`.
        title: a line above the table.
        markdown: a Markdown table instead of fixed width.

    Raises:
        ValueError: there is nothing to show.
    """
    if not results:
        raise ValueError("results_table: no results to show")
    head, body = ["", *results], []
    for text, cells in table_rows(results, metrics, arrows=markdown):
        if cells is None:
            body.append([f"**{text}**" if markdown else text, *[""] * len(results)])
        else:
            body.append([text if markdown else f"  {text}", *cells])
    table = markdown_table(head, body) if markdown else fixed(head, body)
    heading = f"**{title}**" if markdown else title
    return f"{heading}\n\n{table}" if title else table


def _ordered_metrics(results: Results) -> list[str]:
    """Return all metric names in the order of the table, unknown ones last.

    Standard deviations are shown next to their means.
    """
    every = dict.fromkeys(name for values in results.values() for name in values)
    names = [n for n in every if not (n.endswith(SD) and n.removesuffix(SD) in every)]
    known = [name for name in _METRICS if name in names]
    recalls = [name for name in names if name.startswith(_RECALL)]
    return known + recalls + [name for name in names if name not in {*known, *recalls}]


def table_rows(
    results: Results, metrics: Sequence[str] | None = None, *, arrows: bool = True
) -> Iterator[tuple[str, list[str] | None]]:
    """Yield the lines of a results table, for any output format.

    Args:
        results, metrics: as in `results_table`.
        arrows: show after a label whether higher or lower is better.

    Yields:
        A metric's label and its formatted values; or the name of a group of metrics and None.
    """
    group = None
    for name in _ordered_metrics(results) if metrics is None else metrics:
        own_group, text, higher = describe(name)
        if own_group != group:
            group = own_group
            yield group, None
        cells = [_with_sd(name, values) for values in results.values()]
        yield text + (_ARROWS[higher] if arrows else ""), cells


def _with_sd(name: str, values: Mapping[str, float | None]) -> str:
    spread = values.get(f"{name}{SD}")
    text = number(name, values.get(name))
    return text if spread is None else f"{text} ± {number(name, spread)}"


def label(column: str) -> str:
    """Return a metric's name for a table header, with its split unless it is test."""
    split, _, name = column.rpartition("/")
    group, text, higher = describe(name)
    if group in ("Valence", "Arousal"):
        text = f"{group.lower()} {text}"
    return f"{split.replace('_', ' ')} {text}{_ARROWS[higher]}".strip()


def number(column: str, value: float | None, sign: bool = False) -> str:
    """Return a metric's value with its usual digits; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    name, plus = column.rpartition("/")[2], "+" if sign else ""
    if describe(name)[2] is None and float(value).is_integer():
        return f"{int(value):{plus}}"
    digits = 4 if name in ("nme", "nme_box") else 3
    return f"{value:{plus}.{digits}f}" if abs(value) < 1000 else f"{value:{plus}.4g}"


def fixed(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in fixed width."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "   ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, *body]
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in [head, *body]
    ]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]])


def page(
    title: str, tables: Sequence[Table], problems: Sequence[str] = (), pictures: Sequence[str] = ()
) -> str:
    """Return a Markdown document of tables, missing runs, and images."""
    parts = [f"# {title}"]
    parts += [f"{heading}:\n\n{markdown_table(head, body)}" for heading, head, body in tables]
    if problems:
        parts.append("Not in the table:\n\n" + "\n".join(f"* {p}" for p in problems))
    parts += [f"![{name}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write lines with the columns of all of them; NaN and absent values are empty."""
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
