"""The report of a run: its figures, `results.md` and one HTML page."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from affect_jax.errors import UserError
from affect_jax.evaluation import predictions
from affect_jax.report import page
from affect_jax.report.figures import style
from affect_jax.report.run import Run, read_json, read_run
from affect_jax.report.run_figures import FIGURES, confusion_figure
from affect_jax.runtime import REPORT_FOLDER, write_atomically

log = logging.getLogger(__name__)

PICTURES_FOLDER = f"{REPORT_FOLDER}/pictures"  # of `report.pictures`
RESULTS_FILE = "results.md"


def render(workdir: str | os.PathLike) -> None:
    """Draw the figures and write `results.md` from what a workdir holds.

    Raises:
        UserError: as `read_run`.
    """
    _render(Path(workdir), read_run(workdir))


def _render(workdir: Path, run: Run) -> list[page.Picture]:
    folder = workdir / REPORT_FOLDER
    pictures = []
    for name, figure in FIGURES.items():
        path = folder / f"{name}.png"
        drawn = figure.draw(run, False)
        if drawn is None:
            path.unlink(missing_ok=True)  # of an earlier model, with other outputs
            continue
        png = style.png(drawn, figure.dpi)
        write_atomically(path, png)
        pictures.append(page.Picture(name, figure.title, figure.title, figure.caption, png))
    write_atomically(folder / RESULTS_FILE, page.markdown(run, workdir, pictures).encode())
    return pictures


def draw_evaluation(folder: Path | None, min_count: int) -> None:
    """Draw `confusion_matrix.png` next to the stored predictions of an evaluation.

    Args:
        folder: of the predictions; None (another process than the main one): nothing is drawn.
        min_count: as in `ClassificationStatistics`.
    """
    if folder is None:
        return
    figure = confusion_figure(predictions.load(folder), min_count)
    if figure is not None:
        write_atomically(folder / "confusion_matrix.png", style.png(figure))
    log.info("predictions and confusion matrix: %s", folder)


def write_html(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Write the report as one self-contained HTML file and return its path.

    Args:
        workdir: folder of a finished run.
        output: the file; default: `report/report.html` in the workdir.

    Raises:
        UserError: as `read_run`, or `output` is a folder.
    """
    workdir = Path(workdir)
    output = workdir / REPORT_FOLDER / "report.html" if output is None else Path(output)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give the name of an .html file")
    run = read_run(workdir)
    pictures = []
    for picture in _render(workdir, run):
        figure = FIGURES[picture.name]
        if figure.is_wide and (drawn := figure.draw(run, True)) is not None:
            picture = picture._replace(narrow=style.png(drawn, figure.dpi))
        pictures.append(picture)
    shown = {picture.name for picture in pictures}
    for picture in _further_pictures(workdir, run):
        if picture.name != "confusion" or "confusion_matrix" not in shown:  # the same again
            pictures.append(picture)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.html(run, workdir, pictures).encode())
    return output


def _further_pictures(workdir: Path, run: Run) -> list[page.Picture]:
    """Return what `report.pictures` drew of the tested checkpoint."""
    found = []
    for record in sorted((workdir / PICTURES_FOLDER).glob("*.json")):
        facts, path = read_json(record), record.with_suffix(".png")
        names = list(facts["models"])
        tested = facts["models"][names[0]]["checkpoint"] == run.final.get("checkpoint")
        if tested and facts["split"] == "test" and path.exists():
            title = facts["title"] + (f": {' and '.join(names)}" if len(names) > 1 else "")
            found.append(
                page.Picture(path.stem, facts["title"], title, facts["caption"], path.read_bytes())
            )
    return found
