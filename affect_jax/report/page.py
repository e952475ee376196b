"""The report as text: Markdown next to its images, or one HTML page with them."""

from __future__ import annotations

import base64
import html as escape_lib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from affect_jax.evaluation import predictions
from affect_jax.report.run import Run
from affect_jax.runtime import count_images, duration, results_table
from affect_jax.runtime.tables import markdown_table, table_rows

NOTICE = (
    "This model reads what a face shows, not what a person feels. Displays of emotion and their "
    "reading depend on culture, the subject's and the annotators'. Inferring emotions of people at "
    "work or in education is prohibited in the European Union, with few exceptions."
)
FLIP_NOTE = (
    "Flip-averaged: the mean of the predictions for the image and for its mirror image, "
    "valence and arousal clipped to [-1, 1]. A dash: not averaged."
)
_SMALL_SCREEN = "(max-width:44rem)"
# Pictures of one topic share a heading.
_SECTIONS = {
    "Calibration before and after correction": "Calibration",
    "Confusions": "Expressions",
}


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        name: of its file, without the ending.
        section: the heading above it.
        title: its own, shown where a heading has several pictures.
        caption: below it.
        png: the file's content.
        narrow: the same drawn for small screens; empty if there is none.
    """

    name: str
    section: str
    title: str
    caption: str
    png: bytes
    narrow: bytes = b""


def markdown(run: Run, workdir: Path, pictures: Sequence[Picture]) -> str:
    """Return the report as Markdown that shows the images next to it."""
    facts = "\n".join(f"* {name}: {value}" for name, value in _facts(run).items())
    table = results_table(run.results, markdown=True)
    note = f"\n{FLIP_NOTE}\n" if "flip-averaged" in run.results else ""
    shown = "\n\n".join(
        f"## {p.title}\n\n![{p.title}]({p.name}.png)\n\n{p.caption}" for p in pictures
    )
    counts = _split_counts(run)
    data = f"## Data\n\n{markdown_table(*counts)}\n\n" if counts else ""
    return (
        f"# Results of {workdir.resolve().name}\n\n{NOTICE}\n\n{facts}\n\n{data}"
        f"## Test split\n\n{table}\n{note}\n{shown}\n\n"
        "Every prediction with its file: `predictions.csv`.\n"
    )


def _facts(run: Run) -> dict[str, str]:
    """Return what a reader needs to know before the numbers, by name."""
    train = [row for row in run.rows if row["split"] == "train"]
    facts = {}
    data = run.config.get("data")
    if isinstance(data, Mapping) and "source" in data:
        facts["data"] = _data_name(data)
    images = count_images(len(run.stored["index"]), run.final.get("images_total"))
    facts["test images"] = re.sub(r" images?\b", "", images)
    if bad := np.count_nonzero(~predictions.finite_rows(run.stored)):
        facts["images without a finite prediction"] = f"{bad:,}, left out of the figures"
    if isinstance(data, Mapping) and "image_size" in data and data.get("source") != "features":
        facts["image size"] = f"{data['image_size']} x {data['image_size']} pixels"
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
    """Return a description of the data of a `config.data`."""
    source = data["source"]
    if source == "synthetic":
        return "synthetic faces, drawn by this package"
    if source == "tfds":
        return f"data set {data.get('dataset')}, prepared in {data.get('data_dir')}"
    kind = "stored features" if source == "features" else source
    return f"{kind} {data.get(source)}"


def _split_counts(run: Run) -> tuple[list[str], list[list[str]]] | None:
    """Return the table of images by split and class; None if not recorded."""
    splits = run.about.get("splits")
    if not splits:
        return None
    classes = dict.fromkeys(c for split in splits.values() for c in split.get("classes", {}))
    body = []
    for label, of in (
        *((c, lambda s, c=c: s.get("classes", {}).get(c, 0)) for c in classes),
        ("no class label", lambda s: s.get("unlabelled", 0)),
        ("all images", lambda s: s["images"]),
        ("persons", lambda s: s.get("persons", 0)),
    ):
        numbers = [of(split) for split in splits.values()]
        if any(numbers) or label == "all images":
            body.append([label, *(f"{n:,}" for n in numbers)])
    return ["", *splits], body


def html(run: Run, workdir: Path, pictures: Sequence[Picture]) -> str:
    """Return the report as one HTML page that contains its images."""
    name = _e(workdir.resolve().name)
    facts = _facts(run)
    # On a line of its own, to be copied.
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
    note = f'<p class="note">{_e(FLIP_NOTE)}</p>' if "flip-averaged" in run.results else ""
    results = _html_table(["", *run.results], table_rows(run.results))
    data = ""
    if counts := _split_counts(run):
        head, body = counts
        table = _html_table(head, [(label, cells) for label, *cells in body])
        data = f'<section id="data"><h2>Data</h2>{table}</section>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: results</title><style>{_CSS}</style></head><body><main>"
        f'<h1>Results of {name}</h1><p class="notice">{_e(NOTICE)}</p>'
        f"<dl>{listed}</dl>{command}{data}"
        f'<section id="results"><h2>Test split</h2>{results}{note}</section>{figures}'
        + (f"<section><h2>Configuration</h2><pre>{config}</pre></section>" if config else "")
        + "</main></body></html>\n"
    )


def _html_figure(picture: Picture, *, titled: bool) -> str:
    """Return a picture at the size that makes its type as large as in all others."""
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
    """Return the width of a PNG in CSS pixels, 96 an inch, from its resolution."""
    with Image.open(io.BytesIO(png)) as image:
        return round(image.width * 96 / image.info.get("dpi", (160, 160))[0])


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _html_table(head: Sequence[str], rows: Iterable[tuple[str, list[str] | None]]) -> str:
    """Return a table; a row without cells is the heading of a group."""
    names = "".join(f'<th scope="col">{_e(name)}</th>' for name in head[1:])
    lines = "".join(
        f'<tr><th scope="rowgroup" class="group" colspan="{len(head)}">{_e(label)}</th></tr>'
        if cells is None
        else f'<tr><th scope="row">{_e(label)}</th>'
        + "".join(f"<td>{_e(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows
    )
    return (
        f'<div class="wide"><table><thead><tr><td></td>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
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
