"""The description of a sweep, as `get_sweep` of a sweep file returns it; see docs/sweeps.md."""

import dataclasses
import hashlib
import itertools
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.evaluation.evaluator import FLIPPED, SMOOTHED
from affect_jax.metrics import reliability
from affect_jax.report.comparison import Grid, Layout

_FOLDER_NAME = re.compile(r"[A-Za-z0-9+\-._ ()]+")
_CALIBRATED = ("test_temperature", "test_mirror")
_SPLITS = ("", "validation", "test_flip", "test_video", *_CALIBRATED, "fold_mean", "fold_sd")
# Splits whose predictions are averaged, which is done for these label fields only.
_AVERAGED = {"test_flip": FLIPPED, "test_video": SMOOTHED}

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Layout):
    """A sweep: its runs, and the layout of their table. Fields are the keys of docs/sweeps.md.

    Raises:
      ConfigError: a field contradicts another, or names something that does not exist.
    """

    rows: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    shared: Changes = dataclasses.field(default_factory=dict)
    stages: Mapping[str, Changes] = dataclasses.field(default_factory=dict)
    cell: str = "run"
    curves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ConfigError("the sweep has no rows")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds = {self.seeds}; give at least one, all distinct")
        for name in (*self.rows, *self.stages):
            if not _FOLDER_NAME.fullmatch(name) or name in (".", ".."):
                raise ConfigError(
                    f"{name!r} cannot be the name of a row: it names a folder; use letters, "
                    "digits and +-._ ()"
                )
        if self.grid is not None:
            _check_grid(self.grid)
        grid = self.grid or Grid(column="", corner="", across=(), lines={})
        for key, value, known in (
            ("rank_mode", self.rank_mode, ("min", "max")),
            ("cell", self.cell, ("run", "crossval")),
        ):
            if value not in known:
                raise ConfigError(f"{key} = {value!r}; {nearest(value, known)}")
        for key, names in (
            ("reference", [self.reference]),
            ("contrasts", itertools.chain(*self.contrasts)),
            ("paper", self.paper),
            ("grid", itertools.chain(*grid["lines"].values())),
        ):
            for name in filter(None, names):
                if name not in self.rows:
                    raise ConfigError(
                        f"{key}: there is no row {name!r}; {nearest(name, self.rows)}"
                    )
        _check_metrics("columns", self.columns)
        _check_metrics("curves", self.curves)
        _check_metrics("grid", [grid["column"]])
        _check_metrics("rank_by", [self.rank_by])
        for row, figures in self.paper.items():
            _check_metrics(f"paper: {row}", figures)
        if self.cell == "crossval" and (self.curves or self.rank_by):
            key = "curves" if self.curves else "rank_by"
            raise ConfigError(f"{key}: a cross-validation has no validation metrics of its own")
        if self.rank_by and not self.rank_by.startswith("validation/"):
            raise ConfigError(
                f"rank_by = {self.rank_by!r}: rows are ranked by a validation/... column; ranked "
                "by the test split, its figures would no longer be those of unseen data"
            )
        if self.rank_by and self.grid and not grid["column"].startswith("validation/"):
            raise ConfigError("grid: ranked rows show validation/... columns only")


def _check_grid(grid: Mapping[str, Any]) -> None:
    keys = ("column", "corner", "across", "lines")
    if set(grid) != set(keys):
        raise ConfigError(f"grid has the keys {', '.join(grid)}; it needs {', '.join(keys)}")
    for name, rows in grid["lines"].items():
        if len(rows) != len(grid["across"]):
            raise ConfigError(
                f"grid: line {name!r} has {len(rows)} rows for {len(grid['across'])} columns"
            )


def _check_metrics(key: str, columns: Iterable[str]) -> None:
    """Refuse metrics that no run measures; `key` is the field that names them."""
    known = {split: reliability.known_names(_AVERAGED.get(split)) for split in _SPLITS}
    known |= {split: frozenset({"accuracy", "nll", "ece", "confidence"}) for split in _CALIBRATED}
    known["test_temperature"] |= {"temperature"}
    for column in filter(None, columns):
        split, _, name = column.rpartition("/")
        has_recalls = split in known and split not in ("test_flip", *_CALIBRATED)
        is_recall = has_recalls and name.startswith("recall_")
        if name not in known.get(split, ()) and not is_recall:
            names = [f"{s}/{n}".lstrip("/") for s, ns in known.items() for n in ns]
            raise ConfigError(f"{key}: no metric is called {column!r}; {nearest(column, names)}")


def load(path: str | pathlib.Path, config: ml_collections.ConfigDict) -> Sweep:
    """Read the sweep of a config file, for its config with the command line's changes.

    Raises:
      ConfigError: the file describes no sweep, or one that cannot work.
    """
    module = config_lib.load_module(path)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{path} defines no get_sweep(config); see docs/sweeps.md")
    described = dict(module.get_sweep(config))
    known = ["random", *(field.name for field in dataclasses.fields(Sweep))]
    for key in described:
        if key not in known:
            raise ConfigError(f"{path}: get_sweep has no key {key!r}; {nearest(key, known)}")
    if random := described.pop("random", None):
        described["rows"] = {**described.get("rows", {}), **draw_rows(**random)}
    return Sweep(**described)


def draw_rows(draws: int, ranges: Mapping[str, tuple], seed: int = 0) -> dict[str, Changes]:
    """Draw the rows `draw000`, `draw001` ... of a random search; draw i depends on (seed, i) only.

    Args:
      draws: how many.
      ranges: config key -> ("uniform", low, high), ("log", low, high) or ("choice", a, b, ...).
      seed: of the draws.

    Raises:
      ConfigError: a range is impossible, or there are no draws.
    """
    if draws < 1:
        raise ConfigError(f"random.draws = {draws}; it must be at least 1")
    return {
        f"draw{i:03d}": {key: _draw(key, span, seed, i) for key, span in ranges.items()}
        for i in range(draws)
    }


def _draw(key: str, span: tuple, seed: int, draw: int) -> Any:
    kind, *values = span
    # Every key has its own number: a new range does not change the draws of the others.
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
        f'random.ranges: {key}: {span}; use ("uniform", low, high), ("log", low, high) with low '
        'above 0, or ("choice", a, b, ...)'
    )
