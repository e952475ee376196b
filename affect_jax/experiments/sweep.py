"""Sweeps: a run per row of config changes and per seed, compared in a table.

`docs/sweeps.md` describes the file of a sweep and what comes out.
"""

import dataclasses
import fnmatch
import functools
import logging
import math
import pathlib
from collections.abc import Collection, Iterable, Mapping

import ml_collections

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError, nearest
from affect_jax.experiments import crossval, planned_runs, runs, sweep_file
from affect_jax.experiments.planned_runs import PlannedRun
from affect_jax.experiments.sweep_file import Changes, Sweep
from affect_jax.report import comparison_table
from affect_jax.runtime import parallel, tables
from affect_jax.training import loop
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)

_STAGE = "stage:"
_COLUMNS = ("accuracy", "f1_macro", "valence_ccc", "arousal_ccc", "nme")

Key = tuple[str, int]  # row, seed


@dataclasses.dataclass(frozen=True)
class PlannedSweep:
    """The runs of a sweep in the order in which they are run: stages first, then rows."""

    stages: list[PlannedRun]
    runs: dict[Key, PlannedRun]


def apply_changes(
    config: ml_collections.ConfigDict, changes: Changes, where: str
) -> ml_collections.ConfigDict:
    """Return a config with changes: dotted key -> value, or section -> fields.

    Raises:
      ConfigError: a key does not exist (under `model.` any may), or a value has another type;
        `where` says which changes these are.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = config
        try:
            for section in sections:
                place = place[section]
            known = name in place or sections[:1] == ["model"]
        except (KeyError, TypeError):
            known = False
        if not known:
            hint = nearest(key, config_lib.flatten(config))
            raise ConfigError(f"{where}: there is no field {key!r}; {hint}")
        try:
            with place.unlocked():
                is_section = isinstance(value, Mapping)
                if is_section:
                    value = ml_collections.ConfigDict(dict(value))
                # A section is replaced, and None has no type to keep.
                if name in place and (is_section or place[name] is None):
                    del place[name]
                place[name] = value
        except TypeError as error:
            raise ConfigError(f"{where}: {key} = {value!r}: {error}") from None
    return config


def plan(sweep: Sweep, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> PlannedSweep:
    """Plan all runs of a sweep: their configs and folders.

    Raises:
      ConfigError: a change cannot be made, or a stage does not come before those that name it.
    """
    is_crossval = sweep.cell == "crossval"
    plain = planned_runs.without_sections(config, "sweep", "crossval")
    of_rows = planned_runs.without_sections(config, "sweep") if is_crossval else plain
    plain.report.pictures = of_rows.report.pictures = config.sweep.pictures
    stages: dict[str, PlannedRun] = {}
    cache = DataCache()  # the data are read once

    def make(
        base: ml_collections.ConfigDict, name: str, place: str, changes: Changes, folder: str
    ) -> PlannedRun:
        needs, changes = [], dict(changes)
        for key, value in changes.items():
            if isinstance(value, str) and value.startswith(_STAGE):
                stage = value.removeprefix(_STAGE)
                if stage not in stages:
                    raise ConfigError(
                        f"{place}: {key} = {value!r}, but there is no such stage before it; "
                        + nearest(stage, stages)
                    )
                needs.append(stages[stage].workdir)
                changes[key] = str(needs[-1])
        made = apply_changes(base, changes, place)
        config_lib.check(made)
        data = crossval.fold_config(made, 0) if "crossval" in made else None
        return PlannedRun(name, made, workdir / folder, tuple(needs), data=data, cache=cache)

    for name, changes in sweep.stages.items():
        stages[name] = make(plain, f"stage {name}", f"stages: {name}", changes, f"stages/{name}")
    planned = {}
    # Seed by seed: an interrupted sweep has complete pairs to compare.
    for seed in sweep.seeds:
        for row, changes in sweep.rows.items():
            changes = {**sweep.shared, **changes}
            if "seed" in changes:
                raise ConfigError(f"rows: {row}: remove seed; `seeds` of the sweep sets it")
            changes["seed"] = seed
            name, folder = f"{row}, seed {seed}", f"cells/{row}/seed{seed}"
            planned[row, seed] = make(of_rows, name, f"rows: {row}", changes, folder)
    return PlannedSweep(list(stages.values()), planned)


def run(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path, path: str | pathlib.Path
) -> int:
    """Run what is not finished of a sweep, and write its report.

    Args:
      config: of the sweep file, with the command line's changes.
      path: the sweep file.

    Returns:
      The number of runs that failed.

    Raises:
      ConfigError: the sweep cannot work, or the folder holds runs of another config; nothing has
        been trained then.
      UserError: a stage failed, data or a stage have changed since runs were trained, or a run
        failed by a mistake that all share (`runs.run_all`).
      Stopped: after SIGINT or SIGTERM.
    """
    return _run(sweep_file.load(path, config), config, workdir)


def _run(sweep: Sweep, config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    # Runs name their stages by folder, which must not depend on the current directory.
    workdir = pathlib.Path(workdir).absolute()
    section = config.sweep
    seeds = planned_runs.parse_numbers(section.seeds, "sweep.seeds")
    sweep = dataclasses.replace(sweep, seeds=tuple(dict.fromkeys((*sweep.seeds, *seeds))))
    planned = plan(sweep, config, workdir)
    rows = choose(sweep.rows, section.rows)
    asked = [key for key in planned.runs if key[0] in rows and key[1] in (seeds or sweep.seeds)]
    chosen = [planned.runs[key] for key in asked]
    stages = _needed_stages(planned.stages, chosen)
    if not section.report_only:
        # A folder of another sweep is refused before its table is replaced: of all rows, since all
        # are in the table.
        for one in (*stages, *planned.runs.values()):
            config_lib.check_workdir(one.workdir, one.config)
    if parallel.is_main_process():
        workdir.mkdir(parents=True, exist_ok=True)
    loop.set_compilation_cache(config, workdir)

    report = functools.partial(write_report, sweep, planned, asked, workdir)
    failed = 0
    try:
        if not section.report_only:
            _check_stale(planned, stages)
            runs.run_all(stages, required=True)
            train = functools.partial(_train, sweep)
            failed = runs.run_all(chosen, run=train, after=lambda: report(pictures=False))
    except BaseException:
        with runs.reporting():
            report()
        raise
    compared = report()
    if parallel.is_main_process():
        print(f"\n{compared.text()}\n", flush=True)
        log.info("report: %s", workdir / runtime.REPORT_FOLDER)
    return failed


def _train(sweep: Sweep, run: PlannedRun) -> None:
    if sweep.cell == "run":
        # Where rows are chosen by validation, the others' test metrics stay unseen.
        runs.train(run, show_test=not sweep.rank_by)
    elif failed := crossval.cross_validate(run.config, run.workdir, run.cache).failed:
        raise UserError(f"{failed} folds failed; see the folders in {run.workdir / 'folds'}")


def _check_stale(planned: PlannedSweep, stages: Iterable[PlannedRun]) -> None:
    """Refuse to retrain stages under runs that use them, or to mix data sets."""
    digests = {stage.workdir.name: planned_runs.digest(stage.config) for stage in stages}
    every = (*planned.stages, *planned.runs.values())
    if reasons := [text for run in every if (text := planned_runs.stale(run, digests))]:
        more = f"\n... {len(reasons)} in all" * (len(reasons) > 5)
        raise UserError("\n".join(reasons[:5]) + more)


def _needed_stages(stages: list[PlannedRun], chosen: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Return the stages that the chosen runs, or later stages of theirs, start from."""
    wanted = {folder for run in chosen for folder in run.needs}
    for stage in reversed(stages):
        if stage.workdir in wanted:
            wanted.update(stage.needs)
    return [stage for stage in stages if stage.workdir in wanted]


