"""Checks of the metric by which the best checkpoint of a run is chosen.

A checkpoint is saved after every validation pass, with the figures of that pass. The best one has
the highest or lowest `config.checkpoint.best_metric`; `weights.best_checkpoint` compares them. The
default, `loss`, sums the figures of all labels that the run learns; see `evaluator.with_loss`. The
best checkpoint is always kept, and it is the one that is tested.
"""

import logging
import math
from typing import Any

import ml_collections

from affect_jax import batches as data_lib
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.evaluation import validity
from affect_jax.evaluation.evaluator import Evaluator
from affect_jax.runtime.parallel import Mapper
from affect_jax.systems.base import System
from affect_jax.weights.checkpoints import MODEL_PARTS, Checkpointer
from data_pipelines.schema import Source

log = logging.getLogger(__name__)


def check(
    config: ml_collections.ConfigDict, system: System, evaluator: Evaluator, validation: Source
) -> None:
    """Check, before training, that the validation split can choose a checkpoint.

    Raises:
      ConfigError: nothing is learnt, the split has no label of it, or `checkpoint.best_metric` is
        not measured on the split.
    """
    learnt = system.supervised
    if not learnt:
        raise ConfigError(
            "this run would learn nothing: config.loss has no term for the labels of the "
            f"training data, {', '.join(sorted(system.has)) or 'none'}; see "
            "loss.categories, loss.regression and loss.heatmap_weight"
        )
    labels = data_lib.labels_of(validation) & learnt
    if not labels:
        raise ConfigError(
            f"the validation split has no labels of {', '.join(sorted(learnt))}, which the run "
            "learns, so it cannot choose a checkpoint. Label it, or remove it from the split "
            "column: config.data.validation_fraction of the training persons then replaces it"
        )
    best = config.checkpoint.best_metric
    names = evaluator.metric_names(labels | ({"expression_probs"} & validation.has))
    if best not in names:
        raise ConfigError(
            f"config.checkpoint.best_metric = {best!r} is not measured on the validation split "
            f"of these data ({', '.join(sorted(labels))}); {nearest(best, names)}"
        )
    if labels != learnt and best == "loss":
        log.warning(
            "the validation split has no labels of %s: they do not count when the checkpoint is "
            "chosen",
            ", ".join(sorted(learnt - labels)),
        )


def figures_to_save(metrics: dict[str, float], best_metric: str, step: int) -> dict[str, float]:
    """Return the figures of a checkpoint; NaN `best_metric`: never the best.

    `best_metric` is NaN if the checkpoint must not be chosen.

    A checkpoint must not be chosen if predictions are not finite, even if its other metrics are
    good.
    """
    if validity.COUNT in metrics:
        metrics = {**metrics, best_metric: math.nan}
    if not math.isfinite(metrics.get(best_metric, math.nan)):
        log.warning(
            "step %d: %s is not finite, so this checkpoint cannot be chosen", step, best_metric
        )
    return metrics


def restore(
    checkpointer: Checkpointer, mapper: Mapper, state: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Return step and model of the best checkpoint, in the structure of `state`."""
    step = checkpointer.resolve("best")
    like = mapper.to_global({k: state[k] for k in MODEL_PARTS if k in state})
    return step, mapper.from_global(checkpointer.restore(step, like))
