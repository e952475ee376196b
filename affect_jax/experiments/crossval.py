"""Cross-validation: one run a fold, no person in two folds, and the pooled result.

`docs/sweeps.md` describes the command and what comes out.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np

from affect_jax import config as config_lib
from affect_jax import data_record, runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation import context_rows, predictions
from affect_jax.evaluation.predictions import StoredPredictions
from affect_jax.experiments import planned_runs, runs
from affect_jax.experiments.planned_runs import DONE, Figures, PlannedRun
from affect_jax.metrics.base import Statistics
from affect_jax.metrics.classification import ClassificationStatistics
from affect_jax.metrics.hierarchy import HierarchyStatistics
from affect_jax.metrics.landmarks import LandmarkStatistics
from affect_jax.metrics.mixtures import MixtureStatistics
from affect_jax.metrics.regression import RegressionStatistics
from affect_jax.metrics.spread import Spread
from affect_jax.report.figures import confusion as confusion_lib
from affect_jax.report.figures import style
from affect_jax.runtime import parallel, tables
from affect_jax.training import final_test, loop
from data_pipelines import defaults
from data_pipelines.sources import folds, make
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)

_COLUMNS = (
    *("accuracy", "balanced_accuracy", "f1_macro", "coarse_accuracy"),
    *("valence_ccc", "arousal_ccc", "nme"),
)


@dataclasses.dataclass
class Result:
    """What a cross-validation found.

    Attributes:
      figures: fold -> its test metrics, of finished folds.
      pooled: metrics over the predictions of all finished folds together.
      confusion: int64 [N, N], the sum over folds (rows are true classes); None without classes.
      failed: number of folds that failed.
    """

    figures: dict[int, Figures]
    pooled: Figures
    confusion: np.ndarray | None
    failed: int = 0


def plan(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, cache: DataCache | None = None
) -> dict[int, PlannedRun]:
    """Plan the run of every fold; they share `cache`.

    Raises:
      ConfigError: the protocol is unknown.
      DataError: the data cannot be cut into such folds.
    """
    protocol, known = config.crossval.protocol, [p for p in defaults.PROTOCOLS if p != "split"]
    if protocol not in known:
        raise ConfigError(f"config.crossval.protocol = {protocol!r}; {nearest(protocol, known)}")
    return {
        fold: PlannedRun(
            f"fold {fold}",
            fold_config(config, fold),
            workdir / "folds" / f"{fold}",
            files=(final_test.PREDICTIONS,),
            cache=cache,
        )
        for fold in range(folds.count_folds(fold_config(config, 0).data, cache))
    }


def fold_config(config: ml_collections.ConfigDict, fold: int) -> ml_collections.ConfigDict:
    """Return the config of one fold's run."""
    own = planned_runs.without_sections(config, "sweep", "crossval")
    own.data.protocol, own.data.test_fold = config.crossval.protocol, fold
    if config.crossval.protocol == "folds":
        own.data.folds = config.crossval.folds
    return own


def cross_validate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    cache: DataCache | None = None,
) -> Result:
    """Train and test every fold that is not finished, and write the report.

    `cache` shares data with other cross-validations.

    Raises:
      UserError: the data cannot be divided so, the folder has folds of another config or of other
        data, or a fold failed by a mistake that all folds share (`runs.run_all`).
      Stopped: after SIGINT or SIGTERM.
    """
    workdir = pathlib.Path(workdir).absolute()
    config_lib.check(config)
    cache = cache or DataCache()
    planned = plan(config, workdir, cache)
    only = planned_runs.parse_numbers(config.crossval.only, "crossval.only") or tuple(planned)
    if not planned.keys() >= set(only):
        raise ConfigError(
            f"config.crossval.only = {config.crossval.only!r}; the folds are 0 to "
            f"{len(planned) - 1}"
        )
    parallel.from_main(lambda: config_lib.check_workdir(workdir, config))
    # Every fold is cut from all records, so the sources of one are all the data.
    sources = make.make_sources(planned[0].config.data, cache)
    data = data_record.compare(workdir, sources, accept=config.data.accept_changed)
    unfinished = parallel.any_process(
        any(planned_runs.outcome(run).status != DONE for run in planned.values())
    )
    parallel.from_main(lambda: _claim(workdir, config, unfinished))
    data.begin()
    if unfinished:
        data.go_on()
    loop.set_compilation_cache(config, workdir)
    try:
        failed = runs.run_all([planned[fold] for fold in only])
    except UserError:
        raise  # nothing was trained, so there is nothing to report
    except BaseException:
        with runs.reporting():
            write_report(config, planned, workdir)
        raise
    result = write_report(config, planned, workdir)
    result.failed = failed
    if parallel.is_main_process():
        _write_folds(planned, workdir)
        if len(result.figures) == len(planned) and planned_runs.last_step(workdir) is None:
            _write_final(result, planned, workdir)
    return result


