"""Sweeps: rows of changes times seeds, each cell a run, and a table of it all.

`docs/sweeps.md` describes the file of a sweep and what comes out.
"""

import dataclasses
import fnmatch
import functools
import hashlib
import logging
import math
import pathlib
import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np

from affect_jax import config as config_lib
from affect_jax import runtime
from affect_jax.config import ConfigError
from affect_jax.errors import UserError, nearest
from affect_jax.evaluation.evaluator import FLIPPED, SMOOTHED
from affect_jax.experiments import runs
from affect_jax.metrics import reliability
from affect_jax.report import comparison
from affect_jax.runtime import parallel
from affect_jax.training import loop
from data_pipelines.sources import cache

log = logging.getLogger(__name__)

_STAGE = "stage:"
_NAME = re.compile(r"[A-Za-z0-9+\-._ ()]+")
_CALIBRATED = ("test_temperature", "test_mirror")
_SPLITS = ("", "validation", "test_flip", "test_video", *_CALIBRATED, "fold_mean", "fold_sd")
# Label fields whose figures some splits are limited to, as nothing else of them is averaged.
_MEASURED = {"test_flip": FLIPPED, "test_video": SMOOTHED}
_COLUMNS = ("accuracy", "f1_macro", "valence_ccc", "arousal_ccc", "nme")

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What `get_sweep` of a sweep file returns, checked; `docs/sweeps.md` explains the fields."""

    rows: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    columns: tuple[str, ...] = ()
    reference: str = ""
    contrasts: tuple[tuple[str, str], ...] = ()
    paper: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    shared: Changes = dataclasses.field(default_factory=dict)
    stages: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    random: Mapping[str, Any] | None = None
    rank_by: str = ""
    rank_mode: str = "min"
    cell: str = "run"
    grid: Mapping[str, Any] | None = None
    curves: tuple[str, ...] = ()
    title: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.random is not None:
            object.__setattr__(self, "rows", {**self.rows, **draw_rows(**self.random)})
        if not self.rows:
            raise ConfigError("the sweep has no rows")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"the sweep's seeds {self.seeds} are none or not distinct")
        for name in (*self.rows, *self.stages):
            if not _NAME.fullmatch(name) or name in (".", ".."):
                raise ConfigError(f"{name!r} cannot be the name of a row: it names a folder")
        if self.grid is not None:
            _check_grid(self.grid)
        if self.curves and self.cell == "crossval":
            raise ConfigError("curves: the folds of a cross-validation have no curve of their own")
        if self.grid and self.rank_by and not self.grid["column"].startswith("validation/"):
            raise ConfigError("grid: rows that are ranked show validation/... columns alone")
        contrasted = [row for pair in self.contrasts for row in pair]
        for kind, names in (
            ("reference", [self.reference]),
            ("contrasts", contrasted),
            ("paper", self.paper),
            ("grid", [r for line in (self.grid or {}).get("lines", {}).values() for r in line]),
        ):
            for name in names:
                if name and name not in self.rows:
                    raise ConfigError(
                        f"{kind}: there is no row {name!r}; {nearest(name, self.rows)}"
                    )
        shown = [("rank_by", [self.rank_by] if self.rank_by else [])]
        shown += [("columns", self.columns), ("curves", self.curves)]
        shown += [("grid", [self.grid["column"]] if self.grid else [])]
        shown += [(f"paper: {row}", figures) for row, figures in self.paper.items()]
        for where, names in shown:
            for name in names:
                _check_metric(name, where)
        if self.rank_by and self.cell == "crossval":
            raise ConfigError("rank_by: the folds of a cross-validation have no validation figures")
        if self.rank_by and not self.rank_by.startswith("validation/"):
            raise ConfigError(
                f"rank_by = {self.rank_by!r}: rows are ranked by a validation/... column; after a "
                "choice by the test split its figures would be none of unseen data"
            )
        for key, known in (("rank_mode", ("min", "max")), ("cell", ("run", "crossval"))):
            value = getattr(self, key)
            if value not in known:
                raise ConfigError(f"{key} = {value!r}; {nearest(value, known)}")


def _check_grid(grid: Mapping[str, Any]) -> None:
    keys = ("column", "corner", "across", "lines")
    if set(grid) != set(keys):
        raise ConfigError(f"grid has the keys {', '.join(grid)}; it needs {', '.join(keys)}")
    for name, rows in grid["lines"].items():
        if len(rows) != len(grid["across"]):
            raise ConfigError(
                f"grid: line {name!r} has {len(rows)} rows for {len(grid['across'])} columns"
            )


def _check_metric(column: str, where: str) -> None:
    """Refuses the name of a figure that no run ever measures."""
    split, _, name = column.rpartition("/")
    known = {s: reliability.known_names(_MEASURED.get(s)) for s in _SPLITS}
    known |= {s: frozenset({"accuracy", "nll", "ece", "confidence"}) for s in _CALIBRATED}
    known["test_temperature"] |= {"temperature"}
    recall = name.startswith("recall_") and split not in ("test_flip", *_CALIBRATED)
    if split not in known or (name not in known[split] and not recall):
        names = [f"{s}/{n}".lstrip("/") for s, ns in known.items() for n in ns]
        raise ConfigError(f"{where}: nothing is called {column!r}; {nearest(column, names)}")


def draw_rows(draws: int, ranges: Mapping[str, tuple], seed: int = 0) -> dict[str, Changes]:
    """Rows `draw000`, `draw001` ... of a random search; draw i is a function of (seed, i) alone.

    Args:
      draws: how many.
      ranges: config key -> ("uniform", low, high), ("log", low, high) or ("choice", a, b, ...).
      seed: another seed gives other draws.

    Raises:
      ConfigError: a range is impossible.
    """
    if draws < 1:
        raise ConfigError(f"random.draws = {draws}; it must be at least 1")
    return {
        f"draw{i:03d}": {key: _draw(key, span, seed, i) for key, span in ranges.items()}
        for i in range(draws)
    }


def _draw(key: str, span: tuple, seed: int, draw: int) -> Any:
    kind, *values = span
    # A number of its own for every key: a new range leaves the draws of the others as they were.
    digest = hashlib.sha256(f"{seed}/{draw}/{key}".encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    if kind == "choice" and values:
        return values[int(u * len(values))]
    if kind in ("uniform", "log") and len(values) == 2 and values[0] < values[1]:
        low, high = values
        if kind == "uniform":
            return low + u * (high - low)
        if low > 0:
            return math.exp(math.log(low) + u * math.log(high / low))
    raise ConfigError(
        f'random.ranges: {key}: {span} is none of ("uniform", low, high), ("log", low, high) with '
        'low above 0, ("choice", a, b, ...)'
    )


def load(path: str | pathlib.Path, config: ml_collections.ConfigDict) -> Sweep:
    """The sweep of a config file, for the config with the command line's changes.

    Raises:
      ConfigError: if the file describes no sweep, or one that cannot work.
    """
    module = config_lib.load_module(path)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{path} defines no get_sweep(config); see docs/sweeps.md")
    described = module.get_sweep(config)
    known = [field.name for field in dataclasses.fields(Sweep)]
    for key in described:
        if key not in known:
            raise ConfigError(f"{path}: get_sweep has no key {key!r}; {nearest(key, known)}")
    return Sweep(**described)


def apply_changes(
    config: ml_collections.ConfigDict, changes: Changes, where: str
) -> ml_collections.ConfigDict:
    """A copy of a config with changes (dotted key -> value; a section's own key replaces it).

    Raises:
      ConfigError: a key does not exist (under `model.` any may), or a value is of another type.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = config
        try:
            for section in sections:
                place = place[section]
            known = name in place or (sections[:1] == ["model"])
        except (KeyError, TypeError):
            known = False
        if not known:
            keys = config_lib.flatten(config)
            raise ConfigError(f"{where}: there is no field {key!r}; {nearest(key, keys)}")
        try:
            with place.unlocked():
                section = isinstance(value, Mapping)
                if section:
                    value = ml_collections.ConfigDict(dict(value))
                # A section replaces what was there, and None says nothing about a type.
                if name in place and (section or place[name] is None):
                    del place[name]
                place[name] = value
        except TypeError as error:
            raise ConfigError(f"{where}: {key} = {value!r}: {error}") from None
    return config


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a sweep: stages, and the cells by (row, seed)."""

    stages: list[runs.Cell]
    cells: dict[tuple[str, int], runs.Cell]


def plan(sweep: Sweep, config: ml_collections.ConfigDict, workdir: pathlib.Path) -> Plan:
    """Configs and folders of all runs, in the order in which they are run.

    Raises:
      ConfigError: a change cannot be made, or a stage is referred to that does not come before.
    """
    base = ml_collections.ConfigDict(config.to_dict())
    base.report.pictures = config.sweep.pictures
    with base.unlocked():
        del base["sweep"]
        if sweep.cell == "run" and "crossval" in base:
            del base["crossval"]
    folders: dict[str, pathlib.Path] = {}

    def make(name: str, where: str, changes: Changes, folder: pathlib.Path) -> runs.Cell:
        needs = []
        placed = {}
        for key, value in changes.items():
            if isinstance(value, str) and value.startswith(_STAGE):
                stage = value.removeprefix(_STAGE)
                if stage not in folders:
                    raise ConfigError(
                        f"{where}: {key} = {value!r}, but before it there is no such stage; "
                        + nearest(stage, folders)
                    )
                value = str(folders[stage])
                needs.append(folders[stage])
            placed[key] = value
        made = apply_changes(base, placed, where)
        config_lib.check(made)
        return runs.Cell(name, made, folder, tuple(needs))

    def as_folds(cell: runs.Cell) -> runs.Cell:
        from affect_jax.experiments import crossval

        return dataclasses.replace(cell, data=crossval.fold_config(cell.config, 0))

    stages = []
    for name, changes in sweep.stages.items():
        stage = make(f"stage {name}", f"stages: {name}", changes, workdir / "stages" / name)
        if sweep.cell == "crossval" and "crossval" in stage.config:
            with stage.config.unlocked():
                del stage.config["crossval"]
        stages.append(stage)
        folders[name] = stage.workdir
    planned = {}
    # Seed by seed: an interrupted sweep has whole pairs to compare.
    for seed in sweep.seeds:
        for row, changes in sweep.rows.items():
            both = {**sweep.shared, **changes}
            if "seed" in both:
                raise ConfigError(f"rows: {row}: seed is set by the sweep's seeds")
            folder = workdir / "cells" / row / f"seed{seed}"
            whole = {**both, "seed": seed}
            cell = make(f"{row}, seed {seed}", f"rows: {row}", whole, folder)
            planned[row, seed] = as_folds(cell) if sweep.cell == "crossval" else cell
    return Plan(stages, planned)


def run(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path, path: str | pathlib.Path
) -> int:
    """Runs what is not finished of a sweep and writes its report.

    Args:
      config: of the file, with the command line's changes.
      workdir: folder of the sweep.
      path: the sweep file.

    Returns:
      The number of cells that failed.

    Raises:
      ConfigError: the sweep cannot work, or the folder holds cells of another config; nothing has
        been trained then.
      UserError: a stage failed, cells were trained on other data or from another stage than there
        are now, or a cell fails by a mistake that all have in common (`cells.run_all`).
      train.Stopped: after SIGINT or SIGTERM.
    """
    with cache.shared():  # the data are read once
        return _run(load(path, config), config, workdir)


def _run(sweep: Sweep, config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    # Stages are referred to by their folders, which must not depend on where one stands.
    workdir = pathlib.Path(workdir).absolute()
    section = config.sweep
    seeds = _numbers(section.seeds, "sweep.seeds")
    sweep = dataclasses.replace(
        sweep, random=None, seeds=tuple(dict.fromkeys((*sweep.seeds, *seeds)))
    )
    planned = plan(sweep, config, workdir)
    chosen = {
        (row, seed): cell
        for (row, seed), cell in planned.cells.items()
        if seed in (seeds or sweep.seeds) and row in choose(sweep.rows, section.rows)
    }
    if not section.report_only:
        _check_configs(planned, chosen.values())
    if parallel.is_main_process():
        workdir.mkdir(parents=True, exist_ok=True)
    loop.set_compilation_cache(config, workdir)

    failed = 0
    try:
        if not section.report_only:
            needed = _needed_stages(planned.stages, chosen.values())
            _check_stages(planned, needed)
            runs.run_all(needed, required=True)
            failed = runs.run_all(
                list(chosen.values()),
                run=_runner(sweep),
                after=lambda: write_report(sweep, planned, chosen, workdir, pictures=False),
            )
    except BaseException:
        with runs.reporting():
            write_report(sweep, planned, chosen, workdir)
        raise
    compared = write_report(sweep, planned, chosen, workdir)
    if parallel.is_main_process():
        print(f"\n{comparison.text(compared)}\n", flush=True)
        log.info("report: %s", workdir / comparison.FOLDER)
    return failed


def _check_configs(planned: Plan, chosen: Iterable[runs.Cell]) -> None:
    """Refuses a folder of another sweep before its table is replaced and every cell fails."""
    # Of all rows, since all are in the table.
    for cell in (*_needed_stages(planned.stages, chosen), *planned.cells.values()):
        config_lib.check_workdir(cell.workdir, cell.config)


def _check_stages(planned: Plan, needed: list[runs.Cell]) -> None:
    """Refuses to train stages otherwise under cells that began from them as they were, and to go
    on where cells were trained on other data than there are now."""
    digests = {stage.workdir.name: runs.digest(stage.config) for stage in needed}
    found = [runs.stale(cell, digests) for cell in (*planned.stages, *planned.cells.values())]
    if found := list(filter(None, found)):
        more = f"\n... {len(found)} in all" * (len(found) > 5)
        raise UserError("\n".join(found[:5]) + more)


def _runner(sweep: Sweep) -> Callable[[runs.Cell], None]:
    # Where rows are chosen by validation, nobody is to see how the others did in the test.
    show_test = not sweep.rank_by
    if sweep.cell == "run":
        return functools.partial(runs.train_cell, show_test=show_test)
    from affect_jax.experiments import crossval

    def run_folds(cell: runs.Cell) -> None:
        failed = crossval.cross_validate(cell.config, cell.workdir).failed
        if failed:
            raise UserError(f"{failed} folds failed; see the folders in {cell.workdir / 'folds'}")

    return run_folds


def _needed_stages(stages: list[runs.Cell], chosen: Iterable[runs.Cell]) -> list[runs.Cell]:
    """The stages that the chosen cells, or needed later stages, refer to."""
    wanted = {folder for cell in chosen for folder in cell.needs}
    for stage in reversed(stages):
        if stage.workdir in wanted:
            wanted.update(stage.needs)
    return [stage for stage in stages if stage.workdir in wanted]


def choose(names: Iterable[str], patterns: str) -> list[str]:
    """The names that a comma-separated list of names and patterns picks; all for an empty one.

    Raises:
      ConfigError: a pattern picks none.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in filter(None, (p.strip() for p in patterns.split(","))):
        picked = [n for n in names if n == pattern or fnmatch.fnmatchcase(n, pattern)]
        if not picked:
            raise ConfigError(f"config.sweep.rows: no row {pattern!r}; {nearest(pattern, names)}")
        chosen.update(picked)
    return [n for n in names if n in chosen or not patterns.strip()]


def _numbers(text: str, key: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(text).split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"config.{key} = {text!r}; give numbers, as 0,1,2") from None


def write_report(
    sweep: Sweep,
    planned: Plan,
    chosen: Container[tuple[str, int]],
    workdir: pathlib.Path,
    *,
    pictures: bool = True,
) -> comparison.Comparison:
    """Writes table, list of cells and pictures of what is finished into `workdir/report`.

    Of the cells that are not, only the `chosen` ones (row, seed) are said to be missing.
    """
    outcomes = {place: runs.outcome(cell) for place, cell in planned.cells.items()}
    figures = {
        row: {s: outcomes[row, s].figures for s in sweep.seeds if outcomes[row, s].figures}
        for row in sweep.rows
    }
    measured = {name for by_seed in figures.values() for f in by_seed.values() for name in f}
    columns = sweep.columns or tuple(c for c in _COLUMNS if c in measured)
    problems = [
        f"{planned.cells[place].name}: {o.status}" + (f": {o.error}" if o.error else "")
        for place, o in outcomes.items()
        if o.status not in (runs.DONE, runs.OPEN)
    ]
    missing = sum(o.status == runs.OPEN for place, o in outcomes.items() if place in chosen)
    if missing:
        asked = sum(place in chosen for place in outcomes)
        problems.append(f"{missing} of {asked} cells are not finished yet")
    if measured:
        grid = [sweep.grid["column"]] if sweep.grid else []
        asked = dict.fromkeys((sweep.rank_by, *columns, *grid))
        problems += [
            f"no finished cell has measured {c!r}; {nearest(c, measured)}"
            for c in asked
            if c and c not in measured
        ]
    compared = comparison.compare(
        figures,
        columns,
        reference=sweep.reference,
        contrasts=sweep.contrasts,
        paper=sweep.paper,
        rank_by=sweep.rank_by,
        rank_mode=sweep.rank_mode,
        title=sweep.title,
        notes=sweep.notes,
        problems=problems,
        grid=sweep.grid,
        curves={
            name: {
                row: {s: _curve(planned.cells[row, s], name) for s in by_seed}
                for row, by_seed in figures.items()
                if by_seed
            }
            for name in sweep.curves
        },
    )
    if parallel.is_main_process():
        comparison.write(compared, workdir, pictures=pictures)
        comparison.write_cells(
            workdir,
            [
                {"row": row, "seed": seed, **_line(outcome, validation_only=bool(sweep.rank_by))}
                for (row, seed), outcome in outcomes.items()
            ],
        )
    return compared


def _curve(cell: runs.Cell, name: str) -> dict[int, float]:
    """Step -> a validation figure of a finished run."""
    rows = runtime.read_metrics(cell.workdir)
    return {
        r["step"]: r[name] for r in rows if r["split"] == "validation" and r.get(name) is not None
    }


def _line(outcome: runs.Outcome, *, validation_only: bool) -> dict[str, Any]:
    seconds = np.nan if not outcome.seconds else round(outcome.seconds, 1)
    return {
        "status": outcome.status,
        "seconds": seconds,
        "error": outcome.error,
        **{
            name: value
            for name, value in outcome.figures.items()
            if name.startswith("validation/") or not validation_only
        },
    }
