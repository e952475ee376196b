"""Pictures of one or two finished models, each a PNG with its numbers as JSON.

`python -m affect_jax.report --workdir DIR --pictures calibration,embedding [--compare OTHER]`
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from affect_jax.errors import UserError, nearest
from affect_jax.evaluation.predictions import choose_faces
from affect_jax.report import fine_grained, gallery, relations
from affect_jax.report.build import PICTURES_FOLDER
from affect_jax.report.figures import style
from affect_jax.report.model_runner import OpenModel, open_model, predictor, run_over
from affect_jax.report.views import Choices, Picture, View
from affect_jax.runtime import tables, write_atomically
from affect_jax.weights import load_run
from data_pipelines.schema import same_classes

log = logging.getLogger(__name__)

PICTURES = {**gallery.PICTURES, **relations.PICTURES, **fine_grained.PICTURES}
# Names that stand for several pictures.
GROUPS = {"rald": (*relations.PICTURES, *fine_grained.PICTURES)}
_FITTED_ON = "validation"
# Dozens of photos in a picture would leave its text unreadable at the size of other pictures.
_MAX_BYTES_OF_FACES = 1_000_000


def write_pictures(
    path: str | os.PathLike,
    names: Sequence[str],
    *,
    compare: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    split: str = "test",
    checkpoint: str | None = None,
    faces: int | None = None,
    indices: Sequence[int] = (),
    points: int | None = None,
    context: str | None = None,
) -> list[Path]:
    """Draw pictures of a model and return their files.

    Nothing is written before all are drawn. Pictures for which the models lack something are left
    out, which is logged.

    Args:
        path: folder of a finished run, or a model directory exported from one.
        names: keys of `PICTURES` or `GROUPS`.
        compare: another such folder, to be shown next to it.
        output: folder for the files; default: `report/pictures` in the run's folder.
        split: of the examples.
        checkpoint: of a run: "best" (default), "latest" or a step.
        faces: number of faces, spread evenly over the true classes; default: 8.
        indices: show these examples instead.
        points: maximum number of points of an embedding; default: 2500.
        context: what faces are compared with: "bank" or "batch"; default: the bank of the model,
            or a batch if it has none.

    Raises:
        UserError: no picture can be drawn of this model, or an option has no effect.
    """
    names = _expanded(names)
    chosen = [PICTURES[name] for name in names]
    if split == _FITTED_ON and any(picture.fits for picture in chosen):
        raise UserError(
            "temperatures are fitted on the validation split and cannot be measured there; use "
            "--split test"
        )
    paths = [Path(path)] if compare is None else [Path(path), Path(compare)]
    for option, value, acts in (
        ("faces", faces, any(picture.faces for picture in chosen)),
        ("indices", indices or None, any(picture.faces for picture in chosen)),
        ("points", points, any(picture.points for picture in chosen)),
        ("context", context, any(picture.contexts for picture in chosen)),
        ("checkpoint", checkpoint, any(load_run.is_workdir(each) for each in paths)),
    ):
        if value is not None and not acts:
            of = "a model directory, which holds one" if option == "checkpoint" else None
            raise UserError(f"--{option} has no effect on {of or ', '.join(names)}; leave it out")
    folder = _folder(paths[0], output)
    titles = _names(paths)
    models = [open_model(each, checkpoint or "best") for each in paths]
    names = _drawable(names, models)
    chosen = [PICTURES[name] for name in names]
    shown_faces = _faces(models, split, faces or 8, indices)
    shown = Choices(split, shown_faces, points or 2500, tuple(indices), context or "")
    views = [_view(m, title, chosen, shown) for m, title in zip(models, titles, strict=True)]
    stem = "" if split == "test" else f"_{split}"
    stem += f"_beside_{titles[1]}" if compare is not None else ""
    files: dict[Path, bytes] = {}
    for name, picture in zip(names, chosen, strict=True):
        drawn = picture.draw(views, shown)
        record = {
            "title": picture.title,
            "caption": drawn.caption,
            "split": split,
            "images": len(views[0].outputs["index"]),
            "images_total": len(models[0].source(split)),
            "models": {
                title: {"path": str(m.path.resolve()), "checkpoint": m.checkpoint}
                for title, m in zip(titles, models, strict=True)
            },
            "numbers": drawn.numbers,
        }
        limit = _MAX_BYTES_OF_FACES if picture.faces else style.MAX_PNG_BYTES
        files[folder / f"{name}{stem}.png"] = style.png(drawn.figure, max_bytes=limit)
        text = json.dumps(_plain(record), indent=1) + "\n"
        files[folder / f"{name}{stem}.json"] = text.encode()
        if drawn.table is not None:
            table = tables.page(picture.title, [drawn.table])
            files[folder / f"{name}{stem}.md"] = table.encode()
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_atomically(file, content)
    return list(files)


def _expanded(names: Sequence[str]) -> list[str]:
    """Return names of pictures, each once, in place of those of groups.

    Raises:
        UserError: there are none, or a name is unknown.
    """
    known = (*PICTURES, *GROUPS)
    if not names:
        raise UserError(f"--pictures names none; there are {', '.join(known)}")
    for name in names:
        if name not in known:
            raise UserError(f"--pictures {name}: {nearest(name, known)}")
    return list(dict.fromkeys(own for name in names for own in GROUPS.get(name, (name,))))


def _drawable(names: Sequence[str], models: Sequence[OpenModel]) -> list[str]:
    """Return the pictures that can be drawn of these models; log the others.

    Raises:
        UserError: there are none.
    """
    lacking: dict[str, list[str]] = {}
    for name in names:
        lacking.setdefault(_missing(PICTURES[name], models), []).append(name)
    drawable = lacking.pop("", [])
    reasons = "; ".join(f"{', '.join(left)} ({reason})" for reason, left in lacking.items())
    if not drawable:
        raise UserError(f"--pictures: nothing can be drawn: {reasons}")
    if reasons:
        log.info("pictures left out: %s", reasons)
    return drawable


def _missing(picture: Picture, models: Sequence[OpenModel]) -> str:
    if picture.faces and not all(model.has_images for model in models):
        return "stored features are not images"
    return picture.missing(models)


def _folder(path: Path, output: str | os.PathLike | None) -> Path:
    if output is not None:
        if Path(output).exists() and not Path(output).is_dir():
            raise UserError(f"--output {output} is a file; name a folder for the pictures")
        return Path(output)
    if path.is_dir() and not load_run.is_workdir(path):
        raise UserError(f"{path} is not a run; name a folder for the pictures with --output")
    return path / PICTURES_FOLDER


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the parts in which two paths differ; of one path the folder's name.

    For a/seed0 and b/seed0: `a` and `b`. Every second folder gives another name, so its pictures
    replace no others.
    """
    if len(paths) < 2:
        return [path.resolve().name for path in paths]
    parts = [list(path.resolve().parts) for path in paths]
    if parts[0] == parts[1]:
        raise UserError(f"--compare {paths[1]} is the model itself; give another one")
    for end in (0, -1):
        # One part of each remains, even where one folder is inside the other.
        while min(map(len, parts)) > 1 and parts[0][end] == parts[1][end]:
            for own in parts:
                own.pop(end)
    return ["-".join(own) for own in parts]


