"""Writes the report of a run: pictures, results table, predictions; and one HTML page of it all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from affect_jax.errors import UserError
from affect_jax.evaluation import predictions
from affect_jax.report import page
from affect_jax.report.figures import confusion, curves, style
from affect_jax.report.figures import faces as face_figures
from affect_jax.report.run import _REFERENCES_FILE, FOLDER, Run, _json, read_run
from affect_jax.runtime import write_atomically
from affect_jax.runtime.tables import Results

PICTURES_FOLDER = f"{FOLDER}/pictures"  # Those of `report.pictures`
RESULTS_FILE = "results.md"


class Source(Protocol):
    """What the report asks of a source of examples."""

    class_names: tuple[str, ...]

    def describe(self, i: int) -> str:
        """File and row of example `i`."""

    def __len__(self) -> int:
        """Number of examples, the unreadable ones among them."""


def write_report(
    workdir: str | os.PathLike,
    outputs: Mapping[str, np.ndarray],
    source: Source,
    *,
    batches: Iterable[Mapping[str, np.ndarray]] | None = None,
    references: Results | None = None,
    face_count: int = 12,
    draw: bool = True,
) -> list[Path]:
    """Stores the predictions of the test split and draws the report in `workdir/report`.

    The numbers of the results table are those of the last test row in `metrics.jsonl`, which must
    be there already.

    Args:
        workdir: the run's folder.
        outputs: per-example labels and predictions, in the form that `predictions.gather` reads.
        source: what the examples come from; gives class names and file names.
        batches: one pass over the same examples, from which the images of a few faces are taken;
            without it no faces are shown.
        references: numbers of others (`published.emofan`) to be set beside the results.
        face_count: faces to show.
        draw: draw it now; `render` does it later.

    Returns:
        The files written.

    Raises:
        UserError: if the workdir holds no finished test.
    """
    folder = Path(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    faces = None
    if batches is not None:
        faces = predictions.fetch_faces(batches, predictions.choose_faces(outputs, face_count))
    names = [source.describe(int(i)) for i in outputs["index"]]
    stored = predictions.gather(outputs, source.class_names, names, faces)
    predictions.save(folder, stored)
    content = json.dumps(references or {}, indent=1).encode()
    write_atomically(folder / _REFERENCES_FILE, content)
    if not draw:
        return [folder / predictions.ARRAYS_FILE, folder / predictions.TABLE_FILE]
    return render(workdir)


def render(workdir: str | os.PathLike) -> list[Path]:
    """Draws the pictures and `results.md` anew from what a workdir holds.

    Returns:
        The files written.

    Raises:
        UserError: as `read_run`.
    """
    run = read_run(workdir)
    folder = Path(workdir) / FOLDER
    written = []
    for name, (needs, draw) in _FIGURES.items():
        path = folder / f"{name}.png"
        if needs(run):
            write_atomically(path, style.png(draw(run, False), dpi=_resolution(name)))
            written.append(path)
        else:
            path.unlink(missing_ok=True)  # Of an earlier model, with other outputs
    results = folder / RESULTS_FILE
    write_atomically(results, page.markdown(run, Path(workdir), written).encode())
    return [
        *written,
        results,
        *(folder / f for f in (predictions.ARRAYS_FILE, predictions.TABLE_FILE)),
    ]


def write_html(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Draws the report anew and puts it into one HTML file that needs no other.

    Args:
        workdir: folder of a finished run.
        output: the file; `report/report.html` in the workdir if not given.

    Returns:
        The file.

    Raises:
        UserError: as `read_run`, or if `output` is a folder.
    """
    workdir = Path(workdir)
    output = workdir / FOLDER / "report.html" if output is None else Path(output)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give the name of an .html file")
    pictures = [path for path in render(workdir) if path.suffix == ".png"]
    run = read_run(workdir)
    shown = []
    for path in pictures:
        small = b""
        if path.stem in _NARROW:
            small = style.png(_FIGURES[path.stem][1](run, True), dpi=_resolution(path.stem))
        shown.append(page.picture_of(path.stem, path.read_bytes(), small))
    for path, title, caption in _further_pictures(workdir, run):
        if path.stem == "confusion" and "confusion_matrix" in (p.stem for p in pictures):
            continue  # the same picture again
        section = title.partition(":")[0]
        shown.append(page.Picture(section, title, caption, path.read_bytes()))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.html(run, workdir, shown).encode())
    return output


