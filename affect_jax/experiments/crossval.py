"""Cross-validation: one run a fold, no person in two folds, and the pooled result.

`docs/sweeps.md` describes the command and what comes out.
"""

import dataclasses
import json
import logging
import pathlib
from typing import Any

import ml_collections
import numpy as np

from affect_jax import config as config_lib
from affect_jax import data_record, runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation import predictions
from affect_jax.experiments import runs
from affect_jax.metrics import spread
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.metrics.regression import RegressionStatistics
from affect_jax.report import comparison
from affect_jax.report.figures import confusion as confusion_lib
from affect_jax.report.figures import style
from affect_jax.runtime import parallel, tables
from affect_jax.training import final_test, loop
from data_pipelines.sources import cache, folds, make

log = logging.getLogger(__name__)

_COLUMNS = ("accuracy", "balanced_accuracy", "f1_macro", "valence_ccc", "arousal_ccc", "nme")


@dataclasses.dataclass
class Result:
    """What a cross-validation found.

    Attributes:
      figures: fold -> its test metrics, of finished folds.
      pooled: metrics over the predictions of all finished folds together.
      confusion: int64 [N, N], the sum over folds (rows are true classes); None without classes.
      failed: number of folds that failed.
    """

    figures: dict[int, dict[str, float]]
    pooled: dict[str, float]
    confusion: np.ndarray | None
    failed: int = 0


