"""The training loop: `train_and_evaluate(config, workdir)`.

Order of initialisation: the workdir's own newest checkpoint, else `config.init_from`, else
scratch. Batches, augmentation, dropout and shake-shake weights are pure functions of
(seed, step), so a resumed run repeats an uninterrupted one bit for bit.
"""

import contextlib
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from affect_jax import batches as data_lib
from affect_jax import config as config_lib
from affect_jax import data_record, runtime, systems
from affect_jax.errors import UserError
from affect_jax.runtime import parallel
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import Phase
from affect_jax.training import bank, best_metric, final_test, run_lock, setup
from affect_jax.training.final_test import Results
from affect_jax.training.setup import RunParts, set_compilation_cache
from affect_jax.training.step import PhaseStep
from affect_jax.training.stopping import Stopped, StopSignals
from data_pipelines.loading.pipeline import Pipeline
from data_pipelines.sources.cache import DataCache

__all__ = ["Diverged", "Results", "Stopped", "set_compilation_cache", "train_and_evaluate"]

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss is not finite."""


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    cache: DataCache | None = None,
) -> Results:
    """Train, choose the best checkpoint on the validation persons, test it once.

    Args:
      config: see `configs/base.py`.
      workdir: folder of the run; an interrupted run in it is resumed, a finished one is read.
      cache: shares sources and decoded images with other runs.

    Raises:
      UserError: config, data and workdir cannot work together, or the run diverged.
      Stopped: after SIGINT or SIGTERM, with everything saved.
    """
    workdir = pathlib.Path(workdir)
    setup.check_config(config)
    mapper = Mapper(config.parallel.mapping)
    sources = data_lib.make_sources(config, cache)
    parallel.from_main(lambda: config_lib.check_workdir(workdir, config))
    data = data_record.compare(workdir, sources, accept=config.data.accept_changed)
    setup.check_splits(sources)
    system = systems.for_source(config, sources["train"])
    with run_lock.held(workdir):
        parallel.from_main(lambda: config_lib.claim_workdir(workdir, config))
        data.begin()
        set_compilation_cache(config, workdir)
        with contextlib.closing(setup.open_checkpointer(config, workdir)) as checkpointer:
            run = setup.put_together(config, workdir, mapper, sources, system, checkpointer, cache)
            state, begun = setup.initial_state(run)
            is_main = parallel.is_main_process()
            if parallel.any_process(is_main and final_test.is_finished(workdir, run.total)):
                log.info("%s is finished; nothing is left to do", workdir)
                return final_test.read(run, *best_metric.restore(checkpointer, mapper, state))
            data.go_on()
            resume_step = run.start or None
            with runtime.MetricWriter(workdir, is_main=is_main, resume_step=resume_step) as writer:
                if run.start < run.total:
                    state = _train(run, state, begun, writer)
                checkpointer.wait()
                best, state = best_metric.restore(checkpointer, mapper, state)
                return final_test.test(run, best, state, writer)


def _train(
    run: RunParts, state: dict[str, Any], begun: PhaseStep, writer: runtime.MetricWriter
) -> dict[str, Any]:
    """Train from `run.start` to `run.total`; return the last state.

    `begun` is the phase that `state` was left in.
    """
    config, checkpointer = run.config, run.checkpointer
    eval_every = config.eval_every or run.steps_per_epoch
    throughput = runtime.Throughput(config.batch_size)
    compared = bank.for_run(config, run.sources["train"], run.evaluator, run.cache)
    with (
        data_lib.eval_batches(config, run.sources["validation"], run.cache) as validation,
        contextlib.ExitStack() as open_pipeline,
        runtime.Progress(run.total, run.start, parallel.is_main_process()) as progress,
        StopSignals().installed() as stop,
    ):
        for step in range(run.start, run.total):
            phase = run.phases.at(step)
            if step == run.start or phase.synthetic != begun.phase.synthetic:
                open_pipeline.close()
                pipeline = open_pipeline.enter_context(_training_batches(run, phase, step))
                batches = run.mapper.prefetch(pipeline)
            if phase != begun.phase:
                log.info("step %d: %s", step, phase.name)
                begun = run.phases.begin(phase)
                # A step consumes its state: the new part must share no buffer with the rest.
                state["opt"] = run.mapper.replicate(begun.init(jax.device_get(state["params"])))
            with throughput.waiting():
                _, batch = next(batches)
            state, terms = begun.run(state, batch)
            throughput.step()

            done = step + 1
            last = done == run.total
            # While the trunk alone is trained, on other data, no metric can choose a checkpoint.
            validate = last or (done % eval_every == 0 and not phase.synthetic)
            stopping = checkpointer.preempted(done) or stop.requested(done, config.log_every)
            save = validate or stopping or done % config.checkpoint.every == 0
            log_row = last or done % config.log_every == 0

            if not phase.synthetic:
                _write_epoch(pipeline, step, writer)
            if log_row or save:
                row = _fetch(terms, done, checkpointer.directory)
                if log_row:
                    row |= throughput.snapshot()
                    rate = float(begun.schedule(step - phase.start))
                    row["learning_rate"] = rate * row.get("learning_rate_scale", 1.0)
                    row["epoch"] = done / run.steps_per_epoch
                    writer.write(done, "train", row, about={"stage": phase.name})
                progress.update(
                    done, loss=row["loss"], images_per_second=row.get("images_per_second")
                )
            with throughput.paused():
                metrics = None
                if save:
                    state = bank.refreshed(state, compared, run.evaluator, run.mapper)
                if validate:
                    progress.status("validation")
                    metrics = run.evaluator.run(state, validation).metrics
                    writer.write(done, "validation", metrics)
                    progress.log(_shown(done, metrics))
                    metrics = best_metric.figures_to_save(
                        metrics, config.checkpoint.best_metric, done
                    )
                if save:
                    whole = run.mapper.to_global(state)
                    checkpointer.save(done, whole, record=_record(run), metrics=metrics)
                # A signal may have come during the last validation.
                if stopping or (last and stop.requested(done, every=1)):
                    checkpointer.wait()
                    raise stop.stopped(done)
    return state


def _training_batches(run: RunParts, phase: Phase, step: int) -> Pipeline:
    """Return the batches of `phase` from `step` on."""
    source = run.sources["train"]
    if phase.synthetic:
        source = data_lib.synthetic_training_source(run.config, run.cache)
    return data_lib.train_batches(run.config, source, step, run.cache)


def _write_epoch(pipeline: Pipeline, step: int, writer: runtime.MetricWriter) -> None:
    """Write the class counts of an epoch, if `step` begins one."""
    if starting := pipeline.epoch_starting(step):
        epoch, examples, records = starting
        row = {f"examples_{name}": n for name, n in examples.items()}
        row |= {f"pictures_{name}": n for name, n in records.items()}
        writer.write(step + 1, "epoch", {"epoch": epoch, **row})


def _fetch(
    terms: Mapping[str, jax.Array], step: int, checkpoints: pathlib.Path
) -> dict[str, float]:
    """Return the terms of the loss as numbers; raise Diverged if not finite."""
    row = {k: float(v) for k, v in jax.device_get(terms).items()}
    if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
        raise Diverged(
            f"step {step}: loss {row['loss']}, gradient norm {row['gradient_norm']}. Lower "
            "config.optimizer.learning_rate or set config.optimizer.clip_norm; the last "
            f"checkpoint in {checkpoints} is from before"
        )
    return row


def _shown(step: int, metrics: Mapping[str, float]) -> str:
    names = ("loss", "accuracy", "f1_macro", "valence_ccc", "arousal_ccc", "nme")
    figures = "  ".join(f"{k} {metrics[k]:.3f}" for k in names if k in metrics)
    return f"step {step}: validation {figures}"


def _record(run: RunParts) -> dict[str, Any]:
    """Return what a checkpoint says of its run."""
    train, hierarchy = run.sources["train"], run.system.hierarchy
    return {
        "seed": run.config.seed,
        "batch_size": run.config.batch_size,
        "class_names": list(train.class_names),
        "hierarchy": None if hierarchy is None else hierarchy.to_plain(),
        "has": sorted(train.has),
        "class_counts": list(run.system.labels.class_counts),
        "labels": run.labels,
        "n_features": run.system.labels.n_features,
        "phases": {phase.name: phase.start for phase in run.phases.all},
    }
