"""What a run needs in order to choose a checkpoint by its validation split."""

import logging

import ml_collections

from affect_jax import batches as data_lib
from affect_jax.config import ConfigError
from affect_jax.errors import nearest
from affect_jax.evaluation.evaluator import Evaluator
from affect_jax.systems.base import System
from data_pipelines.schema import Source

log = logging.getLogger(__name__)


def check(
    config: ml_collections.ConfigDict, system: System, evaluator: Evaluator, validation: Source
) -> None:
    """Checks that the validation split can choose a checkpoint.

    Args:
      config: of the run.
      system: what it trains.
      evaluator: measures the split.
      validation: the split.

    Raises:
      ConfigError: nothing is learnt, the split has no label of what is, or
        `checkpoint.best_metric` is not measured on it.
    """
    learnt = system.supervised
    if not learnt:
        raise ConfigError(
            "this run would learn nothing: config.loss has no term for the labels of the "
            f"training data, {', '.join(sorted(system.has)) or 'none'}; see "
            "loss.categories, loss.regression and loss.heatmap_weight"
        )
    there = data_lib.labels_of(validation) & learnt
    if not there:
        raise ConfigError(
            f"the validation split has no labels of {', '.join(sorted(learnt))}, which the run "
            "learns: no checkpoint could be chosen by it. Label it, or take it out of the "
            "split column: config.data.validation_fraction of the training persons are then "
            "held out instead"
        )
    best = config.checkpoint.best_metric
    names = evaluator.metric_names(there)
    if best not in names:
        raise ConfigError(
            f"config.checkpoint.best_metric = {best!r} is not measured on the validation split "
            f"of these data ({', '.join(sorted(there))}); {nearest(best, names)}"
        )
    if there != learnt and best == "loss":
        log.warning(
            "the validation split has no labels of %s: the loss that chooses the checkpoint "
            "leaves them out",
            ", ".join(sorted(learnt - there)),
        )