def _further_pictures(workdir: Path, run: Run) -> list[tuple[Path, str, str]]:
    """(file, title, caption) of what `report.pictures` drew of the tested checkpoint."""
    found = []
    for record in sorted((workdir / PICTURES_FOLDER).glob("*.json")):
        facts, picture = _json(record), record.with_suffix(".png")
        checkpoints = {model["checkpoint"] for model in list(facts["models"].values())[:1]}
        tested = facts["split"] == "test" and checkpoints == {run.final.get("checkpoint")}
        if tested and picture.exists():
            several = len(facts["models"]) > 1
            title = facts["title"] + (f": {' and '.join(facts['models'])}" if several else "")
            found.append((picture, title, facts["caption"]))
    return found


def _resolution(name: str) -> int:
    return 120 if name == "faces" else 160


def _has_expressions(run: Run) -> bool:
    return confusion.has_labels(run.stored)


def _has_pairs(run: Run) -> bool:
    if "valence_arousal_predicted" not in run.stored:
        return False
    both = np.isfinite(run.stored["valence_arousal"] + run.stored["valence_arousal_predicted"])
    return bool(both.all(axis=1).any())


def _has_landmark_errors(run: Run) -> bool:
    return "nme" in run.stored and bool(np.isfinite(run.stored["nme"]).any())


def _confusion(run: Run, narrow: bool) -> Any:
    min_count = run.config.get("eval", {}).get("min_count", 1)
    return confusion.stored_confusion_matrix(run.stored, min_count, narrow=narrow)


def _reliability(run: Run, narrow: bool) -> Any:
    return confusion.reliability_diagram(
        run.stored["probabilities"], confusion.stored_labels(run.stored)
    )


def _circumplex(run: Run, narrow: bool) -> Any:
    return face_figures.circumplex(
        run.stored["valence_arousal"],
        run.stored["valence_arousal_predicted"],
        run.stored.get("expression"),
        run.stored["class_names"].tolist(),
        narrow=narrow,
    )


def _landmark_error(run: Run, narrow: bool) -> Any:
    return curves.landmark_error_curve(run.stored["nme"], run.stored.get("nme_box"))


def _faces(run: Run, narrow: bool) -> Any:
    stored = run.stored
    return face_figures.landmark_faces(
        stored["face_image"],
        stored.get("face_landmarks_predicted"),
        stored.get("face_landmarks"),
        captions=[_caption(stored, row) for row in stored["face_row"]],
        columns=2 if narrow else 4,
    )


def _caption(stored: Mapping[str, np.ndarray], row: int) -> tuple[str, str, bool | None]:
    first, second, right = "", "", None
    if "probabilities" in stored:
        names, probabilities = stored["class_names"], stored["probabilities"][row]
        best, label = int(probabilities.argmax()), int(stored["expression"][row])
        known = np.isfinite(probabilities).all()
        first = f"{names[best]} {probabilities[best]:.0%}" if known else "no number"
        if label >= 0 and known:
            right = best == label
            first += "" if right else f", true {names[label]}"
    if "valence_arousal_predicted" in stored:
        pairs = zip(
            "VA", stored["valence_arousal_predicted"][row], stored["valence_arousal"][row],
            strict=True,
        )  # fmt: skip
        second = "  ".join(
            f"{letter} {value:+.2f}" + (f" ({true:+.2f})" if np.isfinite(true) else "")
            for letter, value, true in pairs
        )
    return first, second, right


def _curves(run: Run, narrow: bool) -> Any:
    return curves.training_curves(run.rows, run.final.get("checkpoint"), narrow=narrow)


def _has_curves(run: Run) -> bool:
    return any(
        row["split"] in ("train", "validation") and row.get("loss") is not None for row in run.rows
    )


# Of each picture, whether it can be drawn, and how: as it is, or for small screens.
_FIGURES: dict[str, tuple[Callable[[Run], bool], Callable[[Run, bool], Any]]] = {
    "training_curves": (_has_curves, _curves),
    "confusion_matrix": (_has_expressions, _confusion),
    "reliability": (_has_expressions, _reliability),
    "valence_arousal": (_has_pairs, _circumplex),
    "landmark_error": (_has_landmark_errors, _landmark_error),
    "faces": (lambda run: "face_image" in run.stored, _faces),
}
# Pictures too wide for a small screen; the others fit one as they are.
_NARROW = ("training_curves", "confusion_matrix", "valence_arousal", "faces")
