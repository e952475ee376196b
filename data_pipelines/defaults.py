"""Every field of `config.data` that this package reads, with its default.

See `configs/base.py` for what each field means; a mapping that lacks a field takes it from here.
"""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from data_pipelines.schema import DataError

DEFAULTS: dict[str, Any] = {
    "source": "manifest",
    "manifest": "",
    "folder": "",
    "dataset": "",
    "data_dir": "",
    "synthetic": {},
    "classes": "",
    "clean": False,
    "clean_eval": False,
    "exclude": "",
    "exclude_train": False,
    "validation_fraction": 0.15,
    "protocol": "split",
    "folds": 4,
    "test_fold": 1,
    "split_seed": 0,
    "image_size": 256,
    "crop": "auto",
    "crop_scale": 0.0,
    "augment": "emofan",
    "augment_overrides": {},
    "max_pixels": 50_000_000,
    "sampling": "shuffle",
    "refine": {"per_group": 512, "per_class": 500},
    "num_workers": 0,
    "num_threads": 0,
    "prefetch": 0,
    "cache": "none",
    "cache_megabytes": 2048,
    "max_bad_fraction": 0.1,
    "seed": 0,
}


def setting(config: Mapping[str, Any], name: str) -> Any:
    """Value of `config[name]`, or its default where it is absent or None."""
    value = config.get(name) if name in config else None
    return DEFAULTS[name] if value is None else value


# Field -> lowest and highest value, and whether it is a whole number.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "max_bad_fraction": (0, 1, False),
    "test_fold": (0, math.inf, True),
    "split_seed": (0, math.inf, True),
    "image_size": (1, math.inf, True),
    "crop_scale": (0, math.inf, False),
    "max_pixels": (1, math.inf, True),
    "num_workers": (0, math.inf, True),
    "num_threads": (0, math.inf, True),
    "prefetch": (0, math.inf, True),
    "cache_megabytes": (0, math.inf, False),
    "seed": (0, math.inf, True),
}


def check(config: Mapping[str, Any]) -> None:
    """Checks the numbers of `config.data`.

    Raises:
      DataError: naming the field, its value and what is allowed.
    """
    for name, (low, high, whole) in _RANGES.items():
        value = setting(config, name)
        kind = "a whole number" if whole else "a number"
        limits = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        # A comparison with NaN is False.
        if not _is_number(value, whole) or not low <= value <= high or value == math.inf:
            raise DataError(f"data.{name} = {value}; it must be {kind} {limits}")
    fraction = setting(config, "validation_fraction")
    if not _is_number(fraction) or not 0 <= fraction < 1:
        raise DataError(
            f"data.validation_fraction = {fraction}; it must be a number from 0 to less than 1, "
            "the fraction of the training persons held out"
        )
    protocol, folds = setting(config, "protocol"), setting(config, "folds")
    if protocol != "leave_one_out" and (not _is_number(folds, True) or folds < 2):
        raise DataError(f"data.folds = {folds}; it must be a whole number of at least 2")
    if protocol == "split" and setting(config, "test_fold") >= folds:
        raise DataError(
            f"data.test_fold = {setting(config, 'test_fold')}; the folds of data.folds = {folds} "
            f"are 0 to {folds - 1}"
        )
    for name, value in dict(setting(config, "refine")).items():
        if not _is_number(value, True) or value < 1:
            raise DataError(
                f"data.refine.{name} = {value}; it must be a whole number of at least 1"
            )


def _is_number(value: Any, whole: bool = False) -> bool:
    kind = numbers.Integral if whole else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool)
