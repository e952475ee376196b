"""Checkpoints of a run: Orbax behind one small interface.

`workdir/checkpoints/STEP/` holds the train state and a small JSON record (seed and batch size,
which with the step are the position in the data; class names; shapes of the model). A checkpoint is
complete or absent: Orbax writes into a temporary folder and renames it. The latest N are kept, and
the best by a validation metric. `checkpoint_damage` finds damaged ones.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from affect_jax.errors import UserError
from affect_jax.runtime import CHECKPOINTS_FOLDER, parallel, quiet_orbax
from affect_jax.weights import checkpoint_damage
from affect_jax.weights.best_checkpoint import Criterion
from affect_jax.weights.differences import Differences, shapes_of
from data_pipelines import disk

log = logging.getLogger(__name__)

# Parts of a train state that are needed to use the model.
MODEL_PARTS = ("params", "stats", "ema")


class CheckpointMismatch(UserError):
    """A checkpoint of another architecture than the one being restored."""


class Checkpointer:
    """Saves and restores the state of one run.

    Unless `read_only`, damaged checkpoints are first moved to `workdir/damaged_checkpoints`.

    Args:
      workdir: the run's folder; checkpoints go to `workdir/checkpoints`.
      keep: how many of the latest checkpoints to keep.
      best_metric: validation metric whose best checkpoint is kept as well.
      best_mode: "max", "min" or "auto", see `config.selection_mode`.
      read_only: never create, delete or clean anything (evaluation).

    Raises:
      UserError: `best_mode` is unknown or contradicts the metric, `keep` is below 1, or all
        checkpoints are damaged.
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
        quiet_orbax()
        self.criterion = Criterion.of(best_metric, best_mode)
        self.directory = pathlib.Path(workdir).absolute() / CHECKPOINTS_FOLDER
        # A reader has no manager and moves no files, because a run may be writing.
        self._manager = None if read_only else self._open(keep)

    @property
    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is None:
            raise RuntimeError("this Checkpointer is read-only")
        return self._manager

    def _open(self, keep: int) -> ocp.CheckpointManager:
        parallel.from_main(lambda: checkpoint_damage.set_aside_damaged(self.directory))
        kept = [
            preservation_policy.LatestN(keep),
            preservation_policy.BestN(
                get_metric_fn=self.criterion.score, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=self.criterion.score,
            best_mode="max",
            preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        return ocp.CheckpointManager(epath.Path(self.directory), options=options)

    def _seal(self) -> None:
        if parallel.is_main_process():
            checkpoint_damage.seal(self.directory)

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        record: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Start saving `state` under `step`; return before the files are complete.

        Args:
          step: number of finished training steps.
          state: nested dict of arrays; what is needed to use the model (`params`, `stats`, `ema`)
            is kept apart from what only training needs.
          record: JSON-able facts, such as class names.
          metrics: validation metrics at this step, None where none were computed.
        """
        if step in self._writer.all_steps():
            return
        model, training = _split(_one_copy(state))
        with self._explained():
            self._writer.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    training=ocp.args.StandardSave(training),
                    record=ocp.args.JsonSave({**record, "arrays": shapes_of(model)}),
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
                checkpoint_damage.remove_partial(self.directory)
            raise UserError(
                f"no room to write a checkpoint into {self.directory}; free some space and "
                "run the same command again; it resumes from the last checkpoint"
            ) from error

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None."""
        return max(checkpoint_damage.steps(self.directory), default=None)

    def resolve(self, name: str) -> int:
        """Convert "best", "latest" or a step to the step of an intact checkpoint.

        For "best" and "latest", damaged checkpoints are skipped with a warning.

        Raises:
          UserError: the checkpoint does not exist (the message lists the steps) or is damaged.
        """
        if self._manager is not None:
            return parallel.from_main(lambda: self._resolve(name))
        return self._resolve(name)  # readers need not be all processes

    def _resolve(self, name: str) -> int:
        steps = checkpoint_damage.steps(self.directory)
        wanted = self._candidates(name, steps)
        faults: dict[int, str] = {}
        for step in wanted:
            fault = checkpoint_damage.damage(self.directory, step, checkpoint_damage.MODEL_ITEMS)
            if not fault:
                if faults:
                    log.warning(
                        "checkpoint %d is damaged: %s; using step %d, the %s intact one",
                        *next(iter(faults.items())),
                        step,
                        "newest" if name == "latest" else "next best",
                    )
                return step
            if checkpoint_damage.steps(self.directory) != steps:
                return self._resolve(name)  # a run that is training may have just deleted it
            faults[step] = fault
        if len(wanted) < len(steps):
            raise UserError(
                f"checkpoint {name} in {self.directory} is damaged: {faults[wanted[0]]}; choose "
                f'another of {steps}, "best" or "latest"'
            )
        raise UserError(checkpoint_damage.none_whole(self.directory, faults))

    def _candidates(self, name: str, steps: list[int]) -> list[int]:
        """Return the steps that `name` may mean, the preferred one first."""
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}; train first, or check --workdir")
        if name == "latest":
            return steps[::-1]
        if name == "best":
            # If all are damaged, take one without validation, but not one that diverged.
            measured = {step: found for step in steps if (found := self._metrics(step))}
            rest = [step for step in steps[::-1] if step not in measured]
            ranked = self.criterion.rank(measured)
            if measured and not ranked:
                raise UserError(
                    f"validation gave no finite {self.criterion.metric!r} for any checkpoint in "
                    f"{self.directory}, so none is the best; there are {steps}: use one of them or "
                    '"latest", or train with a lower config.optimizer.learning_rate'
                )
            return [*ranked, *rest]
        if name.isdigit() and int(name) in steps:
            return [int(name)]
        raise UserError(
            f"no checkpoint {name!r} in {self.directory}; there are {steps}; "
            'use one of them, "best" or "latest"'
        )

    def _metrics(self, step: int) -> dict[str, float]:
        """Return a checkpoint's validation metrics, empty if it is damaged or has none."""
        with contextlib.suppress(OSError, ValueError):
            return checkpoint_damage.read_metrics(self.directory, step)
        return {}

    def record(self, step: int) -> dict[str, Any]:
        """Return the JSON record saved with `step`."""
        return checkpoint_damage.read_record(self.directory, step)

    def restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """Restore `step` in the structure and placement of `like`.

        A `like` without the training part (step, optimizer) restores the model alone.

        Raises:
          CheckpointMismatch: if arrays of the model differ in name or shape.
        """
        model, training = _split(like)
        if differences := Differences.between(self.record(step)["arrays"], shapes_of(model)):
            raise CheckpointMismatch(
                f"checkpoint {step} in {self.directory} holds another architecture:\n"
                f"{differences}\nUse the config it was trained with (config.json in the workdir) "
                "or a new --workdir."
            )
        restored: dict[str, Any] = {}
        with ocp.StandardCheckpointer() as reader:
            for name, tree in (("model", model), ("training", training)):
                if tree:
                    folder = self.directory / str(step) / name
                    restored |= reader.restore(folder, _abstract(tree))
        return restored

    def preempted(self, step: int) -> bool:
        """Return True when the cluster has announced that this job will be stopped."""
        return jax.process_count() > 1 and self._writer.reached_preemption(step)

    def wait(self) -> None:
        """Wait until everything that was started has been written."""
        with self._explained():
            self._writer.wait_until_finished()

    def close(self) -> None:
        """Wait for running saves and free the manager."""
        if self._manager is not None:
            with self._explained():
                self._manager.close()


def _split(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    model = {k: v for k, v in state.items() if k in MODEL_PARTS}
    return model, {k: v for k, v in state.items() if k not in MODEL_PARTS}


def _one_copy(tree: Any) -> Any:
    """Replace replicated arrays by their copy on one device.

    Otherwise Orbax lets every device write a part, cut out by a program that is compiled for each
    shape and device. Processes that save together need the global arrays.
    """
    if jax.process_count() > 1:
        return tree

    def one(x: Any) -> Any:
        replicated = isinstance(x, jax.Array) and x.is_fully_replicated
        return x.addressable_data(0) if replicated else x

    return jax.tree.map(one, tree)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
