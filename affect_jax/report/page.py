"""The report as text: Markdown beside the pictures, or one HTML page with the pictures in it."""

from __future__ import annotations

import base64
import html as escape_lib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affect_jax.observe import duration, results_table
from affect_jax.observe.tables import Results, table_rows
from affect_jax.report import predictions

if TYPE_CHECKING:
    from affect_jax.report.build import Run

NOTICE = (
    "This model reads what a face shows, not what a person feels. Displays of emotion and their "
    "reading depend on culture, the subject's and the annotators'. Inferring emotions of people at "
    "work or in education is prohibited in the European Union, with few exceptions."
)
REFERENCE_NOTE = (
    "The columns on the right were not measured here: they are printed in the paper, for its own "
    "data and test list."
)
_TITLES = {
    "training_curves": ("Training", "Loss and validation metrics over training steps."),
    "confusion_matrix": (
        "Expressions",
        "Share of each true class (row) that was given each label, and the number of images.",
    ),
    "reliability": (
        "Calibration",
        "Accuracy of predictions of equal confidence. On the diagonal, a model that is 70 % sure "
        "is right 70 % of the time.",
    ),
    "valence_arousal": (
        "Valence and arousal",
        "Above: labels and predictions on the circumplex. Below: predicted against true values; "
        "on the dashed line they are equal.",
    ),
    "landmark_error": (
        "Landmark errors",
        "Share of images whose mean landmark error is at most the given part of the distance "
        "between the outer eye corners, or of the size of the box around the landmarks (square "
        "root of its area).",
    ),
    "faces": (
        "Faces of the test split",
        "Spread evenly over the classes, whatever was predicted. Under each face the predicted "
        "expression with its probability (orange: wrong), and predicted valence (V) and arousal "
        "(A) with the true values in brackets.",
    ),
}


def markdown(run: Run, workdir: Path, pictures: Sequence[Path]) -> str:
    """The report as Markdown that shows the pictures beside it."""
    facts = "\n".join(f"* {name}: {value}" for name, value in _facts(run).items())
    table = results_table(run.results, references=run.references, markdown=True)
    note = f"\n{REFERENCE_NOTE}\n" if run.references else ""
    shown = "\n\n".join(
        f"## {title}\n\n![{title}]({path.name})\n\n{caption}"
        for path, title, caption in _captioned(pictures)
    )
    return (
        f"# Results of {workdir.resolve().name}\n\n{NOTICE}\n\n{facts}\n\n"
        f"## Test split\n\n{table}\n{note}\n{shown}\n\n"
        "Every prediction with the file that it belongs to: `predictions.csv`.\n"
    )


def _captioned(pictures: Sequence[Path]) -> list[tuple[Path, str, str]]:
    return [(path, *_TITLES[path.stem]) for path in pictures]


def _facts(run: Run) -> dict[str, str]:
    """What a reader wants to know before the numbers."""
    train = [row for row in run.rows if row["split"] == "train"]
    facts = {"test images": f"{len(run.stored['index']):,}"}
    if bad := predictions.not_finite(run.stored):
        facts["images without a finite prediction"] = f"{bad:,}, left out of the pictures"
    model = run.config.get("model")
    if isinstance(model, Mapping) and "name" in model:
        facts["model"] = str(model["name"])
    facts["training steps"] = f"{run.final['step']:,}"
    if "checkpoint" in run.final:
        facts["tested checkpoint"] = f"step {run.final['checkpoint']:,}, best on validation persons"
    if len(train) > 1:
        facts["wall-clock time"] = duration(run.rows[-1]["time"] - run.rows[0]["time"])
    for name, label, unit in (
        ("images_per_second", "training speed", "{:,.0f} images/s (median)"),
        ("input_wait_share", "time spent waiting for input", "{:.1%} (median)"),
    ):
        values = [row[name] for row in train if row.get(name) is not None]
        if values:
            facts[label] = unit.format(float(np.median(values)))
    if "seed" in run.config:
        facts["seed"] = str(run.config["seed"])
    return facts


def html(
    run: Run,
    workdir: Path,
    pictures: Sequence[Path],
    further: Sequence[tuple[Path, str, str]] = (),
) -> str:
    """The report as one HTML page, pictures inside; `further` ones with title and caption."""
    name = _e(workdir.resolve().name)
    facts = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in _facts(run).items())
    figures = "".join(
        f'<section id="{path.stem}"><h2>{_e(title)}</h2><figure>'
        f'<img alt="{_e(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        f"<figcaption>{_e(caption)}</figcaption></figure></section>"
        for path, title, caption in [*_captioned(pictures), *further]
    )
    config = _e(json.dumps(run.config, indent=2, sort_keys=True)) if run.config else ""
    note = f'<p class="note">{_e(REFERENCE_NOTE)}</p>' if run.references else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: results</title><style>{_CSS}</style></head><body><main>"
        f'<h1>Results of {name}</h1><p class="notice">{_e(NOTICE)}</p><dl>{facts}</dl>'
        f'<section id="results"><h2>Test split</h2>{_html_table(run.results, run.references)}'
        f"{note}</section>{figures}"
        + (f"<section><h2>Configuration</h2><pre>{config}</pre></section>" if config else "")
        + "</main></body></html>\n"
    )


def _html_table(results: Results, references: Results) -> str:
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in results)
    head += "".join(f'<th scope="col" class="reference">{_e(name)}</th>' for name in references)
    lines = []
    for label, cells in table_rows(results, references):
        if cells is None:
            columns = 1 + len(results) + len(references)
            lines.append(
                f'<tr><th scope="rowgroup" class="group" colspan="{columns}">{_e(label)}</th></tr>'
            )
            continue
        numbers = "".join(
            f'<td class="reference">{_e(cell)}</td>'
            if i >= len(results)
            else f"<td>{_e(cell)}</td>"
            for i, cell in enumerate(cells)
        )
        lines.append(f'<tr><th scope="row">{_e(label)}</th>{numbers}</tr>')
    return (
        f'<div class="wide"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _e(text: Any) -> str:
    return escape_lib.escape(str(text))


_CSS = """
body{margin:0;background:#fff;color:#222;font:16px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.7rem;margin:0 0 1rem}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem;border-bottom:1px solid #ddd;padding-bottom:.25rem}
.notice{background:#f3f6f9;border-left:4px solid #0072b2;padding:.75rem 1rem;margin:0 0 1.5rem}
.note{color:#555;font-size:.9rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.25rem;margin:0}
dt{color:#555}
dd{margin:0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.2rem .9rem;text-align:right;font-weight:normal}
tbody th{text-align:left;padding-left:1.6rem}
thead th{border-bottom:2px solid #222;font-weight:600;vertical-align:bottom;max-width:12rem}
thead td{border-bottom:2px solid #222}
tbody th.group{font-weight:600;padding:.7rem .9rem .2rem 0}
.reference{color:#555;background:#fafafa}
figure{margin:0}
img{max-width:100%;height:auto;display:block}
figcaption{color:#555;font-size:.9rem;margin-top:.5rem;max-width:44rem}
pre{background:#f6f6f6;padding:1rem;overflow-x:auto;font-size:.8rem;line-height:1.4}
@media print{section{break-inside:avoid}}
"""