def choose(names: Iterable[str], patterns: str) -> list[str]:
    """Return the names that match a list of names and patterns; all if empty.

    Raises:
      ConfigError: a pattern matches none.
    """
    names, chosen = list(names), set()
    for pattern in [p.strip() for p in patterns.split(",") if p.strip()] or ["*"]:
        picked = {n for n in names if n == pattern or fnmatch.fnmatchcase(n, pattern)}
        if not picked:
            raise ConfigError(f"config.sweep.rows: no row {pattern!r}; {nearest(pattern, names)}")
        chosen |= picked
    return [n for n in names if n in chosen]


def write_report(
    sweep: Sweep,
    planned: PlannedSweep,
    asked: Collection[Key],
    workdir: pathlib.Path,
    *,
    pictures: bool = True,
) -> comparison_table.Comparison:
    """Write the tables and pictures of finished runs into `workdir/report`.

    An unfinished run counts as missing only if it was asked for.
    """
    outcomes = {key: planned_runs.outcome(run) for key, run in planned.runs.items()}
    figures = {
        row: {s: outcomes[row, s].figures for s in sweep.seeds if outcomes[row, s].figures}
        for row in sweep.rows
    }
    measured = {name for outcome in outcomes.values() for name in outcome.figures}
    columns = sweep.columns or tuple(c for c in _COLUMNS if c in measured)
    problems = planned_runs.problems(outcomes.values(), [outcomes[key] for key in asked], "runs")
    in_grid = [sweep.grid["column"]] if sweep.grid else []
    for column in dict.fromkeys((sweep.rank_by, *columns, *in_grid)):
        if measured and column and column not in measured:
            hint = nearest(column, measured)
            problems.append(f"no finished run has measured {column!r}; {hint}")
    curves = {
        name: {
            row: {seed: _curve(planned.runs[row, seed], name) for seed in by_seed}
            for row, by_seed in figures.items()
        }
        for name in sweep.curves
    }
    layout = dataclasses.replace(sweep, columns=columns)
    compared = comparison_table.Comparison(layout, figures, curves, problems)
    if parallel.is_main_process():
        compared.write(workdir, pictures=pictures)
        lines = []
        for (row, seed), outcome in outcomes.items():
            line = {"row": row, "seed": seed, "status": outcome.status}
            line |= {"seconds": round(outcome.seconds, 1) or math.nan, "error": outcome.error}
            for name, value in outcome.figures.items():
                # Ranked rows show the test metrics of the first one only.
                if name.startswith("validation/") or not sweep.rank_by:
                    line[name] = value
            lines.append(line)
        tables.write_csv(workdir / runtime.REPORT_FOLDER / "cells.csv", lines)
    return compared


def _curve(run: PlannedRun, name: str) -> dict[int, float]:
    """Return step -> a validation metric of a finished run."""
    rows = (r for r in runtime.read_metrics(run.workdir) if r["split"] == "validation")
    return {r["step"]: r[name] for r in rows if r.get(name) is not None}
