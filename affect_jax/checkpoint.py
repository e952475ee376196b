"""Checkpoints of a run: Orbax behind one small interface.

`workdir/checkpoints/STEP/` holds the train state and a small JSON record (seed and batch size,
which are the position in the data together with the step; class names; shapes of the model). A
checkpoint appears whole or not at all: Orbax writes into a temporary folder and renames it. The
latest N are kept, and the best by a named validation metric.
"""

import contextlib
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
from affect_jax.observe import quiet_orbax

quiet_orbax()

_SHOWN = 8

# Parts of a train state that are needed to use the model.
MODEL_PARTS = ("params", "stats", "ema")


class CheckpointMismatch(UserError):
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

    Raises:
      UserError: for a `best_mode` that is unknown or contradicts the metric, or a `keep` below 1.
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

        self.best_metric, self._score = best_metric, score
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
            if any(word in str(error) for word in ("No space left", "RESOURCE_EXHAUSTED", "quota")):
                raise UserError(
                    f"no room to write a checkpoint into {self.directory}; free some space and "
                    "run the same command again: the checkpoints before this one are whole"
                ) from error
            raise

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the best checkpoint by the validation metric, the later one of equals.

        None if no checkpoint was evaluated.

        Raises:
          UserError: if some were, and the metric is a finite number for none of them.
        """
        steps = self._manager.all_steps()
        scores = {s: self._score(m) for s in steps if (m := self._manager.metrics(s))}
        if not scores:
            return None
        best = max(scores, key=lambda step: (scores[step], step))
        if not np.isfinite(scores[best]):
            raise UserError(
                f"validation gave no finite {self.best_metric!r} for any checkpoint in "
                f"{self.directory}, so that none is the best one; there are {sorted(steps)}: use "
                'one of them or "latest", or train with a lower config.optimizer.learning_rate'
            )
        return best

    def resolve(self, name: str) -> int:
        """Turns "best", "latest" or a step number into a step that exists.

        Raises:
          UserError: if there is no such checkpoint, naming those there are.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}; train first, or check --workdir")
        if name == "latest":
            return steps[-1]
        if name == "best":
            best = self.best_step()
            return steps[-1] if best is None else best
        if name.isdigit() and int(name) in steps:
            return int(name)
        raise UserError(
            f"no checkpoint {name!r} in {self.directory}; there are {steps}; "
            'use one of them, "best" or "latest"'
        )

    def record(self, step: int) -> dict[str, Any]:
        """The JSON record saved with `step`."""
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["record"]

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
        args = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in items.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {**restored["model"], **(restored["training"] if training else {})}

    def metrics(self, step: int) -> dict[str, float] | None:
        """Validation metrics stored with a checkpoint."""
        return self._manager.metrics(step)

    def preempted(self, step: int) -> bool:
        """True when the cluster has announced that this job will be stopped."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Blocks until everything that was started has been written."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for running saves and frees the manager."""
        self._manager.close()
