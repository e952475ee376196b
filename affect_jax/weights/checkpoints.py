"""Checkpoints of a run: Orbax behind one small interface.

`workdir/checkpoints/STEP/` holds the train state and a small JSON record (seed and batch size,
which are the position in the data together with the step; class names; shapes of the model). A
checkpoint appears whole or not at all: Orbax writes into a temporary folder and renames it. The
latest N are kept, and the best by a named validation metric. `checkpoint_files` tells a damaged
one.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from affect_jax.config import selection_mode
from affect_jax.errors import UserError
from affect_jax.models.state import describe_arrays, first_differences
from affect_jax.runtime import parallel, quiet_orbax
from affect_jax.weights import checkpoint_files as files
from data_pipelines import disk

quiet_orbax()

log = logging.getLogger(__name__)

_SHOWN = 8

# Parts of a train state that are needed to use the model.
MODEL_PARTS = ("params", "stats", "ema")


class CheckpointMismatch(UserError):
    """The checkpoint belongs to another architecture than the one being restored."""


def _split(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    model = {k: v for k, v in state.items() if k in MODEL_PARTS}
    return model, {k: v for k, v in state.items() if k not in MODEL_PARTS}


def _one_copy(tree: Any) -> Any:
    """Replicated arrays as their copy on one device: otherwise Orbax lets every device write a
    part, cut out by a program that is compiled for each shape and device.

    Processes that save together need the global arrays.
    """
    if jax.process_count() > 1:
        return tree

    def one(x: Any) -> Any:
        replicated = isinstance(x, jax.Array) and x.is_fully_replicated
        return x.addressable_data(0) if replicated else x

    return jax.tree.map(one, tree)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


class Checkpointer:
    """Saves and restores the state of one run.

    Args:
      workdir: the run's folder; checkpoints go to `workdir/checkpoints`.
      keep: how many of the latest checkpoints to keep.
      best_metric: validation metric whose best checkpoint is kept as well.
      best_mode: "max", "min" or "auto", see `config.selection_mode`.
      read_only: never creates, deletes or cleans anything (evaluation).

    Unless `read_only`, damaged checkpoints are first moved to `workdir/damaged_checkpoints`.

    Raises:
      UserError: for a `best_mode` that is unknown or contradicts the metric, a `keep` below 1, or
        if no checkpoint is whole.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        keep: int = 2,
        best_metric: str = "loss",
        best_mode: str = "auto",
        read_only: bool = False,
    ):
        if keep < 1:
            raise UserError(f"config.checkpoint.keep = {keep}; at least 1 is needed to resume")
        sign = 1.0 if selection_mode(best_metric, best_mode) == "max" else -1.0

        def score(metrics: dict[str, float]) -> float:
            value = metrics.get(best_metric)
            return -np.inf if value is None or not np.isfinite(value) else sign * value

        self.best_metric = best_metric
        self.directory = pathlib.Path(workdir).absolute() / files.CHECKPOINTS_FOLDER
        self._score, self._manager = score, None
        if read_only:
            return  # nothing is moved, for a run may be writing
        parallel.from_main(lambda: files.set_aside_damaged(self.directory))
        self._manager = ocp.CheckpointManager(
            epath.Path(self.directory),
            options=ocp.CheckpointManagerOptions(
                best_fn=score,
                best_mode="max",
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [
                        preservation_policy.LatestN(keep),
                        preservation_policy.BestN(
                            get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def _seal(self) -> None:
        if parallel.is_main_process():
            files.seal(self.directory)

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        record: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Starts saving `state` under `step`; returns before the files are complete.

        Args:
          step: number of finished training steps.
          state: nested dict of arrays; what is needed to use the model (`params`, `stats`, `ema`)
            is kept apart from what only training needs.
          record: JSON-able facts, such as class names.
          metrics: validation metrics at this step, None where none were computed.
        """
        if step in self._manager.all_steps():
            return
        model, training = _split(_one_copy(state))
        with self._explained():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    training=ocp.args.StandardSave(training),
                    record=ocp.args.JsonSave({**record, "arrays": describe_arrays(model)}),
                ),
                metrics=metrics or {},  # with None, Orbax warns at every save
                force=True,
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not disk.is_full(error):
                raise
            if parallel.is_main_process():
                files.remove_partial(self.directory)
            raise UserError(
                f"no room to write a checkpoint into {self.directory}; free some space and "
                "run the same command again: the checkpoints before this one are whole"
            ) from error

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return max(files.steps(self.directory), default=None)

    def best_step(self) -> int | None:
        """Returns the best step by the validation metric, or None if none was evaluated.

        Raises:
          UserError: if some were, and the metric is a finite number for none of them.
        """
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def _was_validated(self, step: int) -> bool:
        with contextlib.suppress(OSError, ValueError):  # damaged
            return bool(files.read_metrics(self.directory, step))
        return False

    def _ranked(self) -> list[int]:
        """Steps with a finite validation metric, the best first; of equals the newer one."""
        scores = []
        for step in files.steps(self.directory):
            with contextlib.suppress(OSError, ValueError):  # damaged
                if metrics := files.read_metrics(self.directory, step):
                    scores.append((self._score(metrics), step))
        finite = [(score, step) for score, step in scores if np.isfinite(score)]
        if scores and not finite:
            raise UserError(
                f"validation gave no finite {self.best_metric!r} for any checkpoint in "
                f"{self.directory}, so that none is the best one; there are "
                f"{files.steps(self.directory)}: use one of them or "
                '"latest", or train with a lower config.optimizer.learning_rate'
            )
        return [step for _, step in sorted(finite, reverse=True)]

    def resolve(self, name: str) -> int:
        """Turns "best", "latest" or a step number into the step of a whole checkpoint.

        For "best" and "latest", checkpoints that are damaged are passed over, with a warning.

        Raises:
          UserError: if there is no such checkpoint, naming those there are, or it is damaged.
        """
        if self._manager is not None:
            return parallel.from_main(lambda: self._resolve(name))
        return self._resolve(name)  # not all processes need be reading

    def _resolve(self, name: str) -> int:
        steps = files.steps(self.directory)
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}; train first, or check --workdir")
        newest_first = steps[::-1]
        if name == "latest":
            wanted = newest_first
        elif name == "best":
            ranked = self._ranked()
            # Where all of those are damaged, one that was not validated; never one that diverged.
            rest = [s for s in newest_first if not self._was_validated(s)]
            wanted = list(dict.fromkeys([*ranked, *rest]))
        elif name.isdigit() and int(name) in steps:
            wanted = [int(name)]
        else:
            raise UserError(
                f"no checkpoint {name!r} in {self.directory}; there are {steps}; "
                'use one of them, "best" or "latest"'
            )
        faults: dict[int, str] = {}
        for step in wanted:
            fault = files.damage(self.directory, step, files.MODEL_ITEMS)
            if not fault:
                if faults:
                    log.warning(
                        "checkpoint %d is damaged: %s; using step %d, the %s whole one",
                        *next(iter(faults.items())),
                        step,
                        "newest" if name == "latest" else "next best",
                    )
                return step
            if files.steps(self.directory) != steps:
                return self._resolve(name)  # a run that is going on may have just deleted it
            faults[step] = fault
        if len(wanted) < len(steps):
            raise UserError(
                f"checkpoint {name} in {self.directory} is damaged: {faults[wanted[0]]}; choose "
                f'another of {steps}, "best" or "latest"'
            )
        raise UserError(files.none_whole(self.directory, faults))

    def record(self, step: int) -> dict[str, Any]:
        """Returns the JSON record saved with `step`."""
        return files.read_record(self.directory, step)

    def restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Restores `step` in the structure and placement of `like`.

        A `like` without the training part (step, optimizer) restores the model alone.

        Raises:
          CheckpointMismatch: if arrays of the model differ in name or shape.
        """
        model, training = _split(like)
        lines = first_differences(self.record(step)["arrays"], describe_arrays(model))
        if lines:
            more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
            raise CheckpointMismatch(
                f"checkpoint {step} in {self.directory} holds another architecture:\n  "
                + "\n  ".join(lines[:_SHOWN])
                + more
                + "\nUse the config it was trained with (config.json beside it) or a new --workdir."
            )
        items = {"model": model, **({"training": training} if training else {})}
        restored: dict[str, Any] = {}
        with ocp.StandardCheckpointer() as reader:
            for name, tree in items.items():
                restored |= reader.restore(self.directory / str(step) / name, _abstract(tree))
        return restored

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the validation metrics stored with a checkpoint, empty if there are none."""
        return files.read_metrics(self.directory, step)

    def preempted(self, step: int) -> bool:
        """True when the cluster has announced that this job will be stopped."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Blocks until everything that was started has been written."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for running saves and frees the manager."""
        if self._manager is not None:
            with self._explained():
                self._manager.close()
