"""Compare the expressions that tools read on photos, from the file to the class.

python -m affect_jax.benchmark tools --manifest PHOTOS.csv [--split test] [--model MODEL]

Ours is the whole pipeline: the faces that the built-in detector finds, and a model. The peer is
the package `fer`, once given the whole picture as the face, and once with its own detector. Each
photo should show one face. A photo in which a tool finds no face counts as wrong. ECE and NLL are
over the photos with a face, NLL only over the classes that the tool knows.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import affect_jax
from affect_jax.benchmark import fer_worker, suite
from affect_jax.errors import UserError
from affect_jax.inference.detection import default_detector
from affect_jax.inference.prediction_run import BATCH_SIZE, predict_faces
from affect_jax.metrics import calibration
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.runtime import xla_flags
from data_pipelines.protocols.persons import SPLIT_NAMES
from data_pipelines.schema import DataError, canonical_name
from data_pipelines.sources.table import read_manifest

SUITE = "tools"
OURS = "ours"
MIN_COUNT = 10  # true examples of a class that counts in macro scores
_SCORES = ("accuracy", "balanced_accuracy", "f1_macro", "ece", "nll")
_LOWER_IS_BETTER = ("ece", "nll")
_UNITS = {"nll": "nats", "faces_per_second": "faces/s"}


class Photos(NamedTuple):
    """Photos of one face each.

    Attributes:
      paths: n files.
      labels: int [n], places in `class_names`.
      class_names: canonical names.
    """

    paths: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]


class Answers(NamedTuple):
    """What a tool says of n photos.

    Attributes:
      class_names: N names, in any spelling.
      probabilities: float64 [n, N]; NaN where no face was found.
      seconds: for all of them, from the files on; loading and compiling left out.
    """

    class_names: tuple[str, ...]
    probabilities: np.ndarray
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; see `--help`."""
    parser = argparse.ArgumentParser(
        "python -m affect_jax.benchmark tools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--manifest", required=True, help="photos with expressions, CSV or JSONL")
    parser.add_argument("--split", choices=SPLIT_NAMES, help="rows of this split; default: all")
    parser.add_argument("--model", help="model directory; default: the model of the package")
    parser.add_argument(
        "--fer_python", default=sys.executable, help="interpreter with `fer`; default: this one"
    )
    parser.add_argument("--no_peers", action="store_true", help="only ours")
    options = parser.parse_args(arguments)
    return suite.run(functools.partial(measure, options), options.json)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of all tools; print what each does not know."""
    photos = read_photos(options.manifest, options.split)
    tools = {} if options.no_peers else fer(photos.paths, options.fer_python)
    tools = {OURS: ours(photos.paths, options.model), **tools}
    print("\n".join(notes(photos, tools)))
    return rows(photos, tools)


def read_photos(manifest: str, split: str | None = None) -> Photos:
    """Return the labelled photos of a manifest, or of one split of it.

    Raises:
      UserError: there are none, or the manifest cannot be read or names a photo twice.
    """
    try:
        table = read_manifest(manifest)
    except (DataError, OSError) as error:
        raise UserError(f"{manifest}: {error}") from error
    keep = table.expression >= 0
    if split is not None:
        if table.split is None:
            raise UserError(f"{manifest} has no column `split`; add it, or leave out --split")
        keep &= table.split == SPLIT_NAMES.index(split)
    if not keep.any():
        where = f" in the split {split}" if split else ""
        raise UserError(f"{manifest} has no photo with an expression{where}")
    paths = [str(table.root / table.paths[i]) for i in np.flatnonzero(keep)]
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        raise UserError(
            f"{manifest} names {repeated[0]} more than once; each photo must show one face and "
            "stand in one row"
        )
    names = tuple(map(canonical_name, table.class_names))
    return Photos(paths, table.expression[keep], names)


def ours(paths: Sequence[str], model: str | None) -> Answers:
    """Return what the pipeline of this package says: the face of the highest score, and a model.

    Raises:
      UserError: the model is missing or damaged, or knows no expressions.
    """
    predictor, detector = affect_jax.load(model), default_detector()
    read = functools.partial(predict_faces, predictor, detector=detector, max_faces=1)
    read(paths[:BATCH_SIZE])  # compiles
    start = time.perf_counter()
    table = read(paths)
    seconds = time.perf_counter() - start
    columns = [name for name in table.columns if name.startswith("p_")]
    if not columns:
        raise UserError("the model predicts no expressions; name another with --model")
    table = table.drop_duplicates("file")  # an animated photo has several rows
    probabilities = table[columns].to_numpy(np.float64)
    return Answers(tuple(name.removeprefix("p_") for name in columns), probabilities, seconds)


def fer(paths: Sequence[str], python: str) -> dict[str, Answers]:
    """Return what the package `fer` says, by the way in which it gets the face.

    It runs in a process of its own, so that TensorFlow stays out of this one, and `fer` may live
    in another environment.

    Args:
      paths: the photos.
      python: interpreter that can import `fer`, Python 3.11 or later.

    Raises:
      UserError: it cannot, or fails.
    """
    help_ = 'pip install -e ".[peers]", or name an interpreter that has it with --fer_python'
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "photos.json"), pathlib.Path(folder, "found.json")
        absolute = [str(pathlib.Path(path).absolute()) for path in paths]
        source.write_text(json.dumps({"photos": absolute}))
        # -P: the modules in the folder of the script must not hide others of their names.
        command = [python, "-P", fer_worker.__file__, str(source), str(target)]
        try:
            done = subprocess.run(
                command,
                env=xla_flags.without(os.environ),
                capture_output=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise UserError(f"{python} does not run ({error.strerror}); {help_}") from error
        if done.returncode or not target.exists():
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise UserError(f"fer failed in {python}: {last}; {help_}")
        found = json.loads(target.read_text())
    if "missing" in found:
        raise UserError(f"{python} cannot import fer ({found['missing']}); {help_}")
    return {
        f"fer {found['version']}, {way}": _answers(found["classes"], run)
        for way, run in found["runs"].items()
    }


def _answers(classes: Sequence[str], run: Mapping[str, Any]) -> Answers:
    nothing = [np.nan] * len(classes)
    probabilities = [nothing if row is None else row for row in run["probabilities"]]
    return Answers(tuple(classes), np.array(probabilities, np.float64), run["seconds"])


def score(photos: Photos, answers: Answers) -> dict[str, float]:
    """Return the figures of a tool by name.

    `accuracy`, and `balanced_accuracy` and `f1_macro` over classes with at least `MIN_COUNT` true
    examples, are of all photos. `ece` and `nll` are of those with a face (see the module), and
    absent without one. `faces_found` is a fraction of the photos.
    """
    names = [*map(canonical_name, answers.class_names)]
    classes = [*photos.class_names, *(name for name in names if name not in photos.class_names)]
    probabilities = np.zeros((len(photos.paths), len(classes)))
    probabilities[:, [classes.index(name) for name in names]] = answers.probabilities
    found = np.isfinite(answers.probabilities).all(axis=1)
    probabilities[~found] = np.nan  # of no class: wrong
    logits, labels = calibration.log_probabilities(probabilities), photos.labels
    statistics = ClassificationStatistics(len(classes), classes, MIN_COUNT)
    figures = statistics.update(logits, labels).compute()
    for name in ("ece", "nll"):
        del figures[name]
    if found.any():
        figures["ece"] = calibration.scores(logits[found], labels[found])["ece"]
    known = found & np.isin(labels, [classes.index(name) for name in names])
    if known.any():
        figures["nll"] = calibration.scores(logits[known], labels[known])["nll"]
    kept = {name: figures[name] for name in _SCORES if name in figures}
    speed = found.sum() / answers.seconds
    return kept | {"faces_found": float(found.mean()), "faces_per_second": float(speed)}


def rows(photos: Photos, tools: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Return a row for each figure of each tool; ours once for each peer, with the ratio."""
    figures = {tool: score(photos, answers) for tool, answers in tools.items()}
    peers = [tool for tool in tools if tool != OURS]
    made = []
    for tool, known in figures.items():
        for name, value in known.items():
            row = functools.partial(suite.row, SUITE, tool, name, [value], _UNITS.get(name, ""))
            compared = [p for p in peers if tool == OURS and figures[p].get(name) and value]
            made += [
                row(
                    baseline=peer,
                    baseline_figures=[figures[peer][name]],
                    lower_is_better=name in _LOWER_IS_BETTER,
                )
                for peer in compared
            ] or [row()]
    return made


def notes(photos: Photos, tools: Mapping[str, Answers]) -> list[str]:
    """Return lines that say what is measured, and which classes a tool lacks."""
    counts = np.bincount(photos.labels, minlength=len(photos.class_names))
    present = {name: int(n) for name, n in zip(photos.class_names, counts, strict=True) if n}
    rare = [f"{name} ({n})" for name, n in present.items() if n < MIN_COUNT]
    lines = [f"{len(photos.paths)} photos: " + ", ".join(f"{n} {c}" for c, n in present.items())]
    if rare:
        lines.append(f"not in macro scores, fewer than {MIN_COUNT} photos: {', '.join(rare)}")
    for tool, answers in tools.items():
        own = {*map(canonical_name, answers.class_names)}
        for what, missing in (
            ("has no class", [name for name in present if name not in own]),
            ("also has", sorted(own - present.keys())),
        ):
            if missing:
                lines.append(f"{tool} {what} {', '.join(missing)}")
    return lines
