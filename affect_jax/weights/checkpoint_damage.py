"""Damage to the files of a run's checkpoints: how it is found, and what to do.

`checkpoints/STEP/` has a folder for each of `ITEMS`, and a `checksums.json` over their files that
is written before the checkpoint appears. Orbax itself notices little: a byte that changed inside a
compressed array comes back as other numbers.
"""

import json
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from affect_jax.errors import UserError
from affect_jax.weights import checksums

log = logging.getLogger(__name__)

DAMAGED_FOLDER = "damaged_checkpoints"
# What a model needs; `training` is only for resuming a run.
MODEL_ITEMS = ("model", "record", "metrics")
ITEMS = (*MODEL_ITEMS, "training")

_ARRAYS = ("model", "training")
_METADATA = "_CHECKPOINT_METADATA"
_RECORD = "record/metadata"
_METRICS = "metrics/metrics"
_TEMPORARY = "[0-9]*.orbax-checkpoint-tmp*"


def steps(directory: pathlib.Path) -> list[int]:
    """Return the steps of the completely written checkpoints, in order."""
    if not directory.is_dir():
        return []
    return sorted(int(e.name) for e in os.scandir(directory) if e.name.isdigit() and e.is_dir())


def read_record(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Return the facts saved with a checkpoint; OSError or ValueError if damaged."""
    return _read_json(directory / str(step) / _RECORD)


def read_metrics(directory: pathlib.Path, step: int) -> dict[str, float]:
    """Return a checkpoint's validation metrics, empty if it was not evaluated.

    Raises:
      OSError, ValueError: the checkpoint is damaged.
    """
    return _read_json(directory / str(step) / _METRICS)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds {type(content).__name__} instead of an object")
    return content


def seal(directory: pathlib.Path) -> None:
    """Write the checksums of a checkpoint that only has to be renamed.

    Errors of writing (OSError) are not caught.
    """
    for folder in directory.glob(_TEMPORARY):
        checksums.write(folder, [item for item in ITEMS if (folder / item).is_dir()])


def remove_partial(directory: pathlib.Path) -> None:
    """Remove what a failed save has left, so that the disk has room for other files."""
    for folder in directory.glob(_TEMPORARY):
        shutil.rmtree(folder, ignore_errors=True)


def outer_damage(directory: pathlib.Path, step: int, items: Sequence[str] = ITEMS) -> str:
    """Find what is missing or cannot be parsed, without reading arrays.

    Args:
      directory: of the checkpoints.
      step: of the checkpoint.
      items: which of `ITEMS` matter.

    Returns:
      The first fault in a few words; "" if there is none.
    """
    folder = directory / str(step)
    if missing := [item for item in items if not (folder / item).is_dir()]:
        return f"{missing[0]} is missing"
    texts = [_METADATA, *(t for t in (_RECORD, _METRICS) if t.split("/")[0] in items)]
    texts += [f"{item}/_METADATA" for item in _ARRAYS if item in items]
    for name in texts:
        try:
            _read_json(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} cannot be read ({error})"
    return ""


def damage(directory: pathlib.Path, step: int, items: Sequence[str] = ITEMS) -> str:
    """Find the first fault of a checkpoint, reading all of it; as `outer_damage`."""
    if fault := outer_damage(directory, step, items):
        return fault
    faults = checksums.check(directory / str(step), items)
    return faults[0] if faults else ""


def set_aside_damaged(directory: pathlib.Path) -> int | None:
    """Move damaged checkpoints to `damaged_checkpoints`, and log each.

    That folder lies next to `directory`.

    Checkpoints are read completely, from the newest to the first intact one. Older ones may never
    be needed, so only the files that Orbax reads when it opens the folder are checked.

    Returns:
      The step of the newest intact checkpoint; None without checkpoints.

    Raises:
      UserError: all checkpoints are damaged; nothing is moved then.
      OSError: a folder cannot be moved.
    """
    faults: dict[int, str] = {}
    newest = None
    for step in reversed(steps(directory)):
        fault = damage(directory, step) if newest is None else outer_damage(directory, step)
        if fault:
            faults[step] = fault
        elif newest is None:
            newest = step
    if newest is None:
        if faults:
            raise UserError(none_whole(directory, faults))
        return None
    for step, fault in faults.items():
        place = _free_name(directory.parent / DAMAGED_FOLDER / str(step))
        place.parent.mkdir(exist_ok=True)
        (directory / str(step)).rename(place)
        log.warning(
            "checkpoint %d is damaged: %s; moved to %s, which you may remove; the newest intact "
            "checkpoint is step %d",
            step,
            fault,
            place,
            newest,
        )
    return newest


def none_whole(directory: pathlib.Path, faults: Mapping[int, str]) -> str:
    """Return the error message for a run whose checkpoints are all damaged.

    `faults` maps steps to faults.
    """
    lines = "; ".join(f"step {step}: {fault}" for step, fault in faults.items())
    return (
        f"no checkpoint in {directory} is intact ({lines}); restore the folder from a copy, or "
        "train again with a new --workdir"
    )


def _free_name(path: pathlib.Path) -> pathlib.Path:
    free, number = path, 1
    while free.exists():
        free, number = path.with_name(f"{path.name}.{number}"), number + 1
    return free
