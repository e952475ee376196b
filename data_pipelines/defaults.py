"""Every field of `config.data` that this package reads, with its default.

See `configs/base.py` for what each field means; a mapping that lacks a field takes it from here.
"""

from collections.abc import Mapping
from typing import Any

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
