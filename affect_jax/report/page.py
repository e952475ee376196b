"""The report as text: Markdown beside the pictures, or one HTML page with the pictures in it."""

from __future__ import annotations

import base64
import html as escape_lib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from affect_jax.evaluation import predictions
from affect_jax.runtime import count_images, duration, results_table
from affect_jax.runtime.tables import Results, table_rows

if TYPE_CHECKING:
    from affect_jax.report.run import Run

NOTICE = (
    "This model reads what a face shows, not what a person feels. Displays of emotion and their "
    "reading depend on culture, the subject's and the annotators'. Inferring emotions of people at "
    "work or in education is prohibited in the European Union, with few exceptions."
)
REFERENCE_NOTE = (
    "The columns on the right were not measured here: they are printed in the paper, for its own "
    "data and test list."
)
FLIP_NOTE = (
    "Flip-averaged: the mean of what is predicted for the picture and for its mirror image, "
    "valence and arousal clipped to [-1, 1]. A dash: not averaged."
)
_SMALL_SCREEN = "(max-width:44rem)"
_TITLES = {
    "training_curves": (
        "Training",
        "Loss and validation metrics over training steps. Stages of a run have losses of their "
        "own; a grey line shows where the next one begins. The training loss is that of the "
        "objective; the validation loss adds up the negative log-likelihood, 1 - CCC and NME of "
        "what is trained.",
    ),
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


# Pictures of one subject share a heading.
_SECTIONS = {
    "Calibration before and after correction": "Calibration",
    "Confusions": "Expressions",
}


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        section: the heading that it stands under, with others of the same one.
        title: its own, shown where a heading has several pictures.
        caption: below it.
        png: the file's content.
        narrow: the same drawn for small screens; empty if there is none.
    """

    section: str
    title: str
    caption: str
    png: bytes
    narrow: bytes = b""


def picture_of(stem: str, png: bytes, narrow: bytes = b"") -> Picture:
    """One of the pictures that every report has, with its title and caption."""
    title, caption = _TITLES[stem]
    return Picture(title, title, caption, png, narrow)


def markdown(run: Run, workdir: Path, pictures: Sequence[Path]) -> str:
    """The report as Markdown that shows the pictures beside it."""
    facts = "\n".join(f"* {name}: {value}" for name, value in _facts(run).items())
    table = results_table(run.results, references=run.references, markdown=True)
    notes = "".join(f"\n{note}\n" for note in _notes(run))
    shown = "\n\n".join(
        f"## {title}\n\n![{title}]({path.name})\n\n{caption}"
        for path, title, caption in [(p, *_TITLES[p.stem]) for p in pictures]
    )
    data = ""
    if counts := _split_table(run):
        head, body = counts
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        data = "## Data\n\n" + "\n".join(f"| {' | '.join(map(_cell, r))} |" for r in lines) + "\n\n"
    return (
        f"# Results of {workdir.resolve().name}\n\n{NOTICE}\n\n{facts}\n\n{data}"
        f"## Test split\n\n{table}\n{notes}\n{shown}\n\n"
        "Every prediction with the file that it belongs to: `predictions.csv`.\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _notes(run: Run) -> list[str]:
    """What a reader of the results table must know."""
    notes = [FLIP_NOTE] if "flip-averaged" in run.results else []
    return [*notes, REFERENCE_NOTE] if run.references else notes


def _facts(run: Run) -> dict[str, str]:
    """What a reader wants to know before the numbers."""
    train = [row for row in run.rows if row["split"] == "train"]
    facts = {}
    data = run.config.get("data")
    if isinstance(data, Mapping) and "source" in data:
        facts["data"] = _data_name(data)
    images = count_images(len(run.stored["index"]), run.final.get("images_total"))
    facts["test images"] = re.sub(r" images?\b", "", images)
    if bad := predictions.not_finite(run.stored):
        facts["images without a finite prediction"] = f"{bad:,}, left out of the pictures"
    if isinstance(data, Mapping) and "image_size" in data:
        facts["picture size"] = f"{data['image_size']} x {data['image_size']} pixels"
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
    for name, label in (
        ("tested", "date of the test"),
        ("affect_jax", "version of affect_jax"),
        ("command", "command"),
    ):
        if run.about.get(name):
            facts[label] = str(run.about[name])
    return facts


def _data_name(data: Mapping[str, Any]) -> str:
    """Which data a `config.data` describes."""
    source = data["source"]
    if source == "synthetic":
        return "synthetic faces, drawn by this package"
    if source == "tfds":
        return f"data set {data.get('dataset')}, prepared in {data.get('data_dir')}"
    return f"{source} {data.get(source)}"


def _split_table(run: Run) -> tuple[list[str], list[list[str]]] | None:
    """Head and lines of the table of images by split and class; None if not recorded."""
    splits = run.about.get("splits")
    if not splits:
        return None
    body = []
    for label, of in (
        *((c, lambda s, c=c: s.get("classes", {}).get(c, 0)) for c in _class_names(splits)),
        ("no class label", lambda s: s.get("unlabelled", 0)),
        ("all images", lambda s: s["images"]),
        ("persons", lambda s: s.get("persons", 0)),
    ):
        numbers = [of(split) for split in splits.values()]
        if any(numbers) or label == "all images":
            body.append([label, *(f"{n:,}" for n in numbers)])
    return ["", *splits], body


def _class_names(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(c for split in splits.values() for c in split.get("classes", {})))


def html(run: Run, workdir: Path, pictures: Sequence[Picture]) -> str:
    """The report as one HTML page with the pictures in it."""
    name = _e(workdir.resolve().name)
    facts = _facts(run)
    # A line that can be copied whole.
    command = f"<pre>{_e(facts.pop('command'))}</pre>" if "command" in facts else ""
    listed = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in facts.items())
    sections: dict[str, list[Picture]] = {}
    for picture in pictures:
        section = _SECTIONS.get(picture.section, picture.section)
        sections.setdefault(section, []).append(picture)
    figures = "".join(
        f"<section><h2>{_e(section)}</h2>"
        + "".join(_html_figure(p, titled=len(shown) > 1) for p in shown)
        + "</section>"
        for section, shown in sections.items()
    )
    config = _e(json.dumps(run.config, indent=2, sort_keys=True)) if run.config else ""
    notes = "".join(f'<p class="note">{_e(note)}</p>' for note in _notes(run))
    data = ""
    if counts := _split_table(run):
        data = f'<section id="data"><h2>Data</h2>{_html_counts(*counts)}</section>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: results</title><style>{_CSS}</style></head><body><main>"
        f'<h1>Results of {name}</h1><p class="notice">{_e(NOTICE)}</p>'
        f"<dl>{listed}</dl>{command}{data}"
        f'<section id="results"><h2>Test split</h2>{_html_table(run.results, run.references)}'
        f"{notes}</section>{figures}"
        + (f"<section><h2>Configuration</h2><pre>{config}</pre></section>" if config else "")
        + "</main></body></html>\n"
    )


def _html_figure(picture: Picture, *, titled: bool) -> str:
    """A picture at the size that makes its type as large as in all others."""
    wide = _css_width(picture.png)
    size, style = f"--wide:{wide}px;--narrow:{wide}px", ""
    if picture.narrow:
        size = f"--wide:{wide}px;--narrow:{_css_width(picture.narrow)}px"
        name = re.sub(r"[^a-z]+", "-", picture.title.lower())
        content = f"#{name}{{content:url({_data_url(picture.narrow)})}}"
        style = f'<style media="{_SMALL_SCREEN}">{content}</style>'
        size += f'" id="{name}'
    caption = (f"<b>{_e(picture.title)}.</b> " if titled else "") + _e(picture.caption)
    return (
        f'{style}<figure><div class="wide"><img alt="{_e(picture.title)}" style="{size}" '
        f'src="{_data_url(picture.png)}"></div><figcaption>{caption}</figcaption></figure>'
    )


def _css_width(png: bytes) -> int:
    """Width in the pixels of a page, 96 an inch, of a PNG that says its resolution."""
    with Image.open(io.BytesIO(png)) as image:
        return round(image.width * 96 / image.info.get("dpi", (160, 160))[0])


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _html_counts(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    names = "".join(f'<th scope="col">{_e(name)}</th>' for name in head[1:])
    lines = "".join(
        f'<tr><th scope="row">{_e(label)}</th>'
        + "".join(f"<td>{n}</td>" for n in numbers)
        + "</tr>"
        for label, *numbers in body
    )
    return (
        f'<div class="wide"><table><thead><tr><td></td>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
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
h1{font-size:1.7rem;margin:0 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem;border-bottom:1px solid #ddd;padding-bottom:.25rem}
.notice{background:#f3f6f9;border-left:4px solid #0072b2;padding:.75rem 1rem;margin:0 0 1.5rem}
.note{color:#555;font-size:.9rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.25rem;margin:0}
dt{color:#555}
dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.2rem .9rem;text-align:right;font-weight:normal}
tbody th{text-align:left;padding-left:1.6rem}
thead th{border-bottom:2px solid #222;font-weight:600;vertical-align:bottom;max-width:12rem}
thead td{border-bottom:2px solid #222}
tbody th.group{font-weight:600;padding:.7rem .9rem .2rem 0}
.reference{color:#555;background:#fafafa}
figure{margin:0 0 1.5rem}
img{display:block;width:var(--wide);max-width:100%;min-width:calc(.8*var(--wide));height:auto}
figcaption{color:#555;font-size:.9rem;margin-top:.5rem;max-width:44rem}
pre{background:#f6f6f6;padding:1rem;overflow-x:auto;font-size:.8rem;line-height:1.4}
@media(max-width:44rem){
dl{grid-template-columns:1fr;gap:0}
dd{margin:0 0 .5rem}
th,td{padding:.2rem .5rem}
tbody th{padding-left:.5rem}
img{width:var(--narrow);min-width:calc(.8*var(--narrow))}
}
@media print{section{break-inside:avoid}}
"""
