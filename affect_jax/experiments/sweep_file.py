"""The description of a sweep, as `get_sweep` of a sweep file returns it."""

import dataclasses
import functools
import hashlib
import itertools
import math
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import ml_collections

from affect_jax import config as config_lib
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.evaluation.evaluator import FLIPPED, SMOOTHED
from affect_jax.metrics.names import known_names
from affect_jax.models.relations_settings import CONTEXTS
from affect_jax.report.comparison_table import Layout
from affect_jax.runtime.tables import SD

_FOLDER_NAME = re.compile(r"[A-Za-z0-9+\-._ ()]+")
_CALIBRATED = ("test_temperature", "test_mirror")
_CONTEXTS = tuple(f"test_{context}" for context in CONTEXTS)
_SPLITS_WITH_RECALLS = ("", "validation", "test_video", "fold_mean", "fold_sd", *_CONTEXTS)
_SPLITS = (*_SPLITS_WITH_RECALLS, "test_flip", *_CALIBRATED)
# Splits whose predictions are averaged, which is done for these label fields only.
_AVERAGED = {"test_flip": FLIPPED, "test_video": SMOOTHED}

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Layout):
    """A sweep: its runs and the layout of their table; docs/sweeps.md has the fields.

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
            raise ConfigError("the sweep has no rows; add `rows`, or `random`, to get_sweep")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds = {self.seeds}; give at least one, all distinct")
        for name in (*self.rows, *self.stages):
            if not _FOLDER_NAME.fullmatch(name) or name in (".", ".."):
                raise ConfigError(
                    f"{name!r} cannot be the name of a row: it names a folder; use letters, "
                    "digits and +-._ ()"
                )
        _check_known("rank_mode", [self.rank_mode], ("min", "max"), "value")
        _check_known("cell", [self.cell], ("run", "crossval"), "value")
        shown, rows_shown = ("", ()) if self.grid is None else _check_grid(self.grid)
        for key, names in (
            ("reference", [self.reference]),
            ("contrasts", itertools.chain(*self.contrasts)),
            ("paper", self.paper),
            ("grid", rows_shown),
        ):
            _check_known(key, names, self.rows, "row")
        for key, metrics in (
            ("rank_by", [self.rank_by]),
            ("columns", self.columns),
            ("curves", self.curves),
            ("grid", [shown]),
            *((f"paper: {row}", figures) for row, figures in self.paper.items()),
        ):
            known = _known_metrics()
            others = (m for m in metrics if not _is_recall(m) and _of_any_bank(m) not in known)
            _check_known(key, others, known, "metric")
        if self.cell == "crossval" and (self.curves or self.rank_by):
            key = "curves" if self.curves else "rank_by"
            raise ConfigError(f"{key}: a cross-validation has no validation metrics; remove {key}")
        if self.rank_by and not self.rank_by.startswith("validation/"):
            raise ConfigError(
                f"rank_by = {self.rank_by!r}: use a validation/... column. Ranking by the test "
                "split would make the test scores of the first row too good"
            )
        if self.rank_by and shown and not shown.startswith("validation/"):
            raise ConfigError("grid: use a validation/... column, because rank_by is set")


def _check_known(key: str, names: Iterable[str], known: Collection[str], kind: str) -> None:
    for name in names:
        if name and name not in known:
            raise ConfigError(f"{key}: there is no {kind} {name!r}; {nearest(name, known)}")


def _check_grid(grid: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the metric of a grid and the rows it names."""
    keys = ("column", "corner", "across", "lines")
    if set(grid) != set(keys):
        raise ConfigError(f"grid has the keys {', '.join(grid)}; it needs {', '.join(keys)}")
    for name, rows in grid["lines"].items():
        if len(rows) != len(grid["across"]):
            raise ConfigError(
                f"grid: line {name!r} has {len(rows)} rows for {len(grid['across'])} columns"
            )
    return grid["column"], list(itertools.chain(*grid["lines"].values()))


@functools.cache
def _known_metrics() -> frozenset[str]:
    """Return the names of all columns that a run can have, except recalls of classes."""
    known = {split: known_names(_AVERAGED.get(split)) for split in _SPLITS}
    known |= {split: frozenset({"accuracy", "nll", "ece", "confidence"}) for split in _CALIBRATED}
    known["test_temperature"] |= {"temperature"}
    known["test_batch"] |= {f"{name}{SD}" for name in known["test_batch"]}
    return frozenset(f"{split}/{n}".lstrip("/") for split, names in known.items() for n in names)


def _of_any_bank(column: str) -> str:
    """Return a column of a bank of another size as the one of the model's own."""
    return re.sub(r"^test_bank\d+/", "test_bank/", column)


def _is_recall(column: str) -> bool:
    split, _, name = _of_any_bank(column).rpartition("/")
    return name.startswith("recall_") and split in _SPLITS_WITH_RECALLS


def load(path: str | pathlib.Path, config: ml_collections.ConfigDict) -> Sweep:
    """Read the sweep of a config file, for a config with its changes.

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
    """Draw the rows of a random search; draw i depends on (seed, i) only.

    Args:
      draws: how many.
      ranges: config key -> ("uniform", low, high), ("log", low, high) or ("choice", a, b, ...).
      seed: of the draws.

    Raises:
      ConfigError: a range is impossible, or `draws` is 0.
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
