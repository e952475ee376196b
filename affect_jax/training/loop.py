"""The training loop: `train_and_evaluate(config, workdir)`.

Order of initialisation: the workdir's own newest checkpoint, else `config.init_from`, else
scratch. Batches, augmentation, dropout and shake-shake weights are pure functions of
(seed, step), so a resumed run repeats an uninterrupted one bit for bit.
"""

import contextlib
import dataclasses
import logging
import math
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, runtime, systems
from affect_jax.errors import UserError
from affect_jax.evaluation import validity
from affect_jax.evaluation.evaluator import Evaluation, Evaluator, tracks_to_smooth
from affect_jax.models.state import take_apart
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import AXIS
from affect_jax.systems.base import System
from affect_jax.training import best_checkpoint, final_test, mixing, run_lock
from affect_jax.training import step as step_lib
from affect_jax.training.stopping import Stopped, StopSignals
from affect_jax.weights.checkpoints import MODEL_PARTS, Checkpointer
from affect_jax.weights.init_from import initialise_from
from affect_jax.weights.teacher import load_teacher
from data_pipelines.sources.cache import DataCache

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss is no longer a finite number."""


@dataclasses.dataclass
class Result:
    """What a finished run returns: the best state on the devices and the test metrics."""

    state: dict[str, Any]
    metrics: dict[str, float]
    evaluation: Evaluation | None = None


def _count_steps(config: ml_collections.ConfigDict, steps_per_epoch: int) -> int:
    total = config.num_steps
    if total is None:
        total = math.ceil(config.num_epochs * steps_per_epoch)
    if total < 1:
        raise config_lib.ConfigError(
            f"the run has {total} steps; set config.num_steps or config.num_epochs above 0"
        )
    return int(total)


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    show_test: bool = True,
    cache: DataCache | None = None,
) -> Result:
    """Trains, selects the best checkpoint on the validation persons, reads the test split once.

    Args:
      config: see `configs/base.py`.
      workdir: folder of the run; an interrupted run in it is resumed.
      show_test: print the test figures, which are written in any case.
      cache: shares sources and decoded images with other runs.

    Returns:
      The selected state and its test metrics.

    Raises:
      UserError: if config, data or workdir cannot work together.
      Stopped: after SIGINT or SIGTERM, with everything saved.
    """
    workdir = pathlib.Path(workdir)
    config_lib.check(config)
    mapper = parallel.Mapper(config.parallel.mapping)
    parallel.check_batch_size(config.batch_size)
    parallel.check_batch_size(config.eval.batch_size or config.batch_size, "eval.batch_size")
    mixing.check(config.mixing, config.batch_size)
    sources = data_lib.make_sources(config, cache)
    parallel.from_main(lambda: config_lib.check_workdir(workdir, config))
    data = data_record.compare(workdir, sources, accept=config.data.accept_changed)
    for split, source in sources.items():
        if not len(source):
            raise config_lib.ConfigError(
                f"the {split} split is empty; change config.data.validation_fraction, folds or "
                "test_fold, or the split column"
            )
    system = systems.for_source(config, sources["train"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_lock.held(workdir))
        parallel.from_main(lambda: config_lib.claim_workdir(workdir, config))
        data.begin()
        set_compilation_cache(config, workdir)
        checkpointer = Checkpointer(
            workdir,
            keep=config.checkpoint.keep,
            best_metric=config.checkpoint.best_metric,
            best_mode=config.checkpoint.best_mode,
        )
        stack.callback(checkpointer.close)
        run = _Run(config, workdir, mapper, sources, data, system, checkpointer, show_test, cache)
        return run.run()


def set_compilation_cache(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Keeps compiled programs where the config says, unless JAX was told another place before."""
    folder = config.compilation_cache or str((workdir / ".jax_cache").absolute())
    if folder != "off" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", folder)


