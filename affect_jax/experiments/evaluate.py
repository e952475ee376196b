"""`--mode=eval`: evaluation of a run or, without training, of a model directory."""

import pathlib

import ml_collections

from affect_jax import config as config_lib
from affect_jax.config import ConfigError
from affect_jax.evaluation.evaluator import Evaluation
from affect_jax.experiments import evaluate_model, evaluate_run
from affect_jax.weights import load_run

_RESULTS = pathlib.Path("runs")


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None) -> Evaluation:
    """Evaluate the run in `workdir`, or without one the model `config.init_from`.

    Raises:
      UserError: there is neither, both are meant, or it does not fit the data.
    """
    if workdir is not None and load_run.is_workdir(workdir):
        began = config_lib.read_workdir_config(workdir).init_from
        if config.init_from and config.init_from != began:
            raise ConfigError(
                f"config.init_from = {config.init_from!r}, but {workdir} holds a run, whose own "
                "checkpoints are evaluated; name another --workdir for the results of that model"
            )
        return evaluate_run.evaluate_workdir(config, workdir)
    if not config.init_from:
        where = "no --workdir is given"
        if workdir is not None:
            where = f"{workdir} holds no run: it has no {config_lib.CONFIG_FILE}"
        raise ConfigError(
            f"{where}; give --workdir of a finished run, or a model directory as --config.init_from"
        )
    path = pathlib.Path(config.init_from)
    results = workdir or _RESULTS / f"eval_{path.resolve().name}"
    return evaluate_model.evaluate_model(config, path, results)