def _claim(workdir: pathlib.Path, config: ml_collections.ConfigDict, unfinished: bool) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    if unfinished:  # a pooled result that is there was not of these folds
        (workdir / runtime.METRICS_FILE).unlink(missing_ok=True)
    config_lib.claim_workdir(workdir, config)


def pool(parts: list[StoredPredictions], min_count: int = 1) -> tuple[Figures, np.ndarray | None]:
    """Compute metrics over the stored predictions of several folds together.

    Args:
      parts: the predictions of each fold.
      min_count: see `ClassificationStatistics`.

    Returns:
      (metric -> value, confusion matrix int64 [N, N] or None without classes).

    Raises:
      ConfigError: the folds do not have the same classes.
    """
    names = {tuple(part["class_names"].tolist()) for part in parts}
    if len(names) != 1:
        raise ConfigError(f"the folds have different classes: {sorted(names)}")
    class_names = names.pop()
    classes = ClassificationStatistics(len(class_names), class_names, min_count)
    regression, landmarks = RegressionStatistics(), LandmarkStatistics()
    tree = predictions.stored_hierarchy(parts[0])
    coarse = [] if tree is None else [HierarchyStatistics(tree, min_count)]
    mixtures = MixtureStatistics()
    stored = set.intersection(*map(set, parts))
    for part in parts:
        if "logits" in stored:
            classes.update(part["logits"], part["expression"])
            for tree_metrics in coarse:
                tree_metrics.update({"logits": part["logits"]}, {"expression": part["expression"]})
            if "expression_probs" in stored:
                mixtures.update({"logits": part["logits"]}, dict(part))
        if "valence_arousal_predicted" in stored:
            regression.update(part["valence_arousal_predicted"], part["valence_arousal"])
        if stored.issuperset(landmarks.FIGURES):
            landmarks.add({name: part[name] for name in landmarks.FIGURES})
    measured: list[Statistics] = [classes, mixtures, *coarse, regression, landmarks]
    figures = {name: value for one in measured for name, value in one.compute().items()}
    return figures, classes.confusion if "logits" in stored else None


def write_report(
    config: ml_collections.ConfigDict, planned: Mapping[int, PlannedRun], workdir: pathlib.Path
) -> Result:
    """Write `workdir/report` from the folds that are finished."""
    outcomes = {fold: planned_runs.outcome(run) for fold, run in planned.items()}
    result = Result({f: o.figures for f, o in outcomes.items() if o.status == DONE}, {}, None)
    parts = {
        f: predictions.load(planned[f].workdir / runtime.REPORT_FOLDER) for f in result.figures
    }
    if parts:
        result.pooled, result.confusion = pool(list(parts.values()), config.eval.min_count)
    if not parallel.is_main_process():
        return result
    folder = workdir / runtime.REPORT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    problems = planned_runs.problems(outcomes.values(), outcomes.values(), "folds")
    if parts:
        tested = {fold: _of_test(figures) for fold, figures in result.figures.items()}
        seconds = [{"fold": f, "seconds": outcomes[f].seconds, **v} for f, v in tested.items()]
        over = {**_over_folds(result.figures), "pooled": result.pooled}
        summary = [{"fold": name, **values} for name, values in over.items()]
        tables.write_csv(folder / "table.csv", [*seconds, *summary])
        columns = [c for c in _COLUMNS if any(c in values for values in tested.values())]
        head = ["", *map(tables.label, columns)]
        heads = [f"fold {fold}" for fold in tested]
        heads += ["mean of the folds", "standard deviation", "pooled"]
        by_context = _over_folds_by_context(result.figures)
        heads += [
            f"{context_rows.column(split.removeprefix('test_'))}, mean" for split in by_context
        ]
        body = [
            [name, *(tables.number(c, values.get(c, np.nan)) for c in columns)]
            for name, values in zip(
                heads, [*tested.values(), *over.values(), *by_context.values()], strict=True
            )
        ]
        images = runtime.count_images(*_count_images(planned, parts))
        title = f"{len(parts)} of {len(planned)} folds, no person in two, {images}"
        print(f"\n{title}\n\n{tables.fixed(head, body)}\n", flush=True)
        body[heads.index("pooled")][0] = "**pooled**"  # in bold
        pictures = _write_pooled(result, parts, folder)
        page = tables.page(title, [("Test persons of each fold", head, body)], problems, pictures)
        runtime.write_atomically(folder / "table.md", page.encode())
    for problem in problems:
        log.warning("%s", problem)
    log.info("report: %s", folder)
    return result