class _Run:
    """One call of `train_and_evaluate`."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        mapper: parallel.Mapper,
        sources: dict[str, Any],
        data: data_record.Compared,
        system: System,
        checkpointer: Checkpointer,
        show_test: bool,
        cache: DataCache | None,
    ):
        self.config, self.workdir, self.mapper = config, workdir, mapper
        self.sources, self.system, self.checkpointer = sources, system, checkpointer
        self.data, self.show_test, self.cache = data, show_test, cache
        self.model = system.create_model(nnx.Rngs(config.seed), AXIS)
        self.teacher = None
        if config.loss.teacher:
            self.teacher = load_teacher(
                config.loss.teacher,
                mapper,
                tuple(sources["train"].class_names),
                system.supervised,
            )
        self.start = parallel.from_main(checkpointer.latest_step) or 0
        with data_lib.train_batches(config, sources["train"], self.start) as batches:
            self.steps_per_epoch = max(round(batches.steps_per_epoch), 1)
        self.total = _count_steps(config, self.steps_per_epoch)
        self.eval_every = config.eval_every or self.steps_per_epoch
        self.phases = step_lib.Phases(
            system, self.model, mapper, self.total, self.steps_per_epoch, self.teacher
        )
        # Every class counts in the selection: few validation persons show the rare ones.
        self.evaluator = Evaluator(system, mapper, take_apart(self.model)[0])
        best_checkpoint.check(config, system, self.evaluator, sources["validation"])
        self.tracks = tracks_to_smooth(config, sources["test"])
        self.is_main = parallel.is_main_process()
        self.batches: Any = None

    def initial_state(self) -> dict[str, Any]:
        """State of the newest checkpoint, or fresh."""
        if not self.start and self.config.init_from:
            initialise_from(
                self.model,
                self.config.init_from,
                self.config.init_allow,
                self.mapper,
                self.system.class_names,
            )
        _, params, stats = take_apart(self.model)
        state = {"step": jnp.asarray(self.start, jnp.int32), "params": params, "stats": stats}
        if self.config.ema_decay:
            state["ema"] = {"params": params, "stats": stats}
        phase = self.phases.at(max(self.start - 1, 0))
        optimizer, _ = self.phases.optimizer(phase, params)
        state["opt"] = optimizer.init(self.phases.trained(phase, params))
        state = self.mapper.replicate(state)
        if self.start:
            restored = self.checkpointer.restore(self.start, self.mapper.to_global(state))
            state = self.mapper.from_global(restored)
            log.info("resumed from step %d of %s", self.start, self.workdir)
        return state

    def run(self) -> Result:
        """Trains to the end (or until stopped), then tests."""
        total_parameters = sum(np.size(p) for p in take_apart(self.model)[1].values())
        train = self.sources["train"]
        log.info(
            "%s with %s parameters; %d training, %d validation, %d test images; "
            "%d steps of %d images on %d device(s)",
            self.config.model.name,
            f"{total_parameters:,}",
            len(train),
            len(self.sources["validation"]),
            len(self.sources["test"]),
            self.total,
            self.config.batch_size,
            len(self.mapper.devices),
        )
        state = self.initial_state()
        if parallel.any_process(self.is_main and final_test.is_finished(self.workdir, self.total)):
            metrics = final_test.repeat(self.config, self.workdir, self.show_test)
            return Result(self._restore_best(state)[1], metrics)
        self.data.go_on()
        with (
            runtime.MetricWriter(
                self.workdir,
                is_main=self.is_main,
                resume_step=self.start if self.start else None,
            ) as writer,
            contextlib.ExitStack() as self.open_pipelines,
        ):
            self.validation = self.open_pipelines.enter_context(
                data_lib.eval_batches(self.config, self.sources["validation"], self.cache)
            )
            if self.start < self.total:
                with runtime.Progress(self.total, self.start, self.is_main) as progress:
                    state = self.train(state, writer, progress)
            return self.finish(state, writer)

    def _restore_best(self, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        best = self.checkpointer.resolve("best")
        model = self.mapper.to_global({k: state[k] for k in MODEL_PARTS if k in state})
        return best, self.mapper.from_global(self.checkpointer.restore(best, model))

    def train(
        self, state: dict[str, Any], writer: runtime.MetricWriter, progress: runtime.Progress
    ) -> dict[str, Any]:
        """The loop."""
        config = self.config
        throughput = runtime.Throughput(config.batch_size)
        teacher_arrays = {} if self.teacher is None else self.teacher.arrays
        phase = self.phases.at(max(self.start - 1, 0))
        stream = self._stream(phase.synthetic, self.start)
        optimizer, schedule = self.phases.optimizer(phase, state["params"])
        train_step = self.phases.compiled(phase, optimizer)
        with StopSignals().installed() as stop:
            for step in range(self.start, self.total):
                if (entered := self.phases.at(step)) != phase:
                    if entered.synthetic != phase.synthetic:
                        stream = self._stream(entered.synthetic, step)
                    phase = entered
                    log.info("step %d: %s", step, phase.name)
                    optimizer, schedule = self.phases.optimizer(phase, state["params"])
                    trained = self.phases.trained(phase, state["params"])
                    # Training consumes its state, so the fresh one must share no buffer with it.
                    state["opt"] = self.mapper.replicate(optimizer.init(trained))
                    train_step = self.phases.compiled(phase, optimizer)
                with throughput.waiting():
                    _, batch = next(stream)
                state, terms = train_step(state, batch, teacher_arrays)
                throughput.step()
                done = step + 1
                if not phase.synthetic:
                    self._write_epoch(writer, step)
                last = done == self.total
                # While other data train the trunk alone there is nothing to select by.
                evaluate = (done % self.eval_every == 0 and not phase.synthetic) or last
                stopping = self._stop_requested(stop, done)
                save = done % config.checkpoint.every == 0 or evaluate or stopping
                if done % config.log_every == 0 or save:
                    row = self._fetch(terms, done)
                    if done % config.log_every == 0 or last:
                        row |= throughput.snapshot()
                        row["learning_rate"] = float(schedule(step - phase.start)) * row.get(
                            "learning_rate_scale", 1.0
                        )
                        row["epoch"] = done / self.steps_per_epoch
                        writer.write(done, "train", row, about={"stage": phase.name})
                    progress.update(
                        done, loss=row["loss"], images_per_second=row.get("images_per_second")
                    )
                metrics = None
                with throughput.paused():
                    if evaluate:
                        metrics = self._validate(state, done, writer, progress)
                    if save:
                        whole = self.mapper.to_global(state)
                        self.checkpointer.save(done, whole, record=self._record(), metrics=metrics)
                    if stopping:
                        self.checkpointer.wait()
                        raise Stopped(done, stop.received or signal.SIGTERM)
            # One that came during the last validation: in a sweep other runs would follow.
            if parallel.any_process(stop.received is not None):
                self.checkpointer.wait()
                raise Stopped(self.total, stop.received or signal.SIGTERM)
        return state

    def _stream(self, synthetic: bool, step: int) -> Iterator[tuple[dict, dict]]:
        """Batches from `step` on, own or synthetic; the pipeline of the others is closed."""
        if self.batches is not None:
            self.batches.close()
        source = self.sources["train"]
        if synthetic:
            source = data_lib.synthetic_training_source(self.config, self.cache)
        self.batches = self.open_pipelines.enter_context(
            data_lib.train_batches(self.config, source, step, self.cache)
        )
        return self.mapper.prefetch(self.batches)

    def _write_epoch(self, writer: runtime.MetricWriter, step: int) -> None:
        """A row with the class counts of the epoch that step `step` begins, if it begins one."""
        if starting := self.batches.epoch_starting(step):
            epoch, examples, records = starting
            row = {f"examples_{name}": n for name, n in examples.items()}
            row |= {f"pictures_{name}": n for name, n in records.items()}
            writer.write(step + 1, "epoch", {"epoch": epoch, **row})

    def _record(self) -> dict[str, Any]:
        train = self.sources["train"]
        return {
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "class_names": list(train.class_names),
            "has": sorted(train.has),
            "class_counts": list(self.system.class_counts),
        }

    def _stop_requested(self, stop: StopSignals, step: int) -> bool:
        if jax.process_count() == 1:
            return stop.received is not None
        if self.checkpointer.preempted(step):
            return True
        # Agreeing costs a collective, so processes compare notes only now and then.
        return step % self.config.log_every == 0 and parallel.any_process(stop.received is not None)

    def _fetch(self, terms: dict[str, jax.Array], step: int) -> dict[str, float]:
        row = {k: float(v) for k, v in jax.device_get(terms).items()}
        if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
            raise Diverged(
                f"step {step}: loss {row['loss']}, gradient norm {row['gradient_norm']}. Lower "
                "config.optimizer.learning_rate or set config.optimizer.clip_norm; the last "
                f"checkpoint in {self.checkpointer.directory} is from before"
            )
        return row

    def _validate(
        self,
        state: dict[str, Any],
        step: int,
        writer: runtime.MetricWriter,
        progress: runtime.Progress,
    ) -> dict[str, float]:
        progress.status("validation")
        metrics = self.evaluator.run(state, self.validation).metrics
        writer.write(step, "validation", metrics)
        shown = ("loss", "accuracy", "f1_macro", "valence_ccc", "arousal_ccc", "nme")
        progress.log(
            f"step {step}: validation "
            + "  ".join(f"{k} {metrics[k]:.3f}" for k in shown if k in metrics)
        )
        best = self.config.checkpoint.best_metric
        if validity.COUNT in metrics:  # not to be selected, however good the others
            metrics = {**metrics, best: math.nan}
        if not math.isfinite(metrics.get(best, math.nan)):
            log.warning("step %d: no finite %s: this checkpoint cannot be chosen", step, best)
        return metrics

    def finish(self, state: dict[str, Any], writer: runtime.MetricWriter) -> Result:
        """Tests the selected checkpoint once, writes the last row and the report."""
        self.open_pipelines.close()
        self.checkpointer.wait()
        best, state = self._restore_best(state)
        evaluator = Evaluator(
            self.system,
            self.mapper,
            take_apart(self.model)[0],
            flip=self.config.eval.flip,
            min_count=self.config.eval.min_count,
        )
        evaluation = final_test.run(
            self.config,
            self.workdir,
            evaluator,
            state,
            self.sources,
            writer,
            at=(self.total, best),
            tracks=self.tracks,
            show_test=self.show_test,
            cache=self.cache,
        )
        return Result(state, evaluation.metrics, evaluation)