def plan(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[int, runs.Cell]:
    """The run of every fold.

    Raises:
      ConfigError: the protocol is unknown.
      DataError: the data cannot be cut into such folds.
    """
    section = config.crossval
    protocols = tuple(p for p in folds.PROTOCOLS if p != "split")
    if section.protocol not in protocols:
        raise ConfigError(
            f"config.crossval.protocol = {section.protocol!r}; "
            + nearest(section.protocol, protocols)
        )
    count = folds.count_folds(fold_config(config, 0).data)
    return {
        fold: runs.Cell(
            f"fold {fold}",
            fold_config(config, fold),
            workdir / "folds" / f"{fold}",
            files=(final_test.PREDICTIONS,),
        )
        for fold in range(count)
    }


def fold_config(config: ml_collections.ConfigDict, fold: int) -> ml_collections.ConfigDict:
    """Returns the config of one fold's run."""
    own = ml_collections.ConfigDict(config.to_dict())
    own.data.protocol, own.data.test_fold = config.crossval.protocol, fold
    if config.crossval.protocol == "folds":
        own.data.folds = config.crossval.folds
    with own.unlocked():
        for key in ("sweep", "crossval"):
            if key in own:
                del own[key]
    return own


def cross_validate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Result:
    """Trains and tests every fold that is not finished, and writes the report.

    Args:
      config: of the runs; `config.crossval` says how the data are cut.
      workdir: folder of the folds.

    Raises:
      UserError: if the data cannot be cut so, the folder holds folds of another config or of other
        data, a report cannot be made, or a fold fails by a mistake that all have in common
        (`cells.run_all`).
      train.Stopped: after SIGINT or SIGTERM.
    """
    workdir = pathlib.Path(workdir).absolute()
    config_lib.check(config)
    with cache.shared():
        planned = plan(config, workdir)
        only = _only(config.crossval.only, len(planned))
        parallel.from_main(lambda: config_lib.check_workdir(workdir, config))
        # The folds are cut from all records, so those of any fold speak for the whole.
        data = data_record.compare(
            workdir,
            make.make_sources(planned[0].config.data),
            accept=config.data.accept_changed,
        )
        parallel.from_main(lambda: _claim(workdir, config))
        data.begin()
        unfinished = any(runs.outcome(cell).status != runs.DONE for cell in planned.values())
        if parallel.any_process(unfinished):
            data.go_on()
        loop.set_compilation_cache(config, workdir)
        try:
            failed = runs.run_all([planned[fold] for fold in only])
        except UserError:
            raise  # before anything was trained: there is nothing to report
        except BaseException:
            with runs.reporting():
                write_report(config, planned, workdir)
            raise
        result = write_report(config, planned, workdir)
        if parallel.is_main_process():
            _write_folds(planned, workdir)
            complete = len(result.figures) == len(planned)
            if complete and not (workdir / runtime.METRICS_FILE).exists():
                _write_final(result, planned, workdir)
    result.failed = failed
    return result


def _claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    # The result of another config must not be taken for this one's.
    if not _same_config(config, workdir):
        (workdir / runtime.METRICS_FILE).unlink(missing_ok=True)
    config_lib.claim_workdir(workdir, config)


def _only(text: str, count: int) -> list[int]:
    try:
        chosen = [int(part) for part in str(text).split(",") if part.strip()]
    except ValueError:
        chosen = [-1]
    if not all(0 <= fold < count for fold in chosen):
        raise ConfigError(f"config.crossval.only = {text!r}; the folds are 0 to {count - 1}")
    return chosen or list(range(count))


def _same_config(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> bool:
    path = workdir / config_lib.CONFIG_FILE
    try:
        recorded = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return False
    then, now = (config_lib.from_recorded(c) for c in (recorded, config_lib.to_plain(config)))
    return config_lib.to_plain(then) == config_lib.to_plain(now)


def pool(parts: list[dict[str, np.ndarray]], min_count: int = 1) -> tuple[dict[str, float], Any]:
    """Metrics over the stored predictions of several folds together, and the confusion matrix.

    Args:
      parts: of each fold what `report.predictions.load` gives.
      min_count: see `ClassificationStatistics`.

    Returns:
      (name -> value, int64 [N, N] or None without classes).

    Raises:
      ConfigError: the folds have other classes than each other.
    """
    names = [tuple(p["class_names"].tolist()) for p in parts]
    if len(set(names)) != 1:
        raise ConfigError(f"the folds know different classes: {sorted(set(names))}")
    figures: dict[str, float] = {}
    confusion = None
    if all("logits" in p for p in parts):
        statistics = ClassificationStatistics(len(names[0]), names[0], min_count)
        for p in parts:
            statistics.update(p["logits"], p["expression"])
        figures |= statistics.compute()
        confusion = statistics.confusion
    if all("valence_arousal_predicted" in p for p in parts):
        regression = RegressionStatistics()
        for p in parts:
            regression.update(p["valence_arousal_predicted"], p["valence_arousal"])
        figures |= regression.compute()
    if all(name in p for p in parts for name in LandmarkStatistics.FIGURES):
        landmarks = LandmarkStatistics()
        for p in parts:
            landmarks.add({n: p[n] for n in landmarks.FIGURES})
        figures |= landmarks.compute()
    return figures, confusion


def write_report(
    config: ml_collections.ConfigDict, planned: dict[int, runs.Cell], workdir: pathlib.Path
) -> Result:
    """Writes `workdir/report` from the folds that are finished."""
    outcomes = {fold: runs.outcome(cell) for fold, cell in planned.items()}
    figures = {fold: o.figures for fold, o in outcomes.items() if o.status == runs.DONE}
    result = Result(figures, {}, None)
    parts = {f: predictions.load(planned[f].workdir / comparison.FOLDER) for f in figures}
    if parts:
        result.pooled, result.confusion = pool(list(parts.values()), config.eval.min_count)
    if not parallel.is_main_process():
        return result
    folder = workdir / comparison.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    columns = [c for c in _COLUMNS if any(c in f for f in figures.values())]
    problems = [
        f"fold {fold}: {o.status}" + (f": {o.error}" if o.error else "")
        for fold, o in outcomes.items()
        if o.status not in (runs.DONE, runs.OPEN)
    ]
    if not_run := [fold for fold, o in outcomes.items() if o.status == runs.OPEN]:
        problems.append(f"{len(not_run)} of {len(planned)} folds are not finished yet")
    head, body, lines = ["", *map(tables.label, columns)], [], []
    for fold, values in figures.items():
        lines.append({"fold": fold, "seconds": outcomes[fold].seconds, **_tests(values)})
        body.append([f"fold {fold}", *_cells(columns, values)])
    if figures:
        for name, values in _over_folds(figures).items():
            lines.append({"fold": name, **{c: values[c] for c in lines[0] if c in values}})
            shown = {"mean": "mean of the folds", "sd": "standard deviation"}[name]
            body.append([shown, *_cells(columns, values)])
        lines.append({"fold": "pooled", **result.pooled})
        body.append(["**pooled**", *_cells(columns, result.pooled)])
        pictures = _write_pooled(result, parts, folder)
        images = runtime.count_images(*_images(planned, parts))
        title = f"{len(figures)} of {len(planned)} folds, no person in two, {images}"
        page = tables.page(title, [("Test persons of each fold", head, body)], problems, pictures)
        runtime.write_atomically(folder / "table.md", page.encode())
        tables.write_csv(folder / "table.csv", lines)
        plain = [[cell.strip("*") for cell in line] for line in body]
        print(f"\n{title}\n\n{tables.fixed(head, plain)}\n", flush=True)
    for problem in problems:
        log.warning("%s", problem)
    log.info("report: %s", folder)
    return result


def _images(
    planned: dict[int, runs.Cell], parts: dict[int, dict[str, np.ndarray]]
) -> tuple[int, int]:
    """Test images of the finished folds that could be read, and all of them."""
    read = {fold: len(part["index"]) for fold, part in parts.items()}
    finals = {fold: runtime.read_metrics(planned[fold].workdir)[-1] for fold in parts}
    return sum(read.values()), sum(finals[f].get("images_total", read[f]) for f in parts)


def _over_folds(figures: dict[int, dict[str, float]]) -> dict[str, dict[str, float]]:
    """`mean` and `sd` of the figures that every fold has: a score that few folds have, for want of
    classes with enough test pictures, is no score of the others."""
    common = set.intersection(*(set(_tests(f)) for f in figures.values()))
    spreads = {c: spread.Spread.of([f[c] for f in figures.values()]) for c in common}
    return {name: {c: getattr(s, name) for c, s in spreads.items()} for name in ("mean", "sd")}


def _tests(figures: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in figures.items() if "/" not in k}


def _cells(columns: list[str], values: dict[str, float]) -> list[str]:
    return [tables.number(c, values.get(c, np.nan)) for c in columns]


def _write_pooled(
    result: Result, parts: dict[int, dict[str, np.ndarray]], folder: pathlib.Path
) -> list[str]:
    """Pooled predictions, confusion matrix and its picture; returns the pictures' names."""
    lines = []
    for fold, part in parts.items():
        if "probabilities" in part:
            true, guesses = predictions.class_columns(part)
        for i, source in enumerate(part["source"].tolist()):
            line: dict[str, Any] = {"fold": fold, "source": source}
            if "probabilities" in part:
                line["expression"], line["expression_predicted"] = true[i], guesses[i]
            if "valence_arousal_predicted" in part:
                for d, name in enumerate(("valence", "arousal")):
                    line[name] = float(part["valence_arousal"][i, d])
                    line[f"{name}_predicted"] = float(part["valence_arousal_predicted"][i, d])
            lines.append(line)
    tables.write_csv(folder / "predictions.csv", lines)
    if result.confusion is None or not result.confusion.any():
        return []
    names = next(iter(parts.values()))["class_names"].tolist()
    rows = [
        {"true": name, **dict(zip(names, row, strict=True))}
        for name, row in zip(names, result.confusion.tolist(), strict=True)
    ]
    tables.write_csv(folder / "confusion.csv", rows)
    figure = confusion_lib.confusion_matrices([("", result.confusion, result.pooled)], names)
    runtime.write_atomically(folder / "confusion_matrix.png", style.png(figure))
    return ["confusion_matrix.png"]


def _write_folds(planned: dict[int, runs.Cell], workdir: pathlib.Path) -> None:
    """`folds.csv`: the part that each person plays in each fold."""
    lines = []
    for fold, cell in planned.items():
        for split, source in make.make_sources(cell.config.data).items():
            people, counts = np.unique(source.persons, return_counts=True)
            lines += [
                {"fold": fold, "split": split, "person": person, "pictures": int(n)}
                for person, n in zip(people.tolist(), counts, strict=True)
            ]
    tables.write_csv(workdir / comparison.FOLDER / "folds.csv", lines)


def _write_final(result: Result, planned: dict[int, runs.Cell], workdir: pathlib.Path) -> None:
    """The pooled result as the last row of `metrics.jsonl`, as a single run has it."""
    with runtime.MetricWriter(workdir) as writer:
        step = max(runtime.read_metrics(c.workdir)[-1]["step"] for c in planned.values())
        for name, values in _over_folds(result.figures).items():
            kept = {c: values[c] for c in result.pooled if c in values}
            writer.write(step, f"fold_{name}", kept)
        writer.write(step, "test", result.pooled, final=True)