def _count_images(
    planned: Mapping[int, PlannedRun], parts: Mapping[int, StoredPredictions]
) -> tuple[int, int]:
    """Return how many test images of finished folds could be read, and of all."""
    read = {fold: len(part["index"]) for fold, part in parts.items()}
    finals = {fold: runtime.read_metrics(planned[fold].workdir)[-1] for fold in parts}
    return sum(read.values()), sum(finals[f].get("images_total", read[f]) for f in parts)


def _of_test(figures: Figures) -> Figures:
    return {name: value for name, value in figures.items() if "/" not in name}


def _over_folds(figures: Mapping[int, Figures]) -> dict[str, Figures]:
    """Return `mean` and `sd` over the folds of the test metrics that every fold has.

    A fold lacks a metric if too few classes have enough test images. A mean without this fold would
    be misleading.
    """
    common = set.intersection(*(set(_of_test(f)) for f in figures.values()))
    spreads = {name: Spread.of(f[name] for f in figures.values()) for name in common}
    return {
        "mean": {name: spread.mean for name, spread in spreads.items()},
        "sd": {name: spread.sd for name, spread in spreads.items()},
    }


def _over_folds_by_context(figures: Mapping[int, Figures]) -> dict[str, Figures]:
    """Return the means over the folds of test metrics in other contexts, by row.

    They are those that every fold has (see `evaluation.contexts`).
    """
    common = [c for c in next(iter(figures.values())) if all(c in f for f in figures.values())]
    found: dict[str, Figures] = {}
    for column in common:
        split, _, name = column.rpartition("/")
        if split.startswith("test_") and context_rows.column(split.removeprefix("test_")):
            values = (figures[fold][column] for fold in figures)
            found.setdefault(split, {})[name] = Spread.of(values).mean
    return found


def _write_pooled(
    result: Result, parts: Mapping[int, StoredPredictions], folder: pathlib.Path
) -> list[str]:
    """Write pooled predictions and confusions; return the names of pictures."""
    lines = [line for fold, part in parts.items() for line in _prediction_lines(fold, part)]
    tables.write_csv(folder / "predictions.csv", lines)
    if result.confusion is None or not result.confusion.any():
        return []
    first = next(iter(parts.values()))
    names, hierarchy = first["class_names"].tolist(), predictions.stored_hierarchy(first)
    counts = zip(names, result.confusion.tolist(), strict=True)
    rows = [{"true": name, **dict(zip(names, row, strict=True))} for name, row in counts]
    tables.write_csv(folder / "confusion.csv", rows)
    figure = confusion_lib.confusion_matrices(
        [("", result.confusion, result.pooled)], names, hierarchy=hierarchy
    )
    runtime.write_atomically(folder / "confusion_matrix.png", style.png(figure))
    return ["confusion_matrix.png"]


def _prediction_lines(fold: int, part: StoredPredictions) -> Iterable[dict[str, Any]]:
    """Yield the lines of `predictions.csv` of one fold."""
    columns: dict[str, np.ndarray] = {"source": part["source"]}
    if "probabilities" in part:
        true, predicted = predictions.class_columns(part)
        columns |= {"expression": np.array(true), "expression_predicted": np.array(predicted)}
        columns |= {k: np.array(v) for k, v in predictions.coarse_columns(part).items()}
    if "valence_arousal_predicted" in part:
        for d, name in enumerate(("valence", "arousal")):
            columns[name] = part["valence_arousal"][:, d]
            columns[f"{name}_predicted"] = part["valence_arousal_predicted"][:, d]
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield {"fold": fold, **dict(zip(columns, values, strict=True))}


def _write_folds(planned: Mapping[int, PlannedRun], workdir: pathlib.Path) -> None:
    """Write `folds.csv`: the split of each person in each fold."""
    lines = []
    for fold, run in planned.items():
        for split, source in make.make_sources(run.config.data, run.cache).items():
            people, counts = np.unique(source.persons, return_counts=True)
            lines += [
                {"fold": fold, "split": split, "person": person, "pictures": int(n)}
                for person, n in zip(people.tolist(), counts, strict=True)
            ]
    tables.write_csv(workdir / runtime.REPORT_FOLDER / "folds.csv", lines)


def _write_final(result: Result, planned: Mapping[int, PlannedRun], workdir: pathlib.Path) -> None:
    """Write the pooled result as the last row of `metrics.jsonl`."""
    step = max(runtime.read_metrics(run.workdir)[-1]["step"] for run in planned.values())
    with runtime.MetricWriter(workdir) as writer:
        for name, values in _over_folds(result.figures).items():
            kept = {c: values[c] for c in result.pooled if c in values}
            writer.write(step, f"fold_{name}", kept)
        for split, values in _over_folds_by_context(result.figures).items():
            writer.write(step, split, values)
        writer.write(step, "test", result.pooled, final=True)
