"""`--mode=eval`: evaluation of a run or, without training, of a model directory."""

import pathlib

import ml_collections

from affect_jax import config as config_lib
from affect_jax.config import ConfigError
from affect_jax.evaluation.evaluator import Evaluation
from affect_jax.experiments import evaluate_model, evaluate_run, extract_features
from affect_jax.runtime.parallel import Mapper
from affect_jax.weights import load_run

_RESULTS = pathlib.Path("runs")


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None) -> Evaluation:
    """Evaluate the run in `workdir`, or without one the model `config.init_from`.

    Raises:
      UserError: there is neither, both are meant, or it does not fit the data.
    """
    path, is_run = _find(config, workdir)
    if is_run:
        return evaluate_run.evaluate_workdir(config, path)
    return evaluate_model.evaluate_model(
        config, path, workdir or _RESULTS / f"eval_{path.resolve().name}"
    )


def extract(config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None) -> pathlib.Path:
    """Write the features that this model gives of `config.data` to `config.eval.features`.

    Raises:
      UserError: as `evaluate` and `extract_features.write_features`.
    """
    path, is_run = _find(config, workdir)
    mapper = Mapper(config.parallel.mapping)
    if is_run:
        loaded = evaluate_run.open_run(config, path, mapper)
    else:
        loaded = evaluate_model.open_model(config, path, mapper)
    made_by = {"model": str(path), "name": loaded.config.model.name, "checkpoint": loaded.step}
    return extract_features.write_features(loaded, mapper, made_by)


def _find(
    config: ml_collections.ConfigDict, workdir: str | pathlib.Path | None
) -> tuple[pathlib.Path, bool]:
    """Return the folder of the model, and whether it is a run."""
    if workdir is not None and load_run.is_workdir(workdir):
        began = config_lib.read_workdir_config(workdir).init_from
        if config.init_from and config.init_from != began:
            raise ConfigError(
                f"config.init_from = {config.init_from!r}, but {workdir} holds a run, whose own "
                "checkpoints are evaluated; name another --workdir for the results of that model"
            )
        return pathlib.Path(workdir), True
    if not config.init_from:
        where = "no --workdir is given"
        if workdir is not None:
            where = f"{workdir} holds no run: it has no {config_lib.CONFIG_FILE}"
        raise ConfigError(
            f"{where}; give --workdir of a finished run, or a model directory as --config.init_from"
        )
    return pathlib.Path(config.init_from), False
