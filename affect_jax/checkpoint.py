"""Checkpoints of a run: Orbax behind one small interface.

`workdir/checkpoints/STEP/` holds the train state and a small JSON record (data position, shapes
of the model). A checkpoint appears whole or not at all: Orbax writes into a temporary folder and
renames it. The latest N are kept, and the best by a named validation metric.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

log = logging.getLogger(__name__)

_SHOWN = 8


class CheckpointMismatch(ValueError):
    """The checkpoint belongs to another architecture than the one being restored."""


def describe_arrays(tree: Any) -> dict[str, list[int]]:
    """Path -> shape of every array of a nested dict, for comparison across runs."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(np.shape(leaf))
        for path, leaf in leaves
    }


def first_differences(saved: dict[str, list[int]], wanted: dict[str, list[int]]) -> list[str]:
    """Lines naming the entries in which two descriptions differ, shortest useful list first."""
    lines = []
    for name in sorted(saved.keys() | wanted.keys()):
        here, there = wanted.get(name), saved.get(name)
        if here is None:
            lines.append(f"{name}: shape {tuple(there)} only in the checkpoint")
        elif there is None:
            lines.append(f"{name}: shape {tuple(here)} only in the configured model")
        elif list(here) != list(there):
            lines.append(f"{name}: checkpoint {tuple(there)}, configured model {tuple(here)}")
    return lines


class Checkpointer:
    """Saves and restores the state of one run.

    Args:
      workdir: the run's folder; checkpoints go to `workdir/checkpoints`.
      keep: how many of the latest checkpoints to keep.
      best_metric: validation metric whose best checkpoint is kept as well.
      best_mode: "max" or "min".
      read_only: never creates, deletes or cleans anything (evaluation).

    Raises:
      ValueError: for an unknown `best_mode` or a `keep` below 1.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        keep: int = 2,
        best_metric: str = "loss",
        best_mode: str = "min",
        read_only: bool = False,
    ):
        if best_mode not in ("max", "min"):
            raise ValueError(f'config.checkpoint.best_mode = {best_mode!r}; use "max" or "min"')
        if keep < 1:
            raise ValueError(f"config.checkpoint.keep = {keep}; at least 1 is needed to resume")
        sign = 1.0 if best_mode == "max" else -1.0

        def score(metrics: dict[str, float]) -> float:
            value = metrics.get(best_metric)
            return -np.inf if value is None or not np.isfinite(value) else sign * value

        self.best_metric = best_metric
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            epath.Path(self.directory),
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
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
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=not read_only,
            ),
        )

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        data: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Starts saving `state` under `step`; returns before the files are complete.

        Args:
          step: number of finished training steps.
          state: nested dict of arrays with at least `params` and `stats`.
          data: JSON-able position of the input pipeline.
          metrics: validation metrics at this step, None where none were computed.
        """
        if step in self._manager.all_steps():
            return
        record = {
            "step": step,
            "data": data,
            "arrays": describe_arrays({"params": state["params"], "stats": state["stats"]}),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
            ),
            metrics=metrics,
            force=True,
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the best checkpoint by the validation metric, or None if none was evaluated."""
        scored = [s for s in self._manager.all_steps() if self._manager.metrics(s)]
        return self._manager.best_step() if scored else None

    def resolve(self, name: str) -> int:
        """Turns "best", "latest" or a step number into a step that exists.

        Raises:
          ValueError: if there is no such checkpoint, naming those there are.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise ValueError(f"no checkpoint in {self.directory}; train first, or check --workdir")
        if name == "latest":
            return steps[-1]
        if name == "best":
            best = self.best_step()
            return steps[-1] if best is None else best
        if name.isdigit() and int(name) in steps:
            return int(name)
        raise ValueError(
            f"no checkpoint {name!r} in {self.directory}; there are {steps}; "
            'use one of them, "best" or "latest"'
        )

    def restore(self, step: int, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restores (state, data position) of `step` in the structure and placement of `like`.

        Raises:
          CheckpointMismatch: if model parameters or statistics differ in name or shape.
        """
        record = self._manager.restore(
            step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
        )["record"]
        wanted = describe_arrays({"params": like["params"], "stats": like["stats"]})
        lines = first_differences(record["arrays"], wanted)
        if lines:
            more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
            raise CheckpointMismatch(
                f"checkpoint {step} in {self.directory} holds another architecture:\n  "
                + "\n  ".join(lines[:_SHOWN])
                + more
                + "\nUse the config it was trained with (config.json beside it) or a new --workdir."
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored["state"], record["data"]

    def metrics(self, step: int) -> dict[str, float] | None:
        """Validation metrics stored with a checkpoint."""
        return self._manager.metrics(step)

    def preempted(self, step: int) -> bool:
        """True when the cluster has announced that this job will be stopped."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Blocks until everything that was started has been written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for running saves and frees the manager."""
        self._manager.close()