def _faces(
    models: Sequence[OpenModel], split: str, count: int, indices: Sequence[int]
) -> tuple[int, ...]:
    """Return the indices to show, after a check that all models have the same data."""
    labels = [np.asarray(model.source(split).labels) for model in models]
    if not all(np.array_equal(labels[0], other) for other in labels):
        raise UserError(
            f"the {split} splits of {models[0].path} and {models[1].path} differ; only models of "
            "the same data can be compared"
        )
    if not same_classes(models[0].class_names, models[-1].class_names):
        raise UserError(
            f"{models[0].path} and {models[1].path} have different classes; compare models of the "
            "same classes"
        )
    for index in indices:
        if not 0 <= index < len(labels[0]):
            raise UserError(f"--indices {index}: the {split} split has 0 to {len(labels[0]) - 1}")
    if indices:
        return tuple(indices)
    return tuple(choose_faces({"index": np.arange(len(labels[0])), "expression": labels[0]}, count))


def _view(model: OpenModel, name: str, chosen: Sequence[Picture], shown: Choices) -> View:
    wanted = sorted({output for picture in chosen for output in picture.outputs})
    step = predictor(model, wanted, flip=any(picture.flip for picture in chosen))
    outputs, faces = run_over(model, step, shown.split, shown.faces)
    fits = any(picture.fits for picture in chosen)
    fitted = run_over(model, step, _FITTED_ON)[0] if fits else {}
    for split, found in ((shown.split, outputs), (_FITTED_ON, fitted)):
        if found and not (found["expression"] >= 0).any():
            raise UserError(f"the {split} split of {model.path} has no expression labels")
    return View(name, model, outputs, faces, fitted)


def _plain(value: Any) -> Any:
    """Return `value` for JSON: arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.7g}") if np.isfinite(value) else None
    return value
